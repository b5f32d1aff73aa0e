"""Every verb answers people and machines; what does not exist is said with a suggestion."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., Result]
MIXTRAL = "mixtral-8x7b-instruct"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("environments", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "cdk.json").write_text("{}")
    return tmp_path


@pytest.fixture
def run(project: Path) -> Run:
    runner = CliRunner()
    return lambda *words: runner.invoke(app, ["--project", str(project), *map(str, words)])


def document(result: Result, code: int = ExitCode.DONE) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "words",
    [
        ["plan", MIXTRAL],
        ["plan", MIXTRAL, "--search"],
        ["cost", "dev"],
        ["params", "dev", "mixtral", "scaling.max_instances=4"],
        ["models"],
        ["engines"],
        ["engines", "tgi-neuronx"],
        ["instances"],
        ["environments"],
        ["prices", "show"],
    ],
)
def test_each_listing_has_a_table_and_one_json_document(run: Run, words: list[str]) -> None:
    assert isinstance(document(run(*words, "--json")), dict)
    shown = run(*words)
    assert shown.exit_code == ExitCode.DONE
    assert shown.stdout
    assert not shown.stdout.startswith("{")


@pytest.mark.parametrize(
    "words",
    [
        [], ["plan"], ["cost"], ["params"], ["models"], ["engines"], ["instances"], ["environments"],
        ["profile"], ["profile", "add"], ["doctor", "log"], ["doctor", "preflight"],
        ["prices"], ["prices", "show"], ["prices", "refresh"],
        ["chat"], ["keys"], ["keys", "create"], ["keys", "list"], ["keys", "rotate"], ["keys", "revoke"],
        ["local"], ["local", "up"], ["local", "status"], ["local", "chat"], ["local", "down"],
    ],
)  # fmt: skip
def test_each_verb_has_help_with_examples(run: Run, words: list[str]) -> None:
    shown = run(*words, "--help")
    assert shown.exit_code == ExitCode.DONE
    assert "Examples:\n    modelzone " in shown.stdout
    assert words or "Exit status:\n      0  done" in shown.stdout


@pytest.mark.parametrize(
    "words", [["plan"], ["profile", "add"], ["params"], ["instances"], ["cost"], ["chat"], ["keys", "create"]]
)
def test_every_option_has_a_text(run: Run, words: list[str]) -> None:
    shown = run(*words, "--help").stdout.partition("Options:")[2].partition("Examples:")[0]
    entries = re.split(r"\n(?=  -)", shown)[1:]
    assert len(entries) > 1
    for entry in entries:
        # The text begins beside the option or on the next line, at the column of all texts.
        assert re.search(r"\S\s{2,}[A-Z]", entry.strip()), entry


@pytest.mark.parametrize(
    ("region", "says"),
    [
        ("mars-1", "known: af-south-1, "),
        ("us-est-1", "did you mean us-west-1 or us-east-1"),
        ("eu-west1", "did you mean eu-west-1"),
    ],
)
def test_a_region_that_does_not_exist_is_refused(run: Run, region: str, says: str) -> None:
    for words in (["plan", MIXTRAL], ["instances"], ["profile", "add", "nowhere"]):
        answer = run(*words, "--region", region)
        assert (answer.exit_code, answer.stdout) == (ExitCode.REFUSED, "")
        assert f"--region {region}: there is no such region; {says}" in answer.stderr


# The second has no image in the table; the SDK knows it.
@pytest.mark.parametrize("region", ["eu-west-1", "us-iso-west-1"])
def test_a_region_without_prices_is_one(run: Run, region: str) -> None:
    rows = document(run("instances", "--region", region, "--json"))["instances"]
    assert {row["ec2_price"] for row in rows} == {None}


def test_the_help_has_every_verb_with_a_whole_sentence(run: Run) -> None:
    shown = run("--help").stdout
    assert "..." not in shown.replace("[ARGS]...", "")
    names = ("plan", "cost", "params", "models", "engines", "instances", "environments", "profile", "doctor")
    for name in (*names, "chat", "keys"):
        assert re.search(rf"^  {name}  .*\.$", shown, re.MULTILINE)


def test_models_has_the_numbers_of_each_profile(run: Run) -> None:
    rows = {row["name"]: row for row in document(run("models", "--json"))["models"]}
    assert set(rows) == {path.stem for path in (ROOT / "models").glob("*.yaml")}
    mixtral = rows[MIXTRAL]
    assert mixtral["parameters"] == 46_702_792_704
    assert mixtral["bytes_16_bit"] == 93_405_585_408
    assert mixtral["kv_cache_bytes_per_token"] == 131_072
    assert (mixtral["gated"], mixtral["engine"], mixtral["context_length"]) == (True, "tgi-neuronx", 32_768)


def test_a_broken_profile_does_not_hide_the_others(run: Run, project: Path) -> None:
    (project / "models" / "bad.yaml").write_text("name: bad\n")
    answer = run("models", "--json")
    found = document(answer, ExitCode.REFUSED)
    assert MIXTRAL in [row["name"] for row in found["models"]]
    assert found["broken"][0]["source"].endswith("bad.yaml")
    assert answer.stderr.startswith("error: ")


def test_a_broken_environment_does_not_hide_the_others(run: Run, project: Path) -> None:
    file = project / "environments" / "bad.yaml"
    data = yaml.safe_load((project / "environments" / "dev.yaml").read_text())
    data["name"] = "bad"
    data["deployments"]["mixtral"]["tensor_parallel_degree"] = 4
    file.write_text(yaml.safe_dump(data))
    found = document(run("environments", "--json"), ExitCode.REFUSED)
    assert [row["name"] for row in found["environments"]] == ["dev", "prod"]
    assert [row["name"] for row in found["broken"]] == ["bad"]
    assert "GiB" in found["broken"][0]["problem"]


def test_environments_says_what_is_deployed_and_what_a_month_costs(run: Run) -> None:
    rows = {row["name"]: row for row in document(run("environments", "--json"))["environments"]}
    (mixtral,) = rows["dev"]["deployments"]
    assert (mixtral["stack"], mixtral["profile"]) == ("InferentiaMixtralStack", MIXTRAL)
    costs = document(run("cost", "dev", "--json"))
    assert rows["dev"]["usd_per_month"] == costs["usd_per_month"]


def test_engines_of_a_name_that_is_nearly_one(run: Run) -> None:
    answer = run("engines", "tgi-neuron")
    assert answer.exit_code == ExitCode.REFUSED
    assert answer.stderr.startswith("error: there is no engine 'tgi-neuron'; did you mean tgi-neuronx? known: ")


def test_instances_of_a_family_with_prices_of_a_region(run: Run) -> None:
    found = document(run("instances", "--family", "inf2", "--json"))
    largest = found["instances"][-1]
    assert largest["name"] == "inf2.48xlarge"
    assert (largest["devices"], largest["tensor_parallel_degrees"]) == (24, [1, 2, 4, 8, 24])
    assert largest["sagemaker_price"]["usd_per_hour"] > largest["ec2_price"]["usd_per_hour"] > 0
    nowhere = document(run("instances", "--family", "inf2", "--region", "eu-west-1", "--json"))
    assert nowhere["instances"][-1]["ec2_price"] is None
    assert "unknown" in run("instances", "--family", "inf2", "--region", "eu-west-1").stdout
    assert "did you mean inf2?" in run("instances", "--family", "inf").stderr


def test_prices_of_a_region_without_any(run: Run) -> None:
    answer = run("prices", "show", "--region", "xx-nowhere-1")
    assert answer.exit_code == ExitCode.REFUSED
    assert "the tables have no prices of xx-nowhere-1; they have: " in answer.stderr


def test_prices_say_where_they_come_from(run: Run) -> None:
    (region,) = document(run("prices", "show", "--region", "us-east-1", "--json"))["regions"]
    for price in region["prices"]:
        assert price["usd"] > 0
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", price["date"])
        assert price["source"]
    assert not {price["name"] for price in region["prices"]} & set(region["unknown"])


def test_cost_with_overrides_comparison_and_adapters(run: Run) -> None:
    plain = document(run("cost", "dev", "--json"))
    words = ["-c", "deployment.mixtral.scaling.min_instances=2", "--compare", "--adapters", "5"]
    found = document(run("cost", "dev", *words, "--json"))
    (mixtral,) = found["deployments"]
    hosting = [line for line in found["lines"] if line["kind"] == "ml.inf2.24xlarge"]
    assert found["usd_per_hour"] > plain["usd_per_hour"]
    assert hosting[0]["count"] == 2
    assert mixtral["adapters"]["saved"] == pytest.approx(0.8)
    assert mixtral["alternatives"]["neuron"]["usd_per_million_tokens"] > 0
    shown = run("cost", "dev", *words).stdout
    assert "80% saved" in shown
    assert "cheapest neuron" in shown


def test_cost_as_markdown_is_the_table_alone(run: Run) -> None:
    shown = run("cost", "dev", "--markdown")
    assert shown.exit_code == ExitCode.DONE
    assert "|---|" in shown.stdout
    assert run("cost", "dev", "--markdown", "--json").exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["cost", "devv"], 1, "there is no environment named 'devv'"),
        (["cost", "dev", "-c", "deployment.mixtral.batch_sise=2"], 1, "did you mean batch_size?"),
        (["cost", "dev", "-c", "deployment.mixtral"], 2, "'deployment.mixtral' is not deployment.X.FIELD=VALUE"),
        (["cost", "dev", "-c", "environment=prod"], 1, "is not an override"),
        (["cost"], 2, "Missing argument 'ENV'"),
        (["environment"], 2, "Did you mean 'environments'?"),
        (["plan", MIXTRAL, "--instanc", "x"], 2, "--instance"),
        (["plan", "mixtral-8x7b-instrukt"], 1, "did you mean mixtral-8x7b-instruct?"),
        (["plan", "a/b"], 1, "does not exist"),
        (["plan", MIXTRAL, "--by", "day"], 2, "--by day: use tokens or hour"),
        (["plan", MIXTRAL, "--batch-size", "0"], 1, "--batch-size 0: batch_size: 0 is refused"),
        (["plan", MIXTRAL, "--batch-size", "many"], 2, "Invalid value for '--batch-size'"),
        (["plan", MIXTRAL, "--dtype", "fp8"], 1, "--dtype fp8: dtype: 'fp8' is refused"),
        (["plan", MIXTRAL, "--search", "--engine", "tgi"], 1, "--engine tgi: does not exist"),
        (["plan", MIXTRAL, "--search", "--instance", "inf2.49xlarge"], 1, "did you mean inf2.48xlarge?"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(run: Run, words: list[str], code: int, says: str) -> None:
    answer = run(*words)
    assert (answer.exit_code, answer.stdout) == (code, "")
    assert says in answer.stderr
    assert answer.stderr.startswith("error: ")
    assert len(answer.stderr.splitlines()) <= 2
    assert document(run(*words, "--json"), code)["error"]["message"]


def test_outside_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    answer = runner.invoke(app, ["models"])
    assert answer.exit_code == ExitCode.REFUSED
    assert "this folder is in no project" in answer.stderr
    assert runner.invoke(app, ["--project", str(tmp_path), "models"]).stderr.startswith(f"error: {tmp_path} is no ")
    assert runner.invoke(app, ["instances"]).exit_code == ExitCode.DONE


def test_the_project_is_found_from_a_folder_inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(project / "a" / "b")
    assert CliRunner().invoke(app, ["models", "--json"]).exit_code == ExitCode.DONE


def test_the_version(run: Run) -> None:
    assert run("--version").stdout.startswith("modelzone ")
