"""The planner's assumptions, each with its source (``data/assumptions.yaml``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from modelzone.resources import read_data

__all__ = ["Assumption", "assumption"]

Group = Literal["neuron", "gpu", "both", "compile", "load"]


@dataclass(frozen=True)
class Assumption:
    """A value that no document gives, and why it was chosen."""

    value: float
    source: str


@cache
def assumption(group: Group, name: str) -> Assumption:
    """Look one up."""
    row = read_data("modelzone.planning", "assumptions.yaml")[group][name]
    return Assumption(value=row["value"], source=row["source"])
