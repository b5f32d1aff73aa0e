"""Check that the accelerator's devices are there, and say how a container gets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from compile_job.errors import StepError
from compile_job.processes import run_quietly

__all__ = ["check_devices"]

_NEURON_LS = "/opt/aws/neuron/bin/neuron-ls"
_NVIDIA_QUERY = ("--query-gpu=index,name,memory.total", "--format=csv,noheader")
# What LMI's guide gives TensorRT-LLM's partition script: the ranks talk through shared memory, and docker's default is
# 64 MB.
_SHARED_MEMORY = "12gb"
_CHECK_NEURON = (
    "check that the instance type is the planned one, that the AMI is a Neuron AMI and that the driver is loaded "
    "(modinfo neuron)"
)
_CHECK_NVIDIA = (
    "check that the instance type is the planned one, that the AMI has the NVIDIA driver, and what nvidia-smi says"
)


def check_devices(accelerator: str, expected: int) -> list[str]:
    """Count the devices that the planned instance type has, and refuse them where somebody else uses them.

    Returns
    -------
    list[str]
        Options of ``docker run`` that pass all devices on.

    Raises
    ------
    StepError
        With both numbers, or with who holds the devices.
    """
    if accelerator == "neuron":
        return _check_neuron(expected)
    if accelerator == "nvidia":
        return _check_nvidia(expected)
    return []


def _check_neuron(expected: int) -> list[str]:
    tool = shutil.which("neuron-ls") or (_NEURON_LS if Path(_NEURON_LS).exists() else None)
    if tool is None:
        message = f"there is no neuron-ls on this host, neither on the PATH nor as {_NEURON_LS}: use a Neuron AMI"
        raise StepError(message)
    done = run_quietly([tool, "--json-output"])
    found = _neuron_devices("\n".join(done.tail))
    if found is None:
        message = f"neuron-ls ended with status {done.status} and told no devices ({done.last_line}): {_CHECK_NEURON}"
        raise StepError(message)
    if len(found) < expected:
        message = f"{len(found)} Neuron devices on this host, expected {expected}: {_CHECK_NEURON}"
        raise StepError(message)
    holders = sorted(
        {str(process.get("pid", "?")) for device in found for process in device.get("neuron_processes") or []}
    )
    if holders:
        message = f"the Neuron devices are held by process {', '.join(holders)}: end it, or use a fresh host"
        raise StepError(message)
    return [f"--device=/dev/neuron{number}" for number in sorted(int(device["neuron_device"]) for device in found)]


def _neuron_devices(text: str) -> list[dict[str, Any]] | None:
    """Return one object for each device; None when the answer is something else. Warnings may stand before it."""
    try:
        found = json.loads(text[text.index("[") :])
        numbers = [int(device["neuron_device"]) for device in found]
    except (ValueError, TypeError, KeyError):
        return None
    return found if isinstance(found, list) and len(set(numbers)) == len(found) else None


def _check_nvidia(expected: int) -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        message = f"there is no nvidia-smi on this host: {_CHECK_NVIDIA}"
        raise StepError(message)
    done = run_quietly([tool, *_NVIDIA_QUERY])
    found = [line for line in done.tail if line.split(",")[0].strip().isdecimal()] if done.status == 0 else []
    if len(found) < expected:
        said = f" (nvidia-smi ended with status {done.status}: {done.last_line})" if done.status else ""
        message = f"{len(found)} NVIDIA devices on this host, expected {expected}{said}: {_CHECK_NVIDIA}"
        raise StepError(message)
    return ["--gpus", "all", "--shm-size", _SHARED_MEMORY]
