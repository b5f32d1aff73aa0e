"""What must hold for every model and instance, tried on generated ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelzone.architectures import Decoder, kv_cache_bytes
from modelzone.hardware import Instance, find_instance, instance_types
from modelzone.planning import MemoryPlan, assess, plan_memory, search
from modelzone.planning.memory import weight_bytes
from modelzone.planning.quantization import FORMATS
from modelzone.planning.sharding import possible_degrees
from modelzone.settings import Adapters, Model, Serving

INSTANCES = [instance for name in instance_types() if (instance := find_instance(name))]
QUANTIZATIONS = [None, *FORMATS]


@st.composite
def decoders(draw: st.DrawFn) -> Decoder:
    heads = draw(st.sampled_from([4, 8, 12, 16, 20, 28, 32, 40, 64, 96]))
    kv = draw(st.sampled_from([n for n in (1, 2, 4, 8, 16, 32, 64, heads) if heads % n == 0]))
    experts = draw(st.sampled_from([1, 4, 8, 64]))
    return Decoder(
        type=draw(st.sampled_from(["llama", "mistral", "mixtral", "qwen2"])),
        layers=draw(st.integers(1, 96)),
        hidden_size=heads * draw(st.sampled_from([64, 80, 128])),
        attention_heads=heads,
        key_value_heads=kv,
        intermediate_size=draw(st.integers(64, 40_000)),
        vocabulary_size=draw(st.integers(256, 260_000)),
        context_length=draw(st.sampled_from([2048, 8192, 32_768, 131_072])),
        experts=experts,
        experts_per_token=draw(st.integers(1, experts)),
        tied_embeddings=draw(st.booleans()),
        sliding_window=draw(st.sampled_from([None, None, 512, 4096])),
    )


shapes = st.tuples(st.integers(1, 64), st.integers(64, 32_768))
instances = st.sampled_from(INSTANCES)


def memory(
    model: Decoder, instance: Instance, degree: int, batch: int, length: int, adapters: Adapters | None = None
) -> MemoryPlan:
    return plan_memory(
        model,
        instance=instance,
        tensor_parallel_degree=degree,
        batch_size=batch,
        sequence_length=length,
        adapters=adapters,
    )


@given(model=decoders(), instance=instances, shape=shapes)
def test_more_tensor_parallelism_never_raises_memory_for_each_device(
    model: Decoder, instance: Instance, shape: tuple[int, int]
) -> None:
    degrees = possible_degrees(instance, model)
    adapters = Adapters(count=3, rank=64)
    needed = [memory(model, instance, degree, *shape, adapters=adapters).needed for degree in degrees]
    assert needed == sorted(needed, reverse=True), (degrees, needed)


@given(model=decoders(), instance=instances, shape=shapes, more=shapes)
def test_more_batch_or_sequence_never_lowers_memory(
    model: Decoder, instance: Instance, shape: tuple[int, int], more: tuple[int, int]
) -> None:
    degree = possible_degrees(instance, model)[-1]
    batch, length = shape
    small = memory(model, instance, degree, batch, length)
    assert memory(model, instance, degree, batch + more[0], length).needed >= small.needed
    assert memory(model, instance, degree, batch, length + more[1]).needed >= small.needed
    # What fits still fits with less.
    if small.fits and batch > 1:
        assert memory(model, instance, degree, batch - 1, length).fits


@given(model=decoders(), instance=instances, quantization=st.sampled_from(QUANTIZATIONS[1:]))
def test_quantised_weights_are_smaller(model: Decoder, instance: Instance, quantization: str) -> None:
    def weights(name: str | None) -> int:
        return plan_memory(
            model, instance=instance, tensor_parallel_degree=1, batch_size=1, sequence_length=64, quantization=name
        ).bytes_of("weights")

    assert weights(quantization) < weights(None)


def model_of(architecture: Decoder) -> Model:
    return Model(hub_id="org/model", revision="0" * 40, license="apache-2.0", gated=False, architecture=architecture)


def serving_of(length: int, quantization: str | None = None) -> Serving:
    return Serving(
        engine="tgi-neuronx",
        engine_version="0.0.25",
        instance_type="ml.inf2.48xlarge",
        tensor_parallel_degree=8,
        batch_size=1,
        sequence_length=length,
        max_input_tokens=length // 2,
        dtype="fp16",
        health_check_timeout_seconds=3600,
        download_timeout_seconds=3600,
        quantization=quantization,  # type: ignore[arg-type]
    )


@settings(max_examples=25, deadline=None)
@given(
    architecture=decoders(),
    length=st.sampled_from([1024, 2048, 4096, 16_384]),
    quantization=st.sampled_from([None, None, "awq", "fp8"]),
    region=st.sampled_from(["us-east-1", "eu-west-1", "ap-southeast-4"]),
)
def test_the_search_never_returns_what_the_planner_refuses(
    architecture: Decoder, length: int, quantization: str | None, region: str
) -> None:
    model = model_of(architecture)
    for found in search(model, serving_of(length, quantization), region=region):
        again = assess(found.model, found.serving, region=region)
        assert again.refusals == ()
        assert again.memory is not None
        assert again.memory.fits
        assert found.serving.sequence_length == length
        # Apart from what the planner says of itself: the plain sum is within what the devices have.
        assert found.instance is not None
        held = weight_bytes(architecture, quantization)
        cache = kv_cache_bytes(architecture, length)
        degree = found.serving.tensor_parallel_degree
        assert held + cache <= degree * found.instance.device_memory_bytes
        assert degree <= found.instance.devices
        assert found.version is not None
        assert architecture.type in found.version.model_types


@pytest.mark.parametrize("name", [instance.name for instance in INSTANCES])
def test_no_instance_type_allows_degree_12(name: str) -> None:
    instance = find_instance(name)
    assert instance is not None
    assert 12 not in instance.tensor_parallel_degrees
