"""Writes the figures of docs/costs.md: ``python -m tools.costs``; with ``--check`` it only compares them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from modelzone.architectures import Decoder, parameter_count
from modelzone.architectures.lora import lora_adapter_parameters
from modelzone.costs import (
    adapter_cost,
    cheapest_of_each_kind,
    compare,
    compile_cost,
    environment_costs,
    markdown,
    measurements,
    monthly_line,
)
from modelzone.planning import assess, plan_environment, search

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "costs.md"
REGION = "us-east-1"
_BLOCK = re.compile(r"(<!-- printed: ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _number(value: float | None, digits: int = 0) -> str:
    return "unknown" if value is None else f"{value:,.{digits}f}"


def _environment() -> str:
    return markdown(environment_costs(plan_environment(ROOT, "dev")))


def _synth() -> str:
    lines = "\n".join(monthly_line(plan_environment(ROOT, name)) for name in ("dev", "prod"))
    return f"```text\n{lines}\n```\n"


def _tokens() -> str:
    rows = "".join(
        f"| {m.model} on {m.instance_type} | {m.requests_per_second:g} | {m.input_tokens} | {m.output_tokens} "
        f"| {m.usd_per_hour:g} | {m.usd_per_million_input_and_output_tokens:.2f} "
        f"| {m.usd_per_million_output_tokens:.2f} |\n"
        for m in measurements()
    )
    return (
        "| measured | requests/s | tokens in | tokens out | USD/h | USD per million in and out | per million out |\n"
        f"|---|---:|---:|---:|---:|---:|---:|\n{rows}"
    )


def _compile() -> str:
    plan = plan_environment(ROOT, "dev").deployments[0]
    needs = assess(plan.model, plan.serving, region=REGION).compile
    if needs is None:
        return "This engine compiles nothing.\n"
    cost = compile_cost(needs, region=REGION)
    return (
        f"{plan.model.hub_id} on {cost.instance_type}, in US dollars: {_number(cost.usd_low, 2)} for "
        f"{cost.hours_low:g} hours to {_number(cost.usd_high, 2)} for {cost.hours_high:g} hours ({cost.basis}). "
        f"No price known: {', '.join(cost.unpriced) or 'nothing'}.\n"
    )


def _adapters() -> str:
    llama = Decoder(
        type="llama", layers=32, hidden_size=4096, attention_heads=32, key_value_heads=32, intermediate_size=11008,
        vocabulary_size=32000, context_length=4096,
    )  # fmt: skip
    rows = ""
    for count in (2, 5, 25):
        cost = adapter_cost(count, "g6.2xlarge", region=REGION)
        shared, apart = _number(cost.usd_per_month_shared), _number(cost.usd_per_month_apart)
        rows += f"| {count} | {shared} | {apart} | {cost.saved:.0%} |\n"
    size = lora_adapter_parameters(llama, rank=16)
    return (
        "| adapters | USD a month on one g6.2xlarge | on one each | saved |\n|---:|---:|---:|---:|\n"
        f"{rows}\nAn adapter of rank 16 on q, k, v and o of Llama 2 7B has {size:,} parameters, "
        f"{size / parameter_count(llama):.2%} of the model's {parameter_count(llama):,}.\n"
    )


def _compare() -> str:
    plan = plan_environment(ROOT, "dev").deployments[0]
    rows = ""
    for row in cheapest_of_each_kind(compare(search(plan.model, plan.serving, region=REGION))).values():
        rows += (
            f"| {row.engine} {row.engine_version} | {row.instance_type} | {row.tensor_parallel_degree} "
            f"| {row.batch_size} | {_number(row.usd_per_hour, 2)} | {_number(row.tokens_per_second)} "
            f"| {_number(row.usd_per_million_tokens, 2)} |\n"
        )
    return (
        f"{plan.model.hub_id}, sequence length {plan.serving.sequence_length}, cheapest output tokens of each kind:\n\n"
        "| engine | instance | degree | batch | USD/h | output tokens/s | USD per million |\n"
        f"|---|---|---:|---:|---:|---:|---:|\n{rows}"
    )


_PRINTERS: dict[str, Callable[[], str]] = {
    "environment": _environment,
    "synth": _synth,
    "tokens": _tokens,
    "compile": _compile,
    "adapters": _adapters,
    "compare": _compare,
}


def render(text: str) -> str:
    """Put what is printed now between the marks."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{_PRINTERS[found[2]]()}\n{found[3]}", text)


def main() -> int:
    """Rewrite the document, or check it."""
    before = DOCUMENT.read_text(encoding="utf-8")
    after = render(before)
    if "--check" in sys.argv[1:]:
        return int(before != after)
    DOCUMENT.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
