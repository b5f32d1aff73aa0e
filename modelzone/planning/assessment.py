"""One candidate - a model, an engine version, an instance type, a degree, shapes - with everything that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelzone.engines import Engine, EngineVersion
from modelzone.hardware import Instance
from modelzone.planning.compilation import CompileNeeds
from modelzone.planning.memory import MemoryPlan
from modelzone.planning.throughput import Throughput
from modelzone.refusals import Refusal
from modelzone.settings import Model, Serving

__all__ = ["Assessment"]


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What a candidate comes to.

    Attributes
    ----------
    engine, version, instance, memory, compile, throughput
        None when the settings name something that does not exist; a refusal then says so. ``compile`` is also None
        for engines that compile nothing, ``throughput`` for models that generate no text.
    refusals
        Why it cannot be deployed; empty when it can.
    notes
        What should be known about it.
    usd_per_hour
        On-demand price of one instance, None when the price table has none for the region.
    """

    model: Model
    serving: Serving
    region: str
    engine: Engine | None = None
    version: EngineVersion | None = None
    instance: Instance | None = None
    memory: MemoryPlan | None = None
    compile: CompileNeeds | None = None
    environment: Mapping[str, str] | None = None
    properties: Mapping[str, str] | None = None
    arguments: tuple[str, ...] = ()
    throughput: Throughput | None = None
    usd_per_hour: float | None = None
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.refusals

    @property
    def usd_per_million_tokens(self) -> float | None:
        """For output tokens, on an instance that is never idle."""
        if self.throughput is None or self.usd_per_hour is None:
            return None
        return self.throughput.usd_per_million_tokens(self.usd_per_hour)

    def in_words(self) -> str:
        """Engine, instance and shapes in one line."""
        s = self.serving
        return (
            f"{s.engine} {s.engine_version} on {s.instance_type}, tensor parallel degree {s.tensor_parallel_degree}, "
            f"batch size {s.batch_size}, sequence length {s.sequence_length}"
        )
