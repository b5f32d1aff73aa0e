"""``modelzone doctor`` on odd input: what was not read or not asked is no success."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str, text: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["--project", str(ROOT), "doctor", *words], input=text)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the doctor is asked instead of AWS."""
    seen: dict[str, Any] = {}

    def clients(region: str, **options: Any) -> str:
        seen["clients"] = options
        return "clients"

    def check(plan: Any, clients: Any, **options: Any) -> list[Any]:
        seen["preflight"] = options
        return []

    monkeypatch.setattr("modelzone.doctor.preflight.aws_clients", clients)
    monkeypatch.setattr("modelzone.doctor.preflight.preflight", check)
    return seen


@pytest.mark.parametrize(
    "text", [b"x" * 100_000, b"x not found in y: the corresponding graph will be recompiled\n" * 900]
)
def test_a_log_that_was_read_in_part_is_not_clean(text: bytes) -> None:
    answer = run("log", "-", "--json", text=gzip.compress(text)[:-20])
    found = json.loads(answer.stdout)
    assert (answer.exit_code, bool(found["unread"])) == (ExitCode.REFUSED, True)


def test_standard_input_that_is_closed_is_one_message() -> None:
    command = f"exec {sys.executable} -m modelzone doctor log - <&-"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.REFUSED
    assert done.stderr.startswith("error: standard input is closed")


@pytest.mark.parametrize("url", ["foo", "localhost:5000", "http://", "http:///x", "ftp://127.0.0.1", "http://[::1"])
def test_an_endpoint_that_is_no_url_is_wrong_usage(asked: dict[str, Any], url: str) -> None:
    answer = run("preflight", "dev", "--endpoint-url", url)
    assert (answer.exit_code, asked) == (ExitCode.USAGE, {})
    assert "is not like http://" in answer.stderr


def test_a_profile_is_the_clients_own_and_in_the_commands(asked: dict[str, Any]) -> None:
    before = dict(os.environ)
    assert run("preflight", "dev", "--profile", "mine").exit_code == ExitCode.DONE
    assert asked == {"clients": {"profile": "mine"}, "preflight": {"profile": "mine"}}
    assert dict(os.environ) == before


def test_nobody_who_answers_is_a_failure() -> None:
    given = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "modelzone",
            "doctor",
            "preflight",
            "dev",
            "--endpoint-url",
            "http://127.0.0.1:1",
            "--json",
        ],
        cwd=ROOT,
        env={**given, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert (done.returncode, found["passed"], found["checks"][0]["status"]) == (ExitCode.REFUSED, False, "fail")
