"""``modelzone plan`` prints what the planner says, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode
from modelzone.planning import SearchSpace, assess, rank, search
from modelzone.settings import load_profile

ROOT = Path(__file__).resolve().parents[2]
MIXTRAL = "mixtral-8x7b-instruct"
PROFILE = load_profile(ROOT, MIXTRAL)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["--project", str(ROOT), "plan", *words])


def document(*words: str, code: int = ExitCode.DONE) -> Any:
    answer = run(*words, "--json")
    assert answer.exit_code == code, answer.output
    assert answer.stderr == ""
    return json.loads(answer.stdout)


def test_the_document_is_the_planners_answer() -> None:
    found, expected = document(MIXTRAL), assess(PROFILE.model, PROFILE.serving, region="us-east-1")
    assert expected.memory is not None
    assert expected.throughput is not None
    assert list(found) == [
        "model", "region", "fits", "serving", "instance", "memory", "compile", "environment", "serving_properties",
        "arguments", "usd_per_hour", "usd_per_month", "throughput", "usd_per_million_tokens", "notes", "refusals",
        "alternatives",
    ]  # fmt: skip
    assert (found["fits"], found["refusals"], found["alternatives"]) == (True, [], [])
    assert (
        found["memory"]["needed_bytes"] == expected.memory.needed == sum(i["bytes"] for i in found["memory"]["items"])
    )
    assert found["memory"]["available_bytes"] == expected.memory.available
    assert all(item["source"] for item in found["memory"]["items"])
    assert found["throughput"]["basis"] == expected.throughput.basis
    assert found["usd_per_month"] == pytest.approx(found["usd_per_hour"] * 730)
    assert found["serving"]["instance_type"] == "ml.inf2.24xlarge"
    assert "{model}" in " ".join(found["compile"]["command"])


def test_the_table_has_the_same_figures() -> None:
    found, shown = document(MIXTRAL), run(MIXTRAL).stdout
    for item in found["memory"]["items"]:
        assert f"{item['bytes']:,}" in shown
        assert item["source"] in shown
    for value in (found["memory"]["needed_bytes"], found["memory"]["available_bytes"]):
        assert f"{value:,}" in shown
    for name, value in found["environment"].items():
        assert f"{name}={value}\n" in shown
    assert found["throughput"]["basis"] in shown
    for text in found["notes"]:
        assert text in shown


def test_what_does_not_fit_has_numbers_and_what_would() -> None:
    words = [MIXTRAL, "--tensor-parallel-degree", "4"]
    found = document(*words, code=ExitCode.REFUSED)
    (refusal,) = found["refusals"]
    assert (found["fits"], refusal["key"], refusal["value"]) == (False, "tensor_parallel_degree", 4)
    assert "GiB" in refusal["problem"]
    prices = [row["usd_per_million_tokens"] for row in found["alternatives"]]
    assert prices
    assert prices == sorted(prices)
    assert {row["engine"] for row in found["alternatives"]} == {"tgi-neuronx"}
    assert {row["batch_size"] for row in found["alternatives"]} == {1}
    answer = run(*words)
    assert answer.exit_code == ExitCode.REFUSED
    assert f"refused: tensor_parallel_degree 4 {refusal['problem']}\n" in answer.stdout
    assert "What would fit, cheapest tokens first" in answer.stdout


def test_a_refusal_has_alternatives_on_the_wished_instance_first() -> None:
    words = [MIXTRAL, "--instance", "ml.inf2.48xlarge", "--tensor-parallel-degree", "4"]
    found = document(*words, code=ExitCode.REFUSED)
    assert {row["instance_type"] for row in found["alternatives"]} == {"ml.inf2.48xlarge"}


def test_the_degree_of_another_instance_type_is_chosen() -> None:
    found = document(MIXTRAL, "--instance", "ml.inf2.48xlarge")
    space = SearchSpace(engine="tgi-neuronx", engine_version="0.0.25", instance_type="ml.inf2.48xlarge", batch_size=1)
    best = search(PROFILE.model, PROFILE.serving, region="us-east-1", space=space)[0]
    assert found["serving"]["tensor_parallel_degree"] == best.serving.tensor_parallel_degree


def test_an_instance_type_that_the_engine_does_not_run_on() -> None:
    found = document(MIXTRAL, "--instance", "ml.g5.48xlarge", code=ExitCode.REFUSED)
    assert found["refusals"][0]["key"] == "instance_type"


@pytest.mark.parametrize("name", ["inf2.24xlarge", "nonsense"])
def test_an_instance_type_that_is_none(name: str) -> None:
    found = document(MIXTRAL, "--instance", name, code=ExitCode.REFUSED)
    assert found["refusals"][0]["value"] == name


def test_an_engine_that_is_none() -> None:
    found = document(MIXTRAL, "--engine", "nonsense", code=ExitCode.REFUSED)
    assert (found["refusals"][0]["key"], found["memory"]) == ("engine", None)
    assert "is not an engine" in run(MIXTRAL, "--engine", "nonsense").stdout


def test_a_shorter_sequence_has_a_shorter_prompt() -> None:
    serving = document(MIXTRAL, "--sequence-length", "512")["serving"]
    assert (serving["sequence_length"], serving["max_input_tokens"]) == (512, 256)


def test_one_device_is_one() -> None:
    shown = run(MIXTRAL, "--instance", "g5.xlarge", "--engine", "lorax").stdout
    assert "(1 x A10G, 1 GPU) in" in shown


def test_a_region_without_images_is_said_and_not_guessed() -> None:
    answer = run(MIXTRAL, "--region", "us-iso-west-1")
    assert answer.exit_code == ExitCode.REFUSED
    assert "us-iso-west-1" in answer.stdout


@pytest.mark.parametrize("by", ["tokens", "hour"])
def test_the_search_is_ranked(by: str) -> None:
    found = document(MIXTRAL, "--search", "--by", by, "--limit", "1000")
    expected = rank(search(PROFILE.model, PROFILE.serving, region="us-east-1"), by=by)  # type: ignore[arg-type]
    assert found["found"] == len(expected) == len(found["candidates"])
    for row, candidate in zip(found["candidates"], expected, strict=True):
        assert row["instance_type"] == candidate.serving.instance_type
        assert row["usd_per_million_tokens"] == candidate.usd_per_million_tokens


def test_the_search_keeps_to_what_is_given_and_to_the_limit() -> None:
    found = document(MIXTRAL, "--search", "--instance", "ml.inf2.48xlarge", "--batch-size", "4", "--limit", "1")
    assert len(found["candidates"]) == 1 <= found["found"]
    assert found["candidates"][0]["instance_type"] == "ml.inf2.48xlarge"
    assert found["candidates"][0]["batch_size"] == 4


def test_a_search_that_finds_nothing() -> None:
    words = [MIXTRAL, "--search", "--instance", "ml.inf2.xlarge"]
    assert document(*words, code=ExitCode.REFUSED)["candidates"] == []
    answer = run(*words)
    assert (answer.exit_code, answer.stdout) == (ExitCode.REFUSED, "")
    assert "nothing that this project knows serves" in answer.stderr


def test_a_model_that_no_engine_serves(tmp_path: Path) -> None:
    config = {
        "model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "n_positions": 2048, "vocab_size": 50400,
        "rotary_dim": 64, "n_inner": None, "tie_word_embeddings": False, "activation_function": "gelu_new",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    answer = run(str(tmp_path), "--json", "--engine", "tgi-neuronx")
    found = json.loads(answer.stdout)
    assert (answer.exit_code, found["fits"]) == (ExitCode.REFUSED, False)
    assert "gptj" in json.dumps(found["refusals"])
