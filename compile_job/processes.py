"""Child processes: output passed on line by line, stopped with us, remembered for the message of a failure."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Finished", "run", "run_quietly"]

_TAIL_LINES = 200
_GRACE_SECONDS = 20.0


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
    grace: float = _GRACE_SECONDS,
) -> Finished:
    """Run a command to its end and print what it prints.

    Parameters
    ----------
    secret
        Written to the command's standard input, and replaced by stars should it ever be printed.
    environment
        Variables added to ours.
    grace
        Seconds between SIGTERM and SIGKILL if we are stopped meanwhile.

    Raises
    ------
    FileNotFoundError
        When there is no such command.
    Stopped
        When a signal arrived; the command and its children are gone then.
    """
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
    tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def pass_on() -> None:
        assert child.stdout is not None  # noqa: S101 - for the type checker; it is a pipe
        for line in child.stdout:
            shown = line.rstrip("\n").replace(secret, "***") if secret else line.rstrip("\n")
            tail.append(shown)
            sys.stdout.write(shown + "\n")
            sys.stdout.flush()

    # In a thread, so that a signal finds the main thread waiting where it can be interrupted.
    reader = threading.Thread(target=pass_on, daemon=True)
    try:
        reader.start()
        assert child.stdin is not None  # noqa: S101 - for the type checker; it is a pipe
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(secret)
            child.stdin.close()
        status = child.wait()
    except BaseException:
        _end(child, grace=grace)
        raise
    finally:
        reader.join(timeout=5)
        if not reader.is_alive() and child.stdout is not None:
            child.stdout.close()
    return Finished(status=status, tail=tuple(tail))


def run_quietly(command: Sequence[str], *, secret: str = "") -> Finished:
    """Run a short command without printing its output."""
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
    output = done.stdout.replace(secret, "***") if secret else done.stdout
    return Finished(status=done.returncode, tail=tuple(output.splitlines()[-_TAIL_LINES:]))


def _end(child: subprocess.Popen[str], *, grace: float) -> None:
    """End the child's whole group: an export starts compilers of its own."""
    for sign, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=patience)
            return
