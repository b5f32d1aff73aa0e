"""LoRAX: the launcher's arguments."""

from __future__ import annotations

from typing import Any

import pytest
from unit.engine_cases import decoder, serving

from modelzone.engines import ENGINES
from modelzone.refusals import Refusal
from modelzone.resources import read_data
from modelzone.settings.model_profile import Serving

LORAX = ENGINES["lorax"]
TABLE = read_data("modelzone.engines", "lorax_arguments.yaml")["versions"]["0.12.1"]


def given(**changes: Any) -> Serving:
    base = {"instance_type": "g6.xlarge", "tensor_parallel_degree": 1, "dtype": "fp16"}
    return serving("lorax", "0.12.1", **{**base, **changes})


def check(kind: str = "mistral", **changes: Any) -> list[Refusal]:
    return list(LORAX.check("0.12.1", decoder(kind), given(**changes)))


def launch(**changes: Any) -> tuple[str, ...]:
    return LORAX.launch_arguments("0.12.1", decoder(), given(**changes))


def test_it_runs_on_ec2() -> None:
    assert LORAX.hosting == "ec2"
    assert LORAX.serving_properties("0.12.1", decoder(), given()) is None


def test_launch() -> None:
    assert launch(adapters={"count": 5}, quantization="bitsandbytes-4bit", options={"trust_remote_code": True}) == (
        "--json-output", "--trust-remote-code", "--model-id", "{model}", "--source", "hub", "--port", "80",
        "--num-shard", "1", "--max-input-length", "3072", "--max-total-tokens", "4096",
        "--adapter-memory-fraction", "0.1", "--cuda-memory-fraction", "1.0", "--quantize", "bitsandbytes-nf4",
        "--max-active-adapters", "5",
    )  # fmt: skip


def test_dtype_is_said_without_quantisation_only() -> None:
    """The server refuses to start with both."""
    plain = launch(dtype="bf16")
    assert plain[plain.index("--dtype") + 1] == "bfloat16"
    assert "--quantize" not in plain
    for quantization in LORAX.versions["0.12.1"].quantizations:
        assert "--dtype" not in launch(quantization=quantization)
        (refusal,) = check(quantization=quantization, dtype="bf16")
        assert (refusal.key, refusal.value, refusal.fix) == ("dtype", "bf16", "use fp16")
        assert quantization in refusal.problem
        assert check(quantization=quantization) == []
    assert check(dtype="bf16") == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quantization": "awq", "options": {"dtype": "float16"}}, "--quantize awq, which the plan writes"),
        ({"options": {"quantize": "awq"}}, "--dtype float16, which the plan writes"),
    ],
)
def test_options_bring_in_neither_beside_the_other(changes: dict[str, Any], says: str) -> None:
    (refusal,) = check(**changes)
    assert says in refusal.problem
    assert "the server refuses both" in refusal.problem


@pytest.mark.parametrize("quantization", [None, *sorted(LORAX.versions["0.12.1"].quantizations)])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_every_launch_is_one_that_the_launcher_understands(quantization: str | None, dtype: str) -> None:
    """Against the table of its arguments: kinds, and choices where there are some."""
    options = {"eager_prefill": True, "max_best_of": 1, "waiting_served_ratio": 1.5, "compile": True}
    words = list(launch(quantization=quantization, dtype=dtype, options=options, adapters={"count": 8}))
    numbers = {"int": int, "float": float}
    while words:
        flag = words.pop(0)
        assert flag.startswith("--")
        name = flag.removeprefix("--")
        kind = TABLE["arguments"][name]["kind"]
        if kind == "flag":
            continue
        value = words.pop(0)
        numbers.get(kind, str)(value)
        assert kind != "bool" or value in {"true", "false"}
        assert value in TABLE["choices"].get(name, [value])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_batch_size": 8}, "is not an argument of lorax-launcher 0.12.1"),
        # Added after 0.12.1.
        ({"memory_wiggle_room": 0.9}, "is not an argument"),
        ({"num_shard": 4}, "contradicts the plan, which writes --num-shard 1"),
        ({"max_total_tokens": 8192}, "contradicts the plan, which writes --max-total-tokens 4096"),
        ({"model_id": "x/y"}, "contradicts the plan"),
        ({"max_concurrent_requests": "many"}, "is not what --max-concurrent-requests takes"),
        ({"compile": "yes"}, "is not what --compile takes"),
        ({"backend": "fa3"}, "is not a choice of --backend"),
    ],
)
def test_options_that_the_launcher_would_refuse(options: dict[str, Any], says: str) -> None:
    (refusal,) = check(options=options)
    assert says in refusal.problem


def test_options_that_repeat_the_plan_or_add_to_it_are_fine() -> None:
    assert check(options={"max_total_tokens": 4096, "max_concurrent_requests": 256, "backend": "flashinfer"}) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [("NUM_SHARD", "which the plan writes as 1"), ("MAX_BEST_OF", "which the plan does not see")],
)
def test_variables_of_the_launcher(name: str, says: str) -> None:
    (refusal,) = check(environment={name: "2"})
    assert says in refusal.problem
    (refusal,) = check(environment={"QUANTIZE": "awq"})
    assert refusal.fix == "leave it out"
    assert check(environment={"PREDIBASE_MODEL_BUCKET": "adapters", "RUST_LOG": "info"}) == []


def test_adapters_need_a_type_that_takes_them() -> None:
    (refusal,) = check("falcon", adapters={"count": 2})
    assert (refusal.key, refusal.value) == ("adapters", 2)
    assert check("mistral", adapters={"count": 2}) == []
