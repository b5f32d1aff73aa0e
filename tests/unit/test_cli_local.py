"""``modelzone local`` starts nothing of its own: it calls the embedded AWS's functions."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode
from modelzone.errors import ModelzoneError
from modelzone.local.chat import ChatResult
from modelzone.local.workspace import EmulatorState

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = {
    "gateway": {"ApiId": "abc", "StageName": "v", "ApiKeyId": "k"},
    "deployment-mixtral": {"EndpointName": "modelzone-dev-mixtral-12345678"},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("environments", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "cdk.json").write_text("{}")
    monkeypatch.setenv("MODELZONE_LOCAL_STATE", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    state = EmulatorState(pid=1, port=4580, started=0.0)
    monkeypatch.setattr("modelzone.local.processes.running_emulator", lambda _: state)
    monkeypatch.setattr("modelzone.local.main_job.Embedded.outputs", lambda _, suffix: OUTPUTS[suffix])
    monkeypatch.setattr("modelzone.local.main_job.Embedded.api_key", "secret-key")


def run(project: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["--project", str(project), "local", *words])


@pytest.mark.parametrize("words", [["status"], ["chat", "hi"]])
def test_when_nothing_runs(project: Path, words: list[str]) -> None:
    answer = run(project, *words)
    assert (answer.exit_code, answer.stdout) == (ExitCode.REFUSED, "")
    assert answer.stderr == "error: the embedded AWS does not run; start it with: make local\n"


def test_down_when_nothing_runs(project: Path) -> None:
    assert run(project, "down").stdout == "[local] nothing was running\n"
    assert json.loads(run(project, "down", "--json").stdout) == {"stopped_processes": 0}


@pytest.mark.usefixtures("running")
def test_status_says_where_things_are(project: Path) -> None:
    found = json.loads(run(project, "status", "--json").stdout)
    assert found["base_url"] == "http://localhost:4580/_aws/execute-api/abc/v/v1"
    assert found["endpoints"] == {"mixtral": "modelzone-dev-mixtral-12345678"}
    assert (found["api_key"], found["region"], found["environment"]) == ("secret-key", "us-east-1", "dev")
    assert found["base_url"] in run(project, "status").stdout


@pytest.mark.usefixtures("running")
def test_chat_prints_the_answer_and_with_json_only_the_document(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(**request: Any) -> ChatResult:
        assert (request["model"], request["prompt"], request["api_key"]) == ("mixtral", "hi", "secret-key")
        request["on_text"]("Hello")
        return ChatResult(text="Hello", pieces=1, first_s=0.1, total_s=0.2, finish_reason="stop")

    monkeypatch.setattr("modelzone.local.main_job.stream_chat", answer)
    assert "model  Hello" in run(project, "chat", "hi").stdout
    found = run(project, "chat", "hi", "--json")
    assert json.loads(found.stdout)["text"] == "Hello"
    assert "model  Hello" in found.stderr
    missing = run(project, "chat", "hi", "--model", "nobody")
    assert missing.stderr == "error: environment dev has no deployment 'nobody'; it has: mixtral\n"


@pytest.mark.usefixtures("running")
def test_up_runs_the_main_job(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def job(workspace: Any, *, environment: str, prompt: str) -> None:
        asked.append((workspace.root, environment, prompt))
        sys.stdout.write("[local] progress\n")

    monkeypatch.setattr("modelzone.local.main_job.run_main_job", job)
    assert run(project, "up", "--prompt", "Who?").stdout == "[local] progress\n"
    assert asked == [(project, "dev", "Who?")]
    found = run(project, "up", "--json")
    assert json.loads(found.stdout)["environment"] == "dev"
    assert found.stderr == "[local] progress\n"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ModelzoneError("cdk failed"), ExitCode.REFUSED, "error: cdk failed\n"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "stopped; the embedded AWS may still run: make local-down\n"),
    ],
)
def test_up_that_ends_early(
    project: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    def job(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("modelzone.local.main_job.run_main_job", job)
    answer = run(project, "up")
    assert (answer.exit_code, answer.stderr) == (code, says)


def test_without_the_packages_of_the_embedded_aws(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = run(project, "down")
    assert (answer.exit_code, answer.stderr) == (1, "error: the embedded AWS is not installed here: make setup-local\n")
