"""Inferentia and GPUs side by side for one model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from modelzone.planning import Assessment, rank

__all__ = ["Alternative", "cheapest_of_each_kind", "compare"]


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One way to serve a model, with its price.

    Attributes
    ----------
    kind
        ``neuron`` or ``gpu``; None when the instance type is unknown.
    usd_per_hour, tokens_per_second, usd_per_million_tokens
        None when unknown. Tokens are output tokens of one instance with a full batch.
    basis
        What the throughput rests on.
    """

    kind: Literal["neuron", "gpu"] | None
    engine: str
    engine_version: str
    instance_type: str
    tensor_parallel_degree: int
    batch_size: int
    sequence_length: int
    fits: bool
    usd_per_hour: float | None
    tokens_per_second: float | None
    basis: str | None
    usd_per_million_tokens: float | None


def compare(assessments: Iterable[Assessment]) -> tuple[Alternative, ...]:
    """Make a row of each candidate: those that fit first, cheapest tokens first, unknown prices last."""
    return tuple(_alternative(found) for found in sorted(rank(assessments), key=lambda found: not found.fits))


def cheapest_of_each_kind(alternatives: Iterable[Alternative]) -> dict[str, Alternative]:
    """Take the cheapest that fits of ``neuron`` and of ``gpu``; a kind that has none is missing."""
    best: dict[str, tuple[float, Alternative]] = {}
    for row in alternatives:
        usd = row.usd_per_million_tokens
        if row.fits and row.kind and usd is not None and usd < best.get(row.kind, (float("inf"), row))[0]:
            best[row.kind] = usd, row
    return {kind: row for kind, (_, row) in best.items()}


def _alternative(found: Assessment) -> Alternative:
    serving, throughput = found.serving, found.throughput
    return Alternative(
        kind=found.instance.accelerator.kind if found.instance else None,
        engine=serving.engine,
        engine_version=serving.engine_version,
        instance_type=serving.instance_type,
        tensor_parallel_degree=serving.tensor_parallel_degree,
        batch_size=serving.batch_size,
        sequence_length=serving.sequence_length,
        fits=found.fits,
        usd_per_hour=found.usd_per_hour,
        tokens_per_second=throughput.tokens_per_second if throughput else None,
        basis=throughput.basis if throughput else None,
        usd_per_million_tokens=found.usd_per_million_tokens,
    )
