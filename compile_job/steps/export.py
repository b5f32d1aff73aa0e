"""Export the model with the engine's own command."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from compile_job import placeholders, properties
from compile_job.errors import StepError
from compile_job.job import Job
from compile_job.processes import Finished
from compile_job.signatures import remedy

from .container import Container

__all__ = ["Folders", "export_model"]

_MODEL_TARGET = "/modelzone/weights"
_OUTPUT_TARGET = "/modelzone/output"
_CACHE_TARGET = "/modelzone/cache"
_PROPERTIES_TARGET = "/modelzone/properties"
_PYTHON = "python3"
# A local path must be really local: what is not in the snapshot is missing, and must not be fetched on the quiet.
_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_KILLED = {-signal.SIGKILL, 128 + signal.SIGKILL}


class Folders:
    """Where a job works. Weights are shared by all jobs for the same revision, the rest is its own."""

    def __init__(self, job: Job) -> None:
        self.weights = job.work_dir / "weights" / job.weights.slug / job.weights.revision
        self.cache = job.work_dir / "cache" / job.key
        self.output = job.work_dir / "output" / job.key
        self.properties = job.work_dir / "properties" / job.key

    @property
    def all(self) -> list[Path]:
        """All of them."""
        return [self.weights, self.cache, self.output, self.properties]


def export_model(
    job: Job, folders: Folders, *, image: str, options: Sequence[str], check: Callable[[], None] | None = None
) -> None:
    """Export into an empty folder; compiled graphs are kept in the cache for a run that comes after an interruption.

    Parameters
    ----------
    options
        For `docker run`: the accelerator's devices.

    Raises
    ------
    StepError
        With the remedy when it is known.
    """
    # The export refuses a folder of graphs that is there, and leftovers must not get into the artifact.
    shutil.rmtree(folders.output, ignore_errors=True)
    for folder in (folders.output.parent, folders.cache, folders.properties):
        folder.mkdir(parents=True, exist_ok=True)
    paths = {
        "model": _MODEL_TARGET,
        "output": f"{_OUTPUT_TARGET}/{folders.output.name}",
        "properties": _PROPERTIES_TARGET,
        "python": _PYTHON,
    }
    values = {name: placeholders.filled(value, paths=paths, facts=job.facts) for name, value in job.properties.items()}
    (folders.properties / properties.FILE_NAME).write_text(properties.render(values), encoding="ascii")
    variables = dict(_VARIABLES)
    if job.accelerator == "neuron":
        variables["NEURON_COMPILE_CACHE_URL"] = _CACHE_TARGET
    container = Container(
        image=image,
        name=f"modelzone-export-{job.key}",
        mounts=(
            (folders.weights, _MODEL_TARGET),
            (folders.output.parent, _OUTPUT_TARGET),
            (folders.cache, _CACHE_TARGET),
            (folders.properties, _PROPERTIES_TARGET),
        ),
        options=options,
        variables=variables,
        check=check,
    )
    command = [placeholders.filled(word, paths=paths, facts=job.facts) for word in job.export_command]
    finished = container.run(command)
    if finished.status:
        message = f"the export ended with status {finished.status}: {_why(finished)}"
        raise StepError(message)


def _why(finished: Finished) -> str:
    known = remedy(finished.tail)
    if not known and finished.status in _KILLED:
        # The kernel says nothing to those whom it kills.
        known = remedy(["ended with status 137"])
        return f"it was killed, as the kernel does when memory runs out. {known}"
    return known or finished.last_line
