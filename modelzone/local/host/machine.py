"""Stand-ins for what tells about a machine or ends it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from modelzone.local.host.faults import Faults
from modelzone.local.host.world import HostWorld

if TYPE_CHECKING:
    from modelzone.hardware import Instance

__all__ = ["TOOLS", "devices_of"]

_MIB = 1024**2
# A minute's delay of `shutdown` is a second here.
_SECONDS_OF_A_MINUTE = 1.0


def _instance(name: str) -> Instance | None:
    # Not every tool asks for it, and the tables take a moment to load.
    from modelzone.hardware import find_instance  # noqa: PLC0415

    return find_instance(name)


def devices_of(instance_type: str, *, kind: str) -> int:
    """Accelerators of a kind (``neuron`` or ``gpu``) that a host of this type shows."""
    instance = _instance(instance_type)
    if instance is None or instance.accelerator.kind != kind:
        return 0
    given = Faults.of_host().devices
    return instance.accelerators if given is None else given


def neuron_ls(arguments: list[str]) -> int:
    """``neuron-ls [--json-output]``."""
    world = HostWorld.current()
    count = devices_of(world.instance_type, kind="neuron")
    if not count:
        sys.stderr.write(
            "neuron-ls: No neuron device found. Is the neuron driver loaded? (aws-neuronx-dkms)\n"
            "Failed to discover neuron devices\n"
        )
        return 1
    instance = _instance(world.instance_type)
    assert instance is not None  # noqa: S101 - it has devices
    rows = [
        {
            "neuron_device": number,
            "bdf": f"00:{number + 16:02x}.0",
            "connected_to": [other for other in (number - 1, number + 1) if 0 <= other < count] or None,
            "nc_count": instance.accelerator.cores,
            "memory_size": instance.accelerator.memory_bytes,
            "neuron_processes": [],
        }
        for number in range(count)
    ]
    if {"--json-output", "-j"} & set(arguments):
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        sys.stdout.write(f"instance-type: {world.instance_type}\n")
        sys.stdout.write("".join(f"device {row['neuron_device']}: {row['nc_count']} cores\n" for row in rows))
    return 0


def nvidia_smi(arguments: list[str]) -> int:
    """``nvidia-smi --query-gpu=... --format=csv,noheader``."""
    world = HostWorld.current()
    count = devices_of(world.instance_type, kind="gpu")
    if not count:
        sys.stdout.write("No devices were found\n")
        return 6
    instance = _instance(world.instance_type)
    assert instance is not None  # noqa: S101 - it has devices
    query = next((word.partition("=")[2] for word in arguments if word.startswith("--query-gpu=")), "")
    known = {
        "name": f"NVIDIA {instance.accelerator.name}",
        "memory.total": f"{instance.accelerator.memory_bytes // _MIB} MiB",
        "memory.used": "0 MiB",
        "driver_version": "570.133.20",
        "compute_cap": instance.accelerator.compute_capability or "",
    }
    for number in range(count):
        values = {**known, "index": str(number), "uuid": f"GPU-{number:08d}"}
        fields = [values.get(name.strip(), "[N/A]") for name in query.split(",")] if query else [str(number)]
        sys.stdout.write(", ".join(fields) + "\n")
    return 0


def shutdown(arguments: list[str]) -> int:
    """``shutdown [-P|-h] [now|+MINUTES] [MESSAGE]``; ``-c`` takes it back."""
    world = HostWorld.current()
    if "-c" in arguments:
        world.post(f"hosts/{world.instance_id}/power-off", {"seconds": None})
        return 0
    when = next((word for word in arguments if word == "now" or word.startswith("+")), "+1")
    minutes = 0 if when == "now" else int(when[1:])
    world.post(f"hosts/{world.instance_id}/power-off", {"seconds": minutes * _SECONDS_OF_A_MINUTE})
    sys.stderr.write(f"Shutdown scheduled ({when}), use 'shutdown -c' to cancel.\n")
    return 0


def systemctl(arguments: list[str]) -> int:
    """``systemctl poweroff`` ends the instance; there are no units, so everything else only succeeds."""
    if "poweroff" in arguments or "halt" in arguments:
        return shutdown(["now"])
    return 0


TOOLS: dict[str, Callable[[list[str]], int]] = {
    "neuron-ls": neuron_ls,
    "nvidia-smi": nvidia_smi,
    "shutdown": shutdown,
    "systemctl": systemctl,
}
