"""The shell is offered names of what exists, and never sees an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelzone.cli.app import app

ROOT = Path(__file__).resolve().parents[2]


def complete(line: str) -> list[str]:
    """What bash is offered for the last word of a command line."""
    words = line.split(" ")
    variables = {
        "_MODELZONE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = CliRunner().invoke(app, [], env=variables)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(autouse=True)
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("modelzone pl", ["plan"]),
        ("modelzone plan mixtral-8x7b-in", ["mixtral-8x7b-instruct"]),
        ("modelzone plan x --engine tgi-n", ["tgi-neuronx"]),
        ("modelzone plan x --instance ml.inf2.4", ["ml.inf2.48xlarge"]),
        ("modelzone plan x --instance inf2.4", ["inf2.48xlarge"]),
        ("modelzone cost ", ["dev", "prod"]),
        ("modelzone cost pr", ["prod"]),
        ("modelzone params dev mix", ["mixtral"]),
        ("modelzone params dev mixtral scaling.max", ["scaling.max_instances="]),
        ("modelzone params dev mixtral batch", ["batch_size="]),
        ("modelzone instances --family inf", ["inf2"]),
        ("modelzone instances --region eu-w", ["eu-west-1", "eu-west-2", "eu-west-3"]),
        ("modelzone instances --region mars-1 --family inf", ["inf2"]),
        ("modelzone local chat --environment d", ["dev"]),
        ("modelzone plan x --tensor", ["--tensor-parallel-degree"]),
    ],
)
def test_names_are_completed(line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_versions_are_those_of_the_engine() -> None:
    assert "0.0.25" in complete("modelzone plan x --engine tgi-neuronx --engine-version ")
    assert "0.0.25" not in complete("modelzone plan x --engine nothing --engine-version ")


def test_paths_are_completed_for_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert complete("modelzone plan sn") == ["snapshot/"]
    assert complete("modelzone plan snapshot/co") == ["snapshot/config.json"]


def test_another_project(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "environments", tmp_path / "environments")
    shutil.copy(tmp_path / "environments" / "dev.yaml", tmp_path / "environments" / "staging.yaml")
    (tmp_path / "cdk.json").write_text("{}")
    assert complete(f"modelzone --project {tmp_path} cost st") == ["staging"]


@pytest.mark.parametrize("line", ["modelzone params nowhere ", "modelzone params dev nothing x"])
def test_what_cannot_be_completed_is_silent(line: str) -> None:
    assert complete(line) == []


@pytest.mark.parametrize("variables", [{}, {"COMP_WORDS": "modelzone 'pl", "COMP_CWORD": "1"}, {"COMP_CWORD": "x"}])
def test_what_no_shell_sends_is_silent(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelzone"],
        env={**os.environ, "_MODELZONE_COMPLETE": "complete_bash", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_names_the_program(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelzone"],
        env={**os.environ, "_MODELZONE_COMPLETE": f"source_{shell}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "_MODELZONE_COMPLETE" in done.stdout
    assert "modelzone" in done.stdout
    assert done.stderr == ""
