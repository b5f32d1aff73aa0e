"""Start a program that must not outlive the emulator: ``launcher.py PARENT_PID PROGRAM [ARGUMENT ...]``.

On Linux the kernel kills the program when its parent dies, however that happens. The request is made here, in a
short-lived interpreter that then becomes the program, because code between fork and exec of a process with threads
can deadlock. Stand-alone on purpose: it runs isolated (``python -I``) and imports nothing of this project.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent and become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the request was made
            sys.exit(1)
    try:
        os.execvp(program[0], program)  # noqa: S606
    except OSError as error:
        sys.exit(f"cannot start {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
