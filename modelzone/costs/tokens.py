"""Dollars for a million tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from modelzone.planning.throughput import usd_per_million_tokens
from modelzone.resources import read_data

__all__ = ["Measurement", "measurements"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A published load test: ``data/measured.yaml``."""

    name: str
    source: str
    model: str
    instance_type: str
    engine: str
    concurrent_requests: int
    duration_minutes: int
    requests_per_second: float
    input_tokens: int
    output_tokens: int
    usd_per_hour: float
    published_usd_per_million_tokens: float

    @property
    def output_tokens_per_second(self) -> float:
        """What was generated."""
        return self.requests_per_second * self.output_tokens

    @property
    def tokens_per_second(self) -> float:
        """Prompts and answers together."""
        return self.requests_per_second * (self.input_tokens + self.output_tokens)

    @property
    def usd_per_million_output_tokens(self) -> float:
        """What a million generated tokens cost: how this project counts everywhere."""
        return usd_per_million_tokens(self.usd_per_hour, self.output_tokens_per_second)

    @property
    def usd_per_million_input_and_output_tokens(self) -> float:
        """What a million tokens cost when prompts are counted with the answers, which looks cheaper."""
        return usd_per_million_tokens(self.usd_per_hour, self.tokens_per_second)


@cache
def measurements() -> tuple[Measurement, ...]:
    """Return all published load tests that this project knows."""
    return tuple(Measurement(**row) for row in read_data("modelzone.costs", "measured.yaml")["measurements"])
