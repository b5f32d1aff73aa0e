"""Memory plans: what is known to run is let in, what is known to fail is refused, and padding is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from modelzone.architectures import Decoder, count_parameters
from modelzone.hardware import Instance, find_instance
from modelzone.planning import plan_memory
from modelzone.planning.memory import GIB, weight_bytes
from modelzone.planning.quantization import FORMATS, weight_format
from modelzone.planning.sharding import possible_degrees, shard
from modelzone.settings import Adapters, load_profile
from modelzone.settings.model_profile import Quantization

ROOT = Path(__file__).resolve().parents[2]


def decoder(kind: str, layers: int, hidden: int, heads: int, kv: int, inter: int, vocabulary: int) -> Decoder:
    return Decoder(
        type=kind,
        layers=layers,
        hidden_size=hidden,
        attention_heads=heads,
        key_value_heads=kv,
        intermediate_size=inter,
        vocabulary_size=vocabulary,
        context_length=32768,
    )


MIXTRAL = load_profile(ROOT, "mixtral-8x7b-instruct").model.architecture
MISTRAL_7B = decoder("mistral", 32, 4096, 32, 8, 14336, 32000)
LLAMA_3_8B = decoder("llama", 32, 4096, 32, 8, 14336, 128256)
LLAMA_2_7B = decoder("llama", 32, 4096, 32, 32, 11008, 32000)
LLAMA_2_70B = decoder("llama", 80, 8192, 64, 8, 28672, 32000)


def instance(name: str) -> Instance:
    found = find_instance(name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("model", "fitting"),
    [
        # Degrees up to 8 are those that the reference names for 16 GiB cores; 24 only has the memory. 4,096 positions.
        (MIXTRAL, (8, 24)),
        (MISTRAL_7B, (2, 4, 8, 24)),
        (LLAMA_3_8B, (2, 4, 8, 24)),
        (LLAMA_2_7B, (2, 4, 8, 24)),
        (LLAMA_2_70B, (24,)),
    ],
)
def test_degrees_that_fit_neuron_cores(model: Decoder, fitting: tuple[int, ...]) -> None:
    large = instance("inf2.48xlarge")
    assert fitting == tuple(
        degree
        for degree in possible_degrees(large, model)
        if plan_memory(model, instance=large, tensor_parallel_degree=degree, batch_size=1, sequence_length=4096).fits
    )


def test_the_sum_is_made_of_its_items_and_each_has_a_source() -> None:
    plan = plan_memory(
        MIXTRAL, instance=instance("inf2.24xlarge"), tensor_parallel_degree=8, batch_size=2, sequence_length=1024
    )
    assert plan.needed == sum(item.bytes for item in plan.items)
    assert all(item.source for item in plan.items)
    # 134 MB a sequence over eight cores.
    assert plan.bytes_of("KV cache") == 2 * 131_072 * 1024 // 8
    assert plan.bytes_of("weights") == pytest.approx(46_702_792_704 * 2 / 8, rel=0.001)
    assert "GiB a NeuronCore" in plan.explain()


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    caches = [
        plan_memory(
            MIXTRAL, instance=instance("inf2.48xlarge"), tensor_parallel_degree=d, batch_size=1, sequence_length=1024
        ).bytes_of("KV cache")
        for d in (4, 8, 24)
    ]
    assert caches == [32 * 2**20, 16 * 2**20, 16 * 2**20]


@pytest.mark.parametrize(
    ("model", "degree", "query", "kv"),
    [
        (MIXTRAL, 8, 4, 1),
        (MIXTRAL, 24, 2, 1),  # 32 heads padded to 48, 8 key-value heads replicated to 24
        (LLAMA_2_70B, 24, 3, 1),  # 64 heads padded to 72
        (LLAMA_2_7B, 24, 2, 2),  # multi-head: 32 key-value heads neither divide nor are divided
        (LLAMA_2_7B, 8, 4, 4),
    ],
)
def test_heads_of_each_core(model: Decoder, degree: int, query: int, kv: int) -> None:
    split = shard(model, degree)
    assert (split.query_heads, split.key_value_heads) == (query, kv)
    assert split.padded is (query * degree > model.attention_heads)


def test_padding_makes_weights_larger() -> None:
    plan = plan_memory(
        LLAMA_2_70B, instance=instance("inf2.48xlarge"), tensor_parallel_degree=24, batch_size=1, sequence_length=128
    )
    counts = count_parameters(LLAMA_2_70B)
    extra = counts.query_output * (72 / 64 - 1) + counts.key_value * (24 / 8 - 1)
    assert plan.bytes_of("weights") * 24 == pytest.approx((counts.total + extra) * 2, rel=0.001)


def test_gpu_degrees_divide_the_heads() -> None:
    odd = decoder("llama", 24, 1792, 28, 4, 4864, 32000)
    assert possible_degrees(instance("g6.48xlarge"), MISTRAL_7B) == (1, 2, 4, 8)
    assert possible_degrees(instance("g6.48xlarge"), odd) == (1, 2, 4)
    assert possible_degrees(instance("g6.2xlarge"), odd) == (1,)


def test_a_paged_server_starts_when_the_longest_sequence_fits() -> None:
    gpu = instance("g6e.2xlarge")
    small = plan_memory(MISTRAL_7B, instance=gpu, tensor_parallel_degree=1, batch_size=1, sequence_length=8192)
    large = plan_memory(MISTRAL_7B, instance=gpu, tensor_parallel_degree=1, batch_size=64, sequence_length=8192)
    assert small.fits
    assert small.holds_full_batch
    assert large.fits
    assert not large.holds_full_batch
    core = plan_memory(
        MISTRAL_7B, instance=instance("inf2.8xlarge"), tensor_parallel_degree=2, batch_size=64, sequence_length=8192
    )
    assert core.elastic == 0
    assert not core.fits


@pytest.mark.parametrize(
    ("quantization", "gigabytes"),
    # 46.7 B parameters, of which 0.26 B (embeddings, head, norms, routers) stay in 16 bits.
    [(None, 93.41), ("fp8", 46.97), ("awq", 24.65), ("bitsandbytes-4bit", 26.65)],
)
def test_sizes_of_quantised_checkpoints(quantization: Quantization | None, gigabytes: float) -> None:
    assert weight_bytes(MIXTRAL, quantization) / 1e9 == pytest.approx(gigabytes, abs=0.01)


def test_every_quantisation_of_the_settings_has_a_format() -> None:
    assert set(FORMATS) == set(Quantization.__args__)
    assert weight_format(None).bits == 16


def test_adapters_take_memory_of_their_own() -> None:
    gpu = instance("g6.2xlarge")
    plan = plan_memory(
        MISTRAL_7B,
        instance=gpu,
        tensor_parallel_degree=1,
        batch_size=1,
        sequence_length=1024,
        adapters=Adapters(count=5, rank=16),
    )
    # q and o: 4096 + 4096, k and v: 4096 + 1024, rank 16, 32 layers: 13.6 M parameters for each adapter.
    assert plan.bytes_of("adapters") == 5 * 32 * 16 * (2 * 8192 + 2 * 5120) * 2
    assert plan.available == gpu.device_memory_bytes
    assert plan.available < 24 * GIB


def test_a_degree_that_would_multiply_the_kv_cache_is_not_offered() -> None:
    grouped = decoder("llama", 40, 5120, 40, 10, 17920, 32064)
    assert possible_degrees(instance("inf2.48xlarge"), grouped) == (1, 2)
    assert possible_degrees(instance("inf2.48xlarge"), LLAMA_2_7B) == (1, 2, 4, 8, 24)


@pytest.mark.parametrize("model", [MISTRAL_7B, LLAMA_2_7B, LLAMA_3_8B])
def test_a_model_of_7b_does_not_fit_one_core_however_short_its_sequences(model: Decoder) -> None:
    plan = plan_memory(
        model, instance=instance("inf2.xlarge"), tensor_parallel_degree=1, batch_size=1, sequence_length=64
    )
    assert not plan.fits


def test_on_neuron_a_sliding_window_saves_nothing() -> None:
    """The cache is compiled for the whole sequence in every layer; GPU servers keep the window only."""
    windowed = replace(MISTRAL_7B, sliding_window=4096)
    caches = {
        name: plan_memory(
            windowed, instance=instance(name), tensor_parallel_degree=2, batch_size=1, sequence_length=32768
        ).bytes_of("KV cache")
        for name in ("inf2.8xlarge", "g6.12xlarge")
    }
    assert caches == {"inf2.8xlarge": 131_072 * 32768 // 2, "g6.12xlarge": 131_072 * 4096 // 2}


def test_only_the_sequences_that_are_held_count() -> None:
    plan = plan_memory(
        MISTRAL_7B, instance=instance("g6.2xlarge"), tensor_parallel_degree=1, batch_size=64, sequence_length=8192
    )
    held = plan.held_sequences(64)
    assert 0 < held < 64
    one = plan.bytes_of("KV cache") // 64
    free = plan.available - (plan.needed - plan.bytes_of("KV cache"))
    assert held * one <= free < (held + 1) * one
