"""What the exit status of ``modelzone`` says."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """All of them; docs/cli.md and ``modelzone --help`` list the same."""

    DONE = 0
    REFUSED = 1  # what was asked for cannot be done, or a check failed; the message says what to do
    USAGE = 2  # the command line is wrong
    FAULT = 70  # modelzone itself failed; the message names a file with the details
    INTERRUPTED = 130  # Ctrl-C
    CLOSED = 141  # whoever read the output stopped reading, as `head` does

    @property
    def meaning(self) -> str:
        """One phrase for people."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.REFUSED: "refused, or a check failed",
    ExitCode.USAGE: "wrong usage",
    ExitCode.FAULT: "a fault in modelzone; the message names a file with the details",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
    ExitCode.CLOSED: "the reader of the output went away (| head)",
}
