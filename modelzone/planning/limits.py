"""How far a candidate can go, and what would fit in the place of one that does not."""

from __future__ import annotations

from msgspec.structs import replace

from modelzone.architectures import Clip
from modelzone.engines import ENGINES, EngineVersion
from modelzone.hardware import Instance, find_instance
from modelzone.planning.checks import instances_of
from modelzone.planning.memory import MemoryPlan, plan_memory
from modelzone.planning.sharding import possible_degrees
from modelzone.prices import instance_price
from modelzone.settings import Model, Serving

__all__ = ["describe_limits", "fitting_degrees", "maximum_batch_size", "maximum_sequence_length", "memory_of"]

SEQUENCE_STEP = 64


def memory_of(
    model: Model,
    serving: Serving,
    version: EngineVersion,
    instance: Instance,
    *,
    batch_size: int | None = None,
    sequence_length: int | None = None,
) -> MemoryPlan:
    """What each device holds, with the settings' shapes or with others."""
    return plan_memory(
        model.architecture,
        instance=instance,
        tensor_parallel_degree=serving.tensor_parallel_degree,
        batch_size=batch_size or serving.batch_size,
        sequence_length=sequence_length or serving.sequence_length,
        quantization=serving.quantization,
        adapters=serving.adapters,
        memory_fraction=version.device_memory_fraction,
    )


def maximum_sequence_length(
    model: Model, serving: Serving, version: EngineVersion, instance: Instance, *, batch_size: int | None = None
) -> int:
    """Longest multiple of 64 that fits with this batch size and that the model was made for; 0 when none does."""
    batch = batch_size or serving.batch_size
    low, high = 0, model.architecture.context_length // SEQUENCE_STEP
    while low < high:
        middle = (low + high + 1) // 2
        held = memory_of(model, serving, version, instance, batch_size=batch, sequence_length=middle * SEQUENCE_STEP)
        low, high = (middle, high) if held.fits else (low, middle - 1)
    return low * SEQUENCE_STEP


def maximum_batch_size(
    model: Model, serving: Serving, version: EngineVersion, instance: Instance, *, limit: int
) -> int:
    """Largest power of two up to `limit` whose full batch is held at this sequence length; 0 when not even 1 is."""
    size = 1 << (limit.bit_length() - 1)
    while size:
        held = memory_of(model, serving, version, instance, batch_size=size)
        if held.holds_full_batch:
            return size
        size //= 2
    return 0


def fitting_degrees(model: Model, serving: Serving, version: EngineVersion, instance: Instance) -> tuple[int, ...]:
    """Tensor parallel degrees with which the settings' shapes fit on an instance type."""
    return tuple(
        degree
        for degree in possible_degrees(instance, model.architecture)
        if memory_of(model, replace(serving, tensor_parallel_degree=degree), version, instance).fits
    )


def describe_limits(model: Model, serving: Serving, version: EngineVersion, instance: Instance, *, region: str) -> str:
    """What would fit: other instance types with their degrees, cheapest first, and smaller shapes on this one."""
    options = []
    engine = ENGINES[serving.engine]
    rows = []
    for name in instances_of(engine, version):
        other = find_instance(name)
        degrees = fitting_degrees(model, serving, version, other) if other else ()
        if other and degrees:
            price = instance_price(name, region=region)
            rows.append((price.usd if price else float("inf"), name, degrees))
    for usd, name, degrees in sorted(rows)[:_SHOWN]:
        shown = f" (${usd:.2f}/h)" if usd < float("inf") else ""
        options.append(f"{name} with degree {', '.join(map(str, degrees))}{shown}")
    if not isinstance(model.architecture, Clip):
        batch = maximum_batch_size(model, serving, version, instance, limit=serving.batch_size)
        if batch:
            options.append(f"batch size {batch} with this sequence length here")
        length = maximum_sequence_length(model, serving, version, instance)
        if length >= SEQUENCE_STEP:
            options.append(f"{_length(serving, length)} with this batch size here")
        elif serving.batch_size > 1 and (
            alone := maximum_sequence_length(model, serving, version, instance, batch_size=1)
        ):
            options.append(f"{_length(serving, alone)} with batch size 1 here")
    if not options:
        return f"nothing that {serving.engine} {version.version} runs on holds the model: use another engine"
    return f"use {'; or '.join(options)}"


def _length(serving: Serving, length: int) -> str:
    """A sequence length, with the input's own bound where that has to come down too."""
    lower = "" if length > serving.max_input_tokens else f" (and max_input_tokens {length // 2})"
    return f"sequence length {length}{lower}"


_SHOWN = 4
