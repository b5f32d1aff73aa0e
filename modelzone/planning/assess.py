"""Assess one candidate: run every check and derive everything that follows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from modelzone.architectures import Clip
from modelzone.engines import ENGINES, Engine, EngineVersion
from modelzone.engines.shapes import artifact_values
from modelzone.hardware import Instance, find_instance
from modelzone.planning.assessment import Assessment
from modelzone.planning.assumptions import assumption
from modelzone.planning.checks import (
    check_compile_at_start,
    check_compile_host,
    check_degree,
    check_engine,
    check_formats,
    check_image,
    check_instance,
    check_memory,
    check_model_type,
    check_shapes,
    check_storage,
)
from modelzone.planning.compilation import CompileNeeds, compile_needs
from modelzone.planning.limits import describe_limits, fitting_degrees, memory_of
from modelzone.planning.memory import GIB, MemoryPlan, weight_bytes
from modelzone.planning.sharding import shard
from modelzone.planning.throughput import estimate_throughput
from modelzone.prices import instance_price
from modelzone.settings import Model, Serving

__all__ = ["assess", "hourly_price"]


@cache
def hourly_price(instance_type: str, region: str) -> float | None:
    """On-demand dollars an hour, None when the price table does not say."""
    price = instance_price(instance_type, region=region)
    return price.usd if price else None


def assess(model: Model, serving: Serving, *, region: str) -> Assessment:
    """Check a candidate against everything that is known offline. Never raises: what is wrong is in ``refusals``."""
    refusals = list(check_engine(serving))
    if refusals:
        return Assessment(model=model, serving=serving, region=region, refusals=tuple(refusals))
    engine = ENGINES[serving.engine]
    version = engine.versions[serving.engine_version]
    refusals += check_model_type(model, engine, version)
    refusals += check_instance(serving, engine, version)
    instance = find_instance(serving.instance_type)
    price = hourly_price(serving.instance_type, region)
    if refusals or instance is None:
        return Assessment(
            model=model,
            serving=serving,
            region=region,
            engine=engine,
            version=version,
            instance=instance,
            usd_per_hour=price,
            refusals=tuple(refusals),
        )
    return _assess_on(model, serving, engine, version, instance, region=region, price=price)


def _assess_on(
    model: Model,
    serving: Serving,
    engine: Engine,
    version: EngineVersion,
    instance: Instance,
    *,
    region: str,
    price: float | None,
) -> Assessment:
    refusals = [
        *check_degree(model, serving, instance, fitting=lambda: fitting_degrees(model, serving, version, instance)),
        *check_shapes(model, serving),
        *check_formats(serving, engine, version, instance),
        *check_storage(model, serving, instance),
        *engine.check(version.version, model, serving),
        *check_image(serving, engine, region),
    ]
    memory = memory_of(model, serving, version, instance)
    if not any(refusal.key == "tensor_parallel_degree" for refusal in refusals) and not memory.fits:
        refusals += check_memory(serving, memory, fix=describe_limits(model, serving, version, instance, region=region))
    needs = _compile_needs(model, serving, engine, version, instance, region=region)
    if not refusals:
        refusals += check_compile_host(serving, needs)
    if needs is None and instance.accelerator.kind == "neuron":
        refusals += check_compile_at_start(model, serving, engine, version, instance)
    throughput = (
        None
        if refusals
        else estimate_throughput(
            model.architecture,
            instance=instance,
            tensor_parallel_degree=serving.tensor_parallel_degree,
            batch_size=max(1, memory.held_sequences(serving.batch_size)),
            sequence_length=serving.sequence_length,
            quantization=serving.quantization,
        )
    )
    return Assessment(
        model=model,
        serving=serving,
        region=region,
        engine=engine,
        version=version,
        instance=instance,
        memory=memory,
        compile=needs,
        environment=engine.container_environment(version.version, model, serving),
        properties=engine.serving_properties(version.version, model, serving),
        arguments=engine.launch_arguments(version.version, model, serving),
        throughput=throughput,
        usd_per_hour=price,
        refusals=tuple(refusals),
        notes=tuple(_notes(model, serving, version, instance, memory)),
    )


def _compile_needs(
    model: Model, serving: Serving, engine: Engine, version: EngineVersion, instance: Instance, *, region: str
) -> CompileNeeds | None:
    template = engine.export_command(version.version, model, serving)
    if version.compiler is None or template is None:
        return None
    return compile_needs(
        model.architecture,
        serving_instance=instance,
        tensor_parallel_degree=serving.tensor_parallel_degree,
        template=template,
        shapes=artifact_values(serving),
        region=region,
    )


def _notes(
    model: Model, serving: Serving, version: EngineVersion, instance: Instance, memory: MemoryPlan
) -> Iterator[str]:
    architecture, degree = model.architecture, serving.tensor_parallel_degree
    idle = instance.devices - degree
    if idle and not isinstance(architecture, Clip):
        yield f"{idle} of {instance.devices} {instance.device_name}s stay idle"
    if not isinstance(architecture, Clip):
        split = shard(architecture, degree)
        if split.padded:
            yield (
                f"{architecture.attention_heads} attention heads are padded to {split.query_heads * degree}: "
                f"attention weights grow by {split.query_padding - 1:.0%}"
            )
    if serving.batch_size > 1 and architecture.type in version.static_batch_types:
        yield (
            f"{serving.engine} {version.version} does not refill a running batch of {architecture.type}: its "
            "throughput holds only when all requests of a batch come together"
        )
    if memory.fits and not memory.holds_full_batch:
        yield (
            f"the KV cache holds {memory.held_sequences(serving.batch_size)} sequences of {serving.sequence_length} "
            f"tokens; of a batch of {serving.batch_size} full ones the others wait"
        )
    if instance.accelerator.kind == "gpu":
        rule = assumption("both", "model_size_rule")
        size = weight_bytes(architecture, serving.quantization)
        have = instance.device_memory_bytes * degree
        yield (
            f"rule of thumb: {rule.value} x the model's {size / GIB:.1f} GiB = {size * rule.value / GIB:.1f} GiB, "
            f"{'within' if size * rule.value <= have else 'more than'} the {have / GIB:.1f} GiB of {degree} "
            f"GPU{'s' * (degree > 1)} ({rule.source})"
        )
    yield from _timeouts(model, serving)
    if not instance.local_disk_bytes and serving.volume_size_gib is None:
        yield (
            "no volume_size_gib: the default volume has to hold the weights' "
            f"{weight_bytes(architecture, serving.quantization) / GIB:.0f} GiB, and its size is NOT VERIFIED"
        )
    if version.compiler is not None:
        yield "the container's batch size and token limits come from the artifact's manifest when it is deployed"
    if not version.deployable:
        yield "planned only: no stack deploys this engine version yet"


def _timeouts(model: Model, serving: Serving) -> Iterator[str]:
    weights = weight_bytes(model.architecture, serving.quantization)
    for what, name, given in (
        ("downloading", "download_bytes_per_second", serving.download_timeout_seconds),
        ("loading", "load_bytes_per_second", serving.health_check_timeout_seconds),
    ):
        rate = assumption("load", name)
        seconds = weights / rate.value
        if seconds > given:
            yield (
                f"{what} {weights / GIB:.0f} GiB takes about {seconds:.0f} s at {rate.value / 1e6:.0f} MB/s "
                f"({rate.source}); the timeout is {given} s"
            )
