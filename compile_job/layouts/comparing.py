"""What the layouts compare with, and how they say that something is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compile_job.errors import StepError

__all__ = ["STAND_IN", "Found", "Ordered", "equal", "read_json"]

# What the embedded AWS's exports say instead of a compiler's name.
STAND_IN = "cpu-stand-in"


@dataclass(frozen=True)
class Ordered:
    """What the job orders.

    Attributes
    ----------
    stand_in_allowed
        The artifact goes to a store on this machine, so that nothing that was not really compiled can get to AWS.
    """

    facts: Mapping[str, str]
    stand_in_allowed: bool = False

    def number(self, fact: str) -> int:
        """Return a fact that is a number."""
        return int(self.facts[fact])


@dataclass(frozen=True)
class Found:
    """What is there: the compiler with its version, and how many graphs or engines."""

    compiler: str
    graphs: int


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration that the export writes."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read ({error}): the export did not finish"
        raise StepError(message) from error
    return config if isinstance(config, dict) else {}


def equal(file: str, key: str, found: object, ordered: object, fact: str) -> None:
    """Compare one value; the message names both."""
    if found != ordered:
        message = f"{file}: {key} is {found!r}, the job orders {fact} {ordered!r}: correct export_command"
        raise StepError(message)
