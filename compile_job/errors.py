"""Failures that end the job with one readable line."""

from __future__ import annotations

__all__ = ["JobError", "StepError", "Stopped"]


class JobError(Exception):
    """The job file is wrong; the text names file, key and value."""


class StepError(Exception):
    """A step failed; the text says why and what to do."""


class Stopped(BaseException):
    """The job has to stop. Not an `Exception`: no step may take it for a failure of its own.

    Attributes
    ----------
    spot
        A Spot interruption notice is the reason, not a signal.
    """

    def __init__(self, *, spot: bool = False) -> None:
        super().__init__()
        self.spot = spot
