"""Every way to serve a model, ranked by cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from modelzone.engines import ENGINES, EngineVersion
from modelzone.hardware import find_instance
from modelzone.planning.assess import assess
from modelzone.planning.assessment import Assessment
from modelzone.planning.checks import instances_of
from modelzone.planning.limits import maximum_batch_size
from modelzone.planning.sharding import possible_degrees
from modelzone.settings import Model, Serving

__all__ = ["SearchSpace", "rank", "search"]

_MAXIMUM_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What a search is held to; None leaves it open.

    ``batch_size`` left open becomes, for each candidate, the largest power of two up to 32 whose sequences are held
    at once; 1 where the engine does not refill a running batch.
    """

    engine: str | None = None
    engine_version: str | None = None
    instance_type: str | None = None
    tensor_parallel_degree: int | None = None
    batch_size: int | None = None


def search(model: Model, serving: Serving, *, region: str, space: SearchSpace | None = None) -> tuple[Assessment, ...]:
    """Assess every engine version, instance type and tensor parallel degree; return what fits, cheapest tokens first.

    Parameters
    ----------
    serving
        Everything that the search does not vary: sequence length, dtype, quantisation, timeouts. What only its own
        engine understands (``environment``, ``options``, ``image_uri``, ``volume_size_gib``) is left out.
    """
    found = (
        assess(model, candidate, region=region) for candidate in _candidates(model, serving, space or SearchSpace())
    )
    return rank(assessment for assessment in found if assessment.fits)


def _candidates(model: Model, serving: Serving, space: SearchSpace) -> Iterator[Serving]:
    for engine in ENGINES.values():
        for version in engine.versions.values():
            if space.engine not in {None, engine.name} or space.engine_version not in {None, version.version}:
                continue
            if model.architecture.type not in version.model_types or not _understands(serving, version):
                continue
            for name in instances_of(engine, version):
                if space.instance_type not in {None, name}:
                    continue
                base = replace(
                    serving,
                    engine=engine.name,
                    engine_version=version.version,
                    instance_type=name,
                    volume_size_gib=None,
                    image_uri=None,
                    environment={},
                    options={},
                )
                yield from _degrees(model, base, space, version)


def _understands(serving: Serving, version: EngineVersion) -> bool:
    return (
        serving.dtype in version.dtypes
        and (serving.quantization is None or serving.quantization in version.quantizations)
        and (serving.adapters is None or version.supports_adapters)
    )


def _degrees(model: Model, base: Serving, space: SearchSpace, version: EngineVersion) -> Iterator[Serving]:
    """Every degree on one instance type, with its batch size."""
    instance = find_instance(base.instance_type)
    for degree in possible_degrees(instance, model.architecture) if instance else ():
        if space.tensor_parallel_degree not in {None, degree}:
            continue
        candidate = replace(base, tensor_parallel_degree=degree, batch_size=space.batch_size or 1)
        if instance and space.batch_size is None:
            # A batch that is not refilled while it decodes gives nobody its throughput.
            limit = 1 if model.architecture.type in version.static_batch_types else _MAXIMUM_BATCH_SIZE
            size = maximum_batch_size(model, candidate, version, instance, limit=limit)
            if not size:
                continue
            candidate = replace(candidate, batch_size=size)
        yield candidate


def rank(assessments: Iterable[Assessment], *, by: Literal["tokens", "hour"] = "tokens") -> tuple[Assessment, ...]:
    """Order by dollars per million output tokens or by dollars an hour; what has no price comes last."""

    def key(assessment: Assessment) -> tuple[float, float, str]:
        hour = assessment.usd_per_hour
        tokens = assessment.usd_per_million_tokens
        first, second = (tokens, hour) if by == "tokens" else (hour, tokens)
        unknown = float("inf")
        return (
            unknown if first is None else first,
            unknown if second is None else second,
            assessment.in_words(),
        )

    return tuple(sorted(assessments, key=key))
