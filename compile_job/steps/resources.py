"""Check that there is room on the disk and in memory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from compile_job.errors import StepError

__all__ = ["check_resources"]

_GIB = 1024**3


def check_resources(work_dir: Path, *, min_free_gib: int, min_memory_gib: int, used: list[Path]) -> dict[str, object]:
    """Check the volume of the work folder and the host's memory before hours are spent.

    Parameters
    ----------
    used
        Folders that an earlier run of this job left and this one goes on with: they count as free.

    Raises
    ------
    StepError
        With both numbers.
    """
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"work_dir {work_dir} cannot be made: {error.strerror}; choose another one in the job"
        raise StepError(message) from error
    free = shutil.disk_usage(work_dir).free + sum(map(_size, used))
    if free < min_free_gib * _GIB:
        message = (
            f"{free / _GIB:.0f} GiB free for {work_dir}, needed are {min_free_gib} GiB: give the host a larger volume"
        )
        raise StepError(message)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory < min_memory_gib * _GIB:
        message = (
            f"the host has {memory / _GIB:.0f} GiB of memory, needed are {min_memory_gib} GiB: use a larger instance"
        )
        raise StepError(message)
    return {"free_gib": round(free / _GIB), "memory_gib": round(memory / _GIB)}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
