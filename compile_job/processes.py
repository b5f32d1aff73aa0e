"""Child processes: output passed on line by line, stopped with us, remembered for the message of a failure."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .masking import hide, remember
from .stopping import held

__all__ = ["Finished", "run", "run_quietly"]

_TAIL_LINES = 200
_GRACE_SECONDS = 20.0
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Finished:
    """How a child ended. `tail` holds the last lines of its output."""

    status: int
    tail: tuple[str, ...]

    @property
    def last_line(self) -> str:
        """The last line that says anything."""
        return next((line for line in reversed(self.tail) if line.strip()), "no output").strip()


def run(
    command: Sequence[str],
    *,
    secret: str = "",
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], bool] | None = None,
    check: Callable[[], None] | None = None,
    grace: float = _GRACE_SECONDS,
) -> Finished:
    """Run a command to its end and print what it prints.

    Parameters
    ----------
    secret
        Written to the command's standard input, and replaced by stars should it ever be printed.
    environment
        Variables added to ours.
    on_line
        Told each line; what it takes (by returning True) is not printed.
    check
        Called twice a second; the command is ended when it raises.
    grace
        Seconds between SIGTERM and SIGKILL if we are stopped meanwhile.

    Raises
    ------
    FileNotFoundError
        When there is no such command.
    Stopped
        When a signal arrived; the command and its children are gone then.
    """
    remember(secret)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def pass_on(child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None  # noqa: S101 - for the type checker; it is a pipe
        for line in child.stdout:
            shown = hide(line.rstrip("\n"))
            tail.append(shown)
            if on_line is None or not on_line(shown):
                sys.stdout.write(shown + "\n")
                sys.stdout.flush()

    # In a thread, so that a signal finds the main thread waiting where it can be interrupted.
    child: subprocess.Popen[str] | None = None
    reader: threading.Thread | None = None
    try:
        with held():
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
            reader = threading.Thread(target=pass_on, args=[child], daemon=True)
            reader.start()
        assert child.stdin is not None  # noqa: S101 - for the type checker; it is a pipe
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(secret)
            child.stdin.close()
        status = _wait(child, check)
    except BaseException:
        if child is not None:
            _end(child, grace=grace)
        raise
    finally:
        if child is not None and reader is not None:
            reader.join(timeout=5)
            if not reader.is_alive() and child.stdout is not None:
                child.stdout.close()
    return Finished(status=status, tail=tuple(tail))


def run_quietly(command: Sequence[str], *, secret: str = "") -> Finished:
    """Run a short command without printing its output."""
    remember(secret)
    done = subprocess.run(
        list(command),
        input=secret,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return Finished(status=done.returncode, tail=tuple(hide(done.stdout).splitlines()[-_TAIL_LINES:]))


def _wait(child: subprocess.Popen[str], check: Callable[[], None] | None) -> int:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=_POLL_SECONDS)
        if check is not None:
            check()


def _end(child: subprocess.Popen[str], *, grace: float) -> None:
    """End the child's whole group: an export starts compilers of its own."""
    for sign, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=patience)
            return
