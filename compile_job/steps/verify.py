"""Check that the exported folder is what the facts say, and whole."""

from __future__ import annotations

from pathlib import Path

from compile_job.layouts import LAYOUTS, Found, Ordered
from compile_job.layouts.neuron_config_key import COMPILER, NUMBERS
from compile_job.layouts.safetensors import check_whole

__all__ = ["COMPILER", "NUMBERS", "verify_artifact"]


def verify_artifact(ordered: Ordered, folder: Path, *, layout: str) -> Found:
    """Compare what was compiled with what was ordered, and look whether its files are whole.

    Raises
    ------
    StepError
        Naming the value in the artifact and the one in the job, or the file.
    """
    found = LAYOUTS[layout](ordered, folder)
    for path in sorted(folder.rglob("*.safetensors")):
        check_whole(path)
    return found
