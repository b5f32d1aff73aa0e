"""What can be wrong with a candidate, apart from its engine's own rules. Each check yields refusals with numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from modelzone.architectures import Clip
from modelzone.engines import ENGINES, Engine, EngineVersion, image_regions, image_uri, versions_serving
from modelzone.hardware import Instance, family, find_instance, instance_types
from modelzone.planning.compilation import CompileNeeds, compile_memory
from modelzone.planning.memory import GIB, MemoryPlan, weight_bytes
from modelzone.planning.quantization import weight_format
from modelzone.planning.sharding import possible_degrees
from modelzone.refusals import Refusal
from modelzone.settings import Model, Serving

__all__ = [
    "check_compile_at_start",
    "check_compile_host",
    "check_degree",
    "check_engine",
    "check_formats",
    "check_image",
    "check_instance",
    "check_memory",
    "check_model_type",
    "check_shapes",
    "check_storage",
    "instances_of",
]

_OTHER_PARTITIONS = ("cn-", "us-gov-", "us-iso", "eu-iso", "eusc-")
_BF16_CAPABILITY = 8.0
# Graphs, tokenizer and the file system's own blocks beside the weights.
_VOLUME_FACTOR = 1.2


def instances_of(engine: Engine, version: EngineVersion) -> tuple[str, ...]:
    """Instance types that an engine version runs on, as settings name them."""
    found = (find_instance(name) for name in instance_types())
    fitting = [i for i in found if i and i.family in version.instance_families]
    if engine.hosting == "sagemaker":
        return tuple(i.ml_name for i in fitting if i.sagemaker)
    return tuple(i.name for i in fitting)


def check_engine(serving: Serving) -> Iterable[Refusal]:
    """The engine and its version exist."""
    engine = ENGINES.get(serving.engine)
    if engine is None:
        yield Refusal(
            key="engine", value=serving.engine, problem="is not an engine", fix=f"use one of: {', '.join(ENGINES)}"
        )
    elif serving.engine_version not in engine.versions:
        yield Refusal(
            key="engine_version",
            value=serving.engine_version,
            problem=f"is not a supported version of {engine.name}",
            fix=f"use one of: {', '.join(engine.versions)}",
        )


def check_model_type(model: Model, engine: Engine, version: EngineVersion) -> Iterable[Refusal]:
    """The engine version serves models of this type."""
    kind = model.architecture.type
    if kind in version.model_types:
        return
    others: dict[str, list[str]] = {}
    for name, other in versions_serving(kind):
        others.setdefault(name, []).append(other)
    known = "; ".join(f"{name} {', '.join(found)}" for name, found in others.items())
    yield Refusal(
        key="engine_version",
        value=version.version,
        problem=f"of {engine.name} cannot serve models of type {kind}",
        fix=f"{kind} is served by: {known}" if known else f"it serves: {', '.join(sorted(version.model_types))}",
    )


def check_instance(serving: Serving, engine: Engine, version: EngineVersion) -> Iterable[Refusal]:
    """The instance type exists, is spelled for its service, and has the accelerator that the image is made for."""
    types = instances_of(engine, version)
    if serving.instance_type in types:
        return
    near = f"ml.{serving.instance_type}" if engine.hosting == "sagemaker" else serving.instance_type.removeprefix("ml.")
    yield Refusal(
        key="instance_type",
        value=serving.instance_type,
        problem=f"is not an instance type that {engine.name} {version.version} runs on",
        fix=f"did you mean {near}?" if near in types else f"use one of: {', '.join(types)}",
    )


def check_degree(
    model: Model, serving: Serving, instance: Instance, *, fitting: Callable[[], tuple[int, ...]]
) -> Iterable[Refusal]:
    """The topology and the model's heads allow the degree; `fitting` are those with which the model also fits."""
    degree = serving.tensor_parallel_degree
    possible = possible_degrees(instance, model.architecture)
    if degree in possible:
        return
    devices = f"{instance.devices} {instance.device_name}{'s' * (instance.devices > 1)}"
    why = f"is not possible on {serving.instance_type}, which has {devices}"
    if isinstance(model.architecture, Clip):
        why = "is not possible: CLIP towers are replicated over the devices, not sharded"
    elif degree in instance.tensor_parallel_degrees:
        a = model.architecture
        why = f"does not divide the model's {a.attention_heads} attention and {a.key_value_heads} key-value heads"
    here = f"{', '.join(map(str, possible))} {'is' if len(possible) == 1 else 'are'} possible here"
    fits = (
        f"use {' or '.join(map(str, found))}"
        if (found := fitting())
        else "none of them fits: use a larger instance type"
    )
    yield Refusal(key="tensor_parallel_degree", value=degree, problem=why, fix=f"{here}; {fits}")


def check_shapes(model: Model, serving: Serving) -> Iterable[Refusal]:
    """The sequence is not longer than what the model was made for."""
    context = model.architecture.context_length
    if serving.sequence_length > context:
        yield Refusal(
            key="sequence_length",
            value=serving.sequence_length,
            problem="is longer than the model's context",
            fix=f"use at most {context}",
        )


def check_formats(serving: Serving, engine: Engine, version: EngineVersion, instance: Instance) -> Iterable[Refusal]:
    """Engine and device can compute in this dtype and with these weights."""
    named = f"{engine.name} {version.version}"
    if serving.dtype not in version.dtypes:
        yield Refusal(
            key="dtype",
            value=serving.dtype,
            problem=f"is not a type that {named} computes in",
            fix=f"use one of: {', '.join(sorted(version.dtypes))}",
        )
    if serving.quantization and serving.quantization not in version.quantizations:
        yield Refusal(
            key="quantization",
            value=serving.quantization,
            problem=f"is not a format that {named} serves",
            fix=f"use one of: {', '.join(sorted(version.quantizations))}" if version.quantizations else "leave it out",
        )
    if serving.adapters and not version.supports_adapters:
        yield Refusal(
            key="adapters", value=serving.adapters.count, problem=f"cannot be loaded by {named}", fix="leave them out"
        )
    capability = instance.accelerator.compute_capability
    if capability is None:
        return
    if serving.dtype == "bf16" and float(capability) < _BF16_CAPABILITY:
        yield Refusal(
            key="dtype",
            value="bf16",
            problem=f"needs compute capability {_BF16_CAPABILITY}; {instance.accelerator.name} has {capability}",
            fix="use fp16",
        )
    needed = weight_format(serving.quantization).minimum_compute_capability
    if float(capability) < float(needed):
        yield Refusal(
            key="quantization",
            value=serving.quantization,
            problem=f"needs compute capability {needed}; {instance.accelerator.name} has {capability}",
            fix="use another format or another instance family",
        )


def check_storage(model: Model, serving: Serving, instance: Instance) -> Iterable[Refusal]:
    """SageMaker takes a volume size for this family, and the weights have room."""
    kind = family(instance.family)
    weights = weight_bytes(model.architecture, serving.quantization)
    size = serving.volume_size_gib
    if size is not None and not kind.takes_volume_size:
        yield Refusal(
            key="volume_size_gib",
            value=size,
            problem=f"cannot be set: SageMaker refuses a volume size for {kind.name}",
            fix="leave it out",
        )
    elif size is not None and size < (least := int(weights / GIB * _VOLUME_FACTOR) + 1):
        yield Refusal(
            key="volume_size_gib",
            value=size,
            problem=f"is too small: the weights alone are {weights / GIB:.1f} GiB",
            fix=f"use at least {least}",
        )
    if 0 < instance.local_disk_bytes < weights:
        yield Refusal(
            key="instance_type",
            value=serving.instance_type,
            problem=f"has {instance.local_disk_bytes / GIB:.0f} GiB of disk, the weights are {weights / GIB:.0f} GiB",
            fix="use a larger size of the family",
        )


def check_image(serving: Serving, engine: Engine, region: str) -> Iterable[Refusal]:
    """The image is published in the region."""
    if region.startswith(_OTHER_PARTITIONS):
        yield Refusal(
            key="region",
            value=region,
            problem="is not in AWS's commercial partition",
            fix="choose a commercial region: others have another account for the Lambda Web Adapter, or none",
        )
        return
    published = image_regions(engine=engine.name, version=serving.engine_version)
    if published and region not in published:
        usable = [name for name in published if not name.startswith(_OTHER_PARTITIONS)]
        yield Refusal(
            key="region",
            value=region,
            problem=f"has no image of {engine.name} {serving.engine_version}",
            fix=f"use one of: {', '.join(usable)}",
        )
        return
    own = image_uri(engine=engine.name, version=serving.engine_version, region=region)
    if serving.image_uri not in {None, own}:
        yield Refusal(
            key="image_uri",
            value=serving.image_uri,
            problem=f"is not the image of {engine.name} {serving.engine_version} in {region}, in which models are "
            "compiled",
            fix=f"leave it out (it is {own}), or pass another as the stack's parameter ImageUri",
        )


def check_memory(serving: Serving, memory: MemoryPlan, *, fix: str) -> Iterable[Refusal]:
    """The devices hold it; `fix` says what would."""
    if not memory.fits:
        yield Refusal(
            key="tensor_parallel_degree",
            value=serving.tensor_parallel_degree,
            problem=f"does not fit on {serving.instance_type} with batch size {serving.batch_size} and sequence length "
            f"{serving.sequence_length}: {memory.explain()}",
            fix=fix,
        )


def check_compile_host(serving: Serving, needs: CompileNeeds | None) -> Iterable[Refusal]:
    """Some instance type of the family has the host memory that the compiler takes."""
    if needs is not None and needs.instance is None:
        yield Refusal(
            key="instance_type",
            value=serving.instance_type,
            problem=f"has no larger size that could compile the model: that takes {needs.host_memory_bytes / GIB:.0f} "
            "GiB of host memory",
            fix="use another instance family",
        )


def check_compile_at_start(
    model: Model, serving: Serving, engine: Engine, version: EngineVersion, instance: Instance
) -> Iterable[Refusal]:
    """A Neuron engine that compiles nothing ahead of time compiles on the endpoint's own host, every time it starts."""
    if isinstance(model.architecture, Clip):
        return
    needed = compile_memory(model.architecture)
    if instance.memory_bytes >= needed:
        return
    enough = [name for name in instances_of(engine, version) if (i := find_instance(name)) and i.memory_bytes >= needed]
    yield Refusal(
        key="instance_type",
        value=serving.instance_type,
        problem=f"has {instance.memory_bytes / GIB:.0f} GiB of host memory; {engine.name} compiles when it starts, "
        f"which takes {needed / GIB:.0f} GiB",
        fix=f"use one of: {', '.join(enough)}" if enough else "use an engine that compiles ahead of time",
    )
