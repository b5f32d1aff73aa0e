"""Check that the Neuron devices are there and free."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from compile_job.errors import StepError
from compile_job.processes import run_quietly

__all__ = ["check_devices", "list_devices"]

_NAME = re.compile(r"neuron(\d+)")
_NEURON_LS = "/opt/aws/neuron/bin/neuron-ls"


def list_devices(folder: Path = Path("/dev")) -> list[Path]:
    """Return the Neuron devices in the order of their numbers."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def check_devices(expected: int, *, folder: Path = Path("/dev")) -> dict[str, object]:
    """Check that as many devices are there as the instance type has, and that nobody else uses them.

    Raises
    ------
    StepError
        With what is missing or who holds the devices.
    """
    found = list_devices(folder)
    if len(found) < expected:
        message = (
            f"{len(found)} Neuron devices under {folder}, expected {expected}: check that the instance type is the "
            "planned one, that the AMI is a Neuron AMI and that the driver is loaded (modinfo neuron)"
        )
        raise StepError(message)
    holders = _holders()
    if holders:
        message = f"the Neuron devices are held by process {', '.join(holders)}: end it, or use a fresh host"
        raise StepError(message)
    return {"devices": len(found)}


def _holders() -> list[str]:
    """Return the processes that `neuron-ls` names; nothing if the tool is absent or answers otherwise."""
    tool = shutil.which("neuron-ls") or (_NEURON_LS if Path(_NEURON_LS).exists() else None)
    if tool is None:
        return []
    try:
        devices: Any = json.loads("\n".join(run_quietly([tool, "--json-output"]).tail))
        return sorted({str(process["pid"]) for device in devices for process in device.get("neuron_processes") or []})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []
