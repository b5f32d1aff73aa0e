"""The search finds every way to serve a model and ranks them by cost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from modelzone.engines import image_uri
from modelzone.hardware import find_instance
from modelzone.planning import Assessment, SearchSpace, assess, rank, search
from modelzone.planning.throughput import estimate_throughput
from modelzone.settings import ModelProfile, load_profile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def mixtral() -> ModelProfile:
    return load_profile(ROOT, "mixtral-8x7b-instruct")


@pytest.fixture(scope="module")
def found(mixtral: ModelProfile) -> tuple[Assessment, ...]:
    return search(mixtral.model, mixtral.serving, region="us-east-1")


def test_the_cheapest_tokens_come_first(found: tuple[Assessment, ...]) -> None:
    costs = [a.usd_per_million_tokens for a in found if a.usd_per_million_tokens is not None]
    assert len(costs) > 10
    assert costs == sorted(costs)
    hours = [a.usd_per_hour for a in rank(found, by="hour") if a.usd_per_hour is not None]
    assert hours == sorted(hours)


def test_the_articles_way_is_among_them(found: tuple[Assessment, ...]) -> None:
    ways = {(a.serving.engine, a.serving.instance_type, a.serving.tensor_parallel_degree) for a in found}
    assert ("tgi-neuronx", "ml.inf2.24xlarge", 8) in ways
    assert ("tgi-neuronx", "ml.inf2.24xlarge", 4) not in ways
    assert {a.instance.accelerator.kind for a in found if a.instance} == {"neuron", "gpu"}


def test_a_search_is_held_to_what_is_given(mixtral: ModelProfile) -> None:
    space = SearchSpace(engine="tgi-neuronx", instance_type="ml.inf2.48xlarge", batch_size=1)
    ways = search(mixtral.model, mixtral.serving, region="us-east-1", space=space)
    assert {a.serving.tensor_parallel_degree for a in ways} == {8, 24}
    assert {a.serving.instance_type for a in ways} == {"ml.inf2.48xlarge"}
    assert {a.serving.batch_size for a in ways} == {1}
    only = search(mixtral.model, mixtral.serving, region="us-east-1", space=SearchSpace(tensor_parallel_degree=24))
    assert {a.serving.tensor_parallel_degree for a in only} == {24}


def test_what_fits_nowhere_is_found_nowhere(mixtral: ModelProfile) -> None:
    huge = replace(mixtral.model.architecture, layers=500)
    assert search(replace(mixtral.model, architecture=huge), mixtral.serving, region="us-east-1") == ()


def test_what_has_no_price_comes_last_and_is_not_dropped(mixtral: ModelProfile) -> None:
    ways = search(mixtral.model, mixtral.serving, region="ap-southeast-4")
    prices = [a.usd_per_million_tokens for a in ways]
    assert None in prices
    first = prices.index(None)
    assert all(price is None for price in prices[first:])


def test_the_estimate_agrees_with_the_measurement_of_article_003() -> None:
    """150 output tokens a second of Llama 3 8B on two cores, ten users; the batch size is not told."""
    instance = find_instance("inf2.xlarge")
    assert instance is not None
    llama = load_profile(ROOT, "llama-3-8b-instruct").model.architecture
    low, high = (
        estimate_throughput(llama, instance=instance, tensor_parallel_degree=2, batch_size=size, sequence_length=2048)
        for size in (4, 5)
    )
    assert low is not None
    assert high is not None
    assert low.tokens_per_second < 150 < high.tokens_per_second
    assert low.basis.startswith("assumed: ")


def test_a_misfit_says_how_far_it_could_go(mixtral: ModelProfile) -> None:
    serving = replace(mixtral.serving, batch_size=64, sequence_length=32768, max_input_tokens=16384)
    (refusal,) = assess(mixtral.model, serving, region="us-east-1").refusals
    assert "KV cache 32.00" in refusal.problem
    assert "sequence length" in refusal.fix
    assert "here" in refusal.fix


def test_every_refusal_is_reported_not_only_the_first(mixtral: ModelProfile) -> None:
    serving = replace(mixtral.serving, tensor_parallel_degree=16, dtype="fp16", quantization="awq", volume_size_gib=10)
    keys = {refusal.key for refusal in assess(mixtral.model, serving, region="us-east-1").refusals}
    assert {"tensor_parallel_degree", "quantization", "volume_size_gib"} <= keys


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"engine": "nothing"}, "engine"),
        ({"engine_version": "9"}, "engine_version"),
        ({"instance_type": "ml.c5.xlarge"}, "instance_type"),
        ({"instance_type": "ml.g6.12xlarge"}, "instance_type"),
    ],
)
def test_what_does_not_exist_is_refused_without_more(mixtral: ModelProfile, change: dict[str, str], key: str) -> None:
    found = assess(mixtral.model, replace(mixtral.serving, **change), region="us-east-1")
    assert [refusal.key for refusal in found.refusals] == [key]
    assert found.memory is None
    assert not found.fits


def test_notes_say_what_stays_idle_and_what_is_padded(mixtral: ModelProfile) -> None:
    assert "4 of 12 NeuronCores stay idle" in assess(mixtral.model, mixtral.serving, region="us-east-1").notes
    wide = replace(mixtral.serving, instance_type="ml.inf2.48xlarge", tensor_parallel_degree=24)
    notes = assess(mixtral.model, wide, region="us-east-1").notes
    assert "32 attention heads are padded to 48: attention weights grow by 50%" in notes


def test_a_model_too_large_to_compile_on_its_own_host_gets_a_larger_one(mixtral: ModelProfile) -> None:
    llama = load_profile(ROOT, "llama-3-8b-instruct")
    serving = replace(llama.serving, instance_type="ml.inf2.xlarge", tensor_parallel_degree=2)
    found = assess(llama.model, serving, region="us-east-1")
    assert found.refusals == ()
    assert found.compile is not None
    assert found.compile.instance is not None
    # 16 GiB of host memory do not hold 16 GB of weights and the compiler.
    assert found.compile.instance.name == "inf2.8xlarge"
    assert found.compile.host_memory_bytes > 16 * 2**30


def test_an_engine_that_compiles_when_it_starts_needs_the_memory_on_its_own_host() -> None:
    mistral = load_profile(ROOT, "mistral-7b-instruct")
    moved = replace(mistral.serving, engine="lmi-neuronx", engine_version="0.26.0", volume_size_gib=64)
    small = assess(mistral.model, replace(moved, instance_type="ml.inf2.xlarge"), region="us-east-1")
    assert [refusal.key for refusal in small.refusals] == ["instance_type"]
    assert "16 GiB of host memory" in small.refusals[0].problem
    assert "ml.inf2.8xlarge" in small.refusals[0].fix
    assert assess(mistral.model, replace(moved, instance_type="ml.inf2.8xlarge"), region="us-east-1").refusals == ()


def test_the_fix_of_a_misfit_fits(mixtral: ModelProfile) -> None:
    (refusal,) = assess(mixtral.model, replace(mixtral.serving, batch_size=1024), region="us-east-1").refusals
    shorter = re.search(r"sequence length (\d+)(?: \(and max_input_tokens (\d+)\))? with this batch", refusal.fix)
    assert shorter is not None
    fixed = replace(
        mixtral.serving,
        batch_size=1024,
        sequence_length=int(shorter[1]),
        max_input_tokens=int(shorter[2] or mixtral.serving.max_input_tokens),
    )
    assert fixed.max_input_tokens < fixed.sequence_length
    assert assess(mixtral.model, fixed, region="us-east-1").refusals == ()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        # An image of another version, and the right one in another region.
        (("0.0.25", "0.0.28"), "image_uri"),
        (("us-east-1", "eu-west-1"), "image_uri"),
        (("", ""), None),
    ],
)
def test_a_model_is_served_in_the_image_that_compiled_it(
    mixtral: ModelProfile, change: tuple[str, str], key: str | None
) -> None:
    own = image_uri(engine="tgi-neuronx", version="0.0.25", region="us-east-1")
    serving = replace(mixtral.serving, image_uri=own.replace(*change))
    found = assess(mixtral.model, serving, region="us-east-1")
    assert [refusal.key for refusal in found.refusals] == ([key] if key else [])


@pytest.mark.parametrize(("size", "fits"), [(100, False), (104, False), (105, True)])
def test_a_volume_has_room_for_more_than_the_weights(mixtral: ModelProfile, size: int, *, fits: bool) -> None:
    """87 GiB of weights and a fifth more."""
    found = assess(mixtral.model, replace(mixtral.serving, volume_size_gib=size), region="us-east-1")
    assert found.fits is fits


def test_sequences_that_are_not_held_give_no_throughput() -> None:
    mistral = load_profile(ROOT, "mistral-7b-instruct")
    gpu = replace(
        mistral.serving,
        engine="lmi-vllm",
        engine_version="0.38.0",
        instance_type="ml.g6.2xlarge",
        tensor_parallel_degree=1,
        sequence_length=8192,
        volume_size_gib=None,
    )
    few, many = (assess(mistral.model, replace(gpu, batch_size=size), region="us-east-1") for size in (64, 512))
    assert few.throughput is not None
    assert many.throughput is not None
    assert few.memory is not None
    assert few.memory.held_sequences(64) < 64
    assert many.throughput.tokens_per_second == pytest.approx(few.throughput.tokens_per_second, rel=0.3)
