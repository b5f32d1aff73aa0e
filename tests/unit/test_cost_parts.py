"""Tokens, adapters, compile runs and the comparison of Inferentia with GPUs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from modelzone.architectures import Decoder
from modelzone.architectures.lora import lora_adapter_parameters
from modelzone.costs import (
    Alternative,
    adapter_cost,
    cheapest_of_each_kind,
    compare,
    compile_cost,
    measurements,
)
from modelzone.hardware import find_instance
from modelzone.planning import CompileNeeds, assess, plan_environment, plan_memory
from modelzone.planning.throughput import usd_per_million_tokens
from modelzone.prices import instance_price
from modelzone.settings import Adapters

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-east-1"
LLAMA_2_7B = Decoder(
    type="llama", layers=32, hidden_size=4096, attention_heads=32, key_value_heads=32, intermediate_size=11008,
    vocabulary_size=32000, context_length=4096,
)  # fmt: skip


def test_article_003_reproduces_with_its_own_definition_and_with_output_tokens_only() -> None:
    (published,) = (m for m in measurements() if m.name == "article-003-llama-3-8b")
    assert round(published.usd_per_million_input_and_output_tokens, 2) == 1.16
    assert round(published.usd_per_million_input_and_output_tokens, 2) == published.published_usd_per_million_tokens
    assert round(published.usd_per_million_output_tokens, 2) == 1.40
    assert published.output_tokens_per_second == 150
    assert published.tokens_per_second * 60 == pytest.approx(10872)


def test_the_articles_price_is_the_tables() -> None:
    (published,) = (m for m in measurements() if m.name == "article-003-llama-3-8b")
    price = instance_price(published.instance_type, region=REGION)
    assert price is not None
    assert price.usd == published.usd_per_hour


def test_a_million_tokens_take_as_long_as_they_take() -> None:
    # 1000 tokens a second are 3.6 million an hour.
    assert usd_per_million_tokens(3.6, 1000) == pytest.approx(1.0)


@pytest.mark.parametrize(("count", "saved"), [(1, 0.0), (2, 0.5), (5, 0.8), (20, 0.95)])
def test_adapters_on_one_host_save_the_other_hosts(count: int, saved: float) -> None:
    cost = adapter_cost(count, "g6.2xlarge", region=REGION)
    assert cost.saved == pytest.approx(saved)
    assert cost.usd_per_month_shared == pytest.approx(0.9776 * 730)
    assert cost.usd_per_month_apart == pytest.approx(0.9776 * 730 * count)


def test_adapters_on_an_instance_without_a_price_still_save_a_share() -> None:
    cost = adapter_cost(5, "ml.g6e.xlarge", region=REGION)
    assert (cost.usd_per_month_shared, cost.usd_per_month_apart) == (None, None)
    assert cost.saved == pytest.approx(0.8)


def test_adapter_parameters_by_module() -> None:
    # A: rank x 4096, B: 4096 x rank, for four square projections of 32 layers.
    assert lora_adapter_parameters(LLAMA_2_7B, rank=16) == 32 * 16 * 4 * (4096 + 4096)
    assert lora_adapter_parameters(LLAMA_2_7B, rank=8, modules=("q", "v")) == 4_194_304
    assert lora_adapter_parameters(LLAMA_2_7B, rank=1, modules=("gate", "up", "down")) == 32 * 3 * (4096 + 11008)


def test_the_planners_memory_for_adapters_is_the_same_count() -> None:
    instance = find_instance("g6.2xlarge")
    assert instance is not None
    memory = plan_memory(
        LLAMA_2_7B, instance=instance, tensor_parallel_degree=1, batch_size=1, sequence_length=1024,
        adapters=Adapters(count=5, rank=16),
    )  # fmt: skip
    (held,) = (item for item in memory.items if item.name == "adapters")
    assert held.bytes == 5 * 2 * lora_adapter_parameters(LLAMA_2_7B, rank=16)


def _needs(instance_type: str | None) -> CompileNeeds:
    return CompileNeeds(
        instance=find_instance(instance_type) if instance_type else None,
        host_memory_bytes=130 * 1024**3,
        disk_gib=301,
        root_volume_gib=421,
        template=("optimum-cli",),
        command=("optimum-cli",),
    )


def test_a_compile_run_costs_its_host_for_its_hours() -> None:
    cost = compile_cost(_needs("inf2.24xlarge"), region=REGION)
    assert (cost.hours_low, cost.hours_high) == (0.5, 2.0)
    assert cost.usd_low == pytest.approx(0.5 * 6.49063)
    assert cost.usd_high == pytest.approx(2 * 6.49063)
    assert "NOT VERIFIED" in cost.basis
    assert cost.unpriced == ("the host's volume of 421 GiB",)


def test_hours_can_be_given() -> None:
    cost = compile_cost(_needs("inf2.24xlarge"), region=REGION, hours_low=1, hours_high=3)
    assert (cost.usd_low, cost.usd_high) == (pytest.approx(6.49063), pytest.approx(3 * 6.49063))
    assert cost.basis == "hours as given"


def test_a_compile_host_without_a_price_or_without_a_type_is_said() -> None:
    elsewhere = compile_cost(_needs("inf2.24xlarge"), region="eu-west-1")
    assert (elsewhere.usd_low, elsewhere.usd_high) == (None, None)
    assert elsewhere.unpriced[0] == "inf2.24xlarge"
    assert "no instance type is large enough" in compile_cost(_needs(None), region=REGION).unpriced[0]


def test_candidates_become_rows_and_those_that_fit_come_first() -> None:
    plan = plan_environment(ROOT, "dev").deployments[0]
    narrow = msgspec.structs.replace(plan.serving, tensor_parallel_degree=4)
    rows = compare([assess(plan.model, narrow, region=REGION), assess(plan.model, plan.serving, region=REGION)])
    assert [(row.tensor_parallel_degree, row.fits) for row in rows] == [(8, True), (4, False)]
    fitting = rows[0]
    assert (fitting.kind, fitting.instance_type, fitting.usd_per_hour) == ("neuron", "ml.inf2.24xlarge", 7.79)
    assert fitting.basis is not None
    assert fitting.basis.startswith("assumed")
    assert fitting.tokens_per_second is not None
    assert fitting.usd_per_million_tokens == pytest.approx(usd_per_million_tokens(7.79, fitting.tokens_per_second))


def _row(kind: str, usd: float | None, *, fits: bool = True) -> Alternative:
    return Alternative(
        kind="neuron" if kind == "neuron" else "gpu", engine="engine", engine_version="1", instance_type=f"{usd}",
        tensor_parallel_degree=1, batch_size=1, sequence_length=1024, fits=fits, usd_per_hour=1.0,
        tokens_per_second=100.0, basis="assumed", usd_per_million_tokens=usd,
    )  # fmt: skip


def test_the_cheapest_of_each_kind_fits_and_has_a_price() -> None:
    rows = [_row("gpu", 3.0), _row("neuron", None), _row("neuron", 2.0), _row("gpu", 1.0, fits=False), _row("gpu", 2.5)]
    best = cheapest_of_each_kind(rows)
    assert {kind: row.usd_per_million_tokens for kind, row in best.items()} == {"neuron": 2.0, "gpu": 2.5}
    assert cheapest_of_each_kind([_row("neuron", None)]) == {}
