"""What may go wrong, as classes: the state machine tells by their names what is worth another try."""

from __future__ import annotations

__all__ = [
    "BusyError",
    "CapacityError",
    "CheckError",
    "CompileError",
    "MissingArtifactError",
    "TransientError",
    "one_line",
    "sentence",
]


class CheckError(Exception):
    """The deployment must not go on; the text says why and what to do."""


class MissingArtifactError(CheckError):
    """There is no artifact, or not all of it, or another one: compiling would help."""


class CompileError(Exception):
    """A step of a compilation failed, and trying it again would not help.

    The text is what people read in the end: ``step '<step>' failed: <why>. <remedy>.``
    """

    def __init__(self, step: str, why: str, remedy: str = "") -> None:
        super().__init__(f"step '{step}' failed: {sentence(why)} {sentence(remedy)}".strip())
        self.step = step


class CapacityError(CompileError):
    """No zone has a host to give at the moment."""


class BusyError(CompileError):
    """Another execution makes the same artifact: its end is waited for."""


class TransientError(CompileError):
    """AWS was throttling or had a fault of its own."""


def one_line(text: object) -> str:
    """Return the text without line breaks."""
    return " ".join(str(text).split())


def sentence(text: str) -> str:
    """Return the text as one line that ends with a full stop; nothing stays nothing."""
    line = one_line(text)
    return line if not line or line.endswith((".", "!", "?")) else f"{line}."
