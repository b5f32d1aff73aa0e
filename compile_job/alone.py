"""One job at a time on a host: two would share folders, containers' names and the devices."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import StepError

__all__ = ["LOCK", "alone"]

LOCK = "compile_job.lock"
_LONGEST_NOTE = 100


@contextmanager
def alone(work_dir: Path) -> Iterator[None]:
    """Hold the host's lock until the block ends. The kernel frees it with the process, however that ends.

    Raises
    ------
    StepError
        When another process holds it, or there can be no file for it.
    """
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        message = (
            f"step 'look' failed: work_dir {work_dir} cannot be made: {error.strerror}; choose another one in the job"
        )
        raise StepError(message) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, _LONGEST_NOTE, 0).decode("ascii", "replace").strip()
            message = (
                f"step 'look' failed: another compile_job runs on this host ({holder or 'unknown process'} holds "
                f"{work_dir / LOCK}): wait for it, or end it, and run again (doctor: compile-host-busy)"
            )
            raise StepError(message) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
