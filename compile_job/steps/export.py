"""Export the model with the engine's own command."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from compile_job.errors import StepError
from compile_job.job import Job
from compile_job.processes import Finished, run
from compile_job.signatures import remedy

from .container import Container
from .devices import list_devices

__all__ = ["export_model"]

_MODEL_TARGET = "/modelzone/weights"
_OUTPUT_TARGET = "/modelzone/output"
_CACHE_TARGET = "/modelzone/cache"


def export_model(job: Job, *, model: Path, output: Path, cache: Path, device_folder: Path = Path("/dev")) -> None:
    """Export into an empty folder; compiled graphs are kept in the cache for a run that comes after an interruption.

    Raises
    ------
    StepError
        With the remedy when it is known.
    """
    # The export refuses a folder of graphs that is there, and leftovers must not get into the artifact.
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    try:
        if job.runner == "process":
            words = {"model": str(model), "output": str(output), "python": sys.executable}
            finished = run(_fill(job.export_command, words))
        else:
            finished = _in_container(job, model=model, output=output, cache=cache, device_folder=device_folder)
    except FileNotFoundError as error:
        message = f"there is no command {error.filename!r}: correct export_command in the job"
        raise StepError(message) from error
    if finished.status:
        message = f"the export ended with status {finished.status}: {remedy(finished.tail) or finished.last_line}"
        raise StepError(message)


def _in_container(job: Job, *, model: Path, output: Path, cache: Path, device_folder: Path) -> Finished:
    container = Container(
        image=job.image,
        name=f"modelzone-export-{job.key}",
        mounts=((model, _MODEL_TARGET), (output.parent, _OUTPUT_TARGET), (cache, _CACHE_TARGET)),
        devices=list_devices(device_folder),
        variables={"NEURON_COMPILE_CACHE_URL": _CACHE_TARGET, "HF_HUB_DISABLE_TELEMETRY": "1"},
    )
    words = {"model": _MODEL_TARGET, "output": f"{_OUTPUT_TARGET}/{output.name}", "python": "python3"}
    return container.run(_fill(job.export_command, words))


def _fill(command: tuple[str, ...], words: Mapping[str, str]) -> list[str]:
    return [words[word[1:-1]] if word.startswith("{") and word[1:-1] in words else word for word in command]
