"""``modelzone local`` starts nothing of its own: it calls the embedded AWS's functions."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result
from unit.gateway_stand_in import DONE, KEY, Gateway, chunk, document, gateway, hello, stream
from unit.keys_table import TABLE, keys_table

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode
from modelzone.errors import ModelzoneError
from modelzone.keys import Keys
from modelzone.local.main_job import Embedded, ask
from modelzone.local.workspace import EmulatorState, Workspace
from modelzone.planning import plan_environment

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = {
    "gateway": {"ApiId": "abc", "StageName": "v", "KeysTableName": TABLE},
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
    monkeypatch.setattr("modelzone.local.main_job.Embedded.api_key", KEY)


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
    assert (found["api_key"], found["region"], found["environment"]) == (KEY, "us-east-1", "dev")
    shown = run(project, "status").stdout
    assert f"export OPENAI_BASE_URL={found['base_url']}\n" in shown
    assert f"export OPENAI_API_KEY={KEY}\n" in shown


@pytest.mark.usefixtures("running")
def test_status_of_an_environment_without_keys(project: Path) -> None:
    file = project / "environments" / "dev.yaml"
    data = yaml.safe_load(file.read_text())
    tenants = {"default": {"principals": ["arn:aws:iam::111122223333:role/caller"]}}
    file.write_text(yaml.safe_dump({**data, "access": {"method": "iam", "tenants": tenants}}))
    assert json.loads(run(project, "status", "--json").stdout)["api_key"] is None
    assert "OPENAI_API_KEY" not in run(project, "status").stdout


@pytest.fixture
def embedded(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Embedded]]:
    """The embedded AWS as each command finds it, with a table of keys."""
    with keys_table() as client:
        monkeypatch.setattr("modelzone.local.main_job.Embedded.client", lambda *_: client)
        monkeypatch.setattr("modelzone.local.main_job.Embedded.outputs", lambda _, suffix: OUTPUTS[suffix])
        state = EmulatorState(pid=1, port=4580, started=0.0)
        plan = plan_environment(project, "dev")
        yield lambda: Embedded(Workspace.of(project), plan, state)


def table_of(embedded: Embedded) -> Keys:
    return Keys(embedded.client("dynamodb"), TABLE, tenants=["default"])


def test_a_key_is_made_once_and_kept_for_its_owner(embedded: Callable[[], Embedded]) -> None:
    first = embedded()
    token = first.api_key
    file = first.workspace.folder / "api-key-dev"
    assert (file.read_text(), file.stat().st_mode & 0o777) == (token, 0o600)
    key = table_of(first).check(token)
    assert key is not None
    assert (key.tenant, key.label, key.expires) == ("default", "make local", None)
    assert embedded().api_key == token
    assert len(table_of(first).list()) == 1
    assert [path.name for path in first.workspace.folder.iterdir()] == ["api-key-dev"]


@pytest.mark.parametrize("what", ["revoked", "unknown", "garbage", "replaced"])
def test_a_key_that_does_not_work_is_made_anew(embedded: Callable[[], Embedded], what: str) -> None:
    first = embedded()
    token, keys = first.api_key, table_of(first)
    (key,) = keys.list()
    file = first.workspace.folder / "api-key-dev"
    if what == "revoked":
        keys.revoke(key.key_id)
    elif what == "unknown":
        first.client("dynamodb").delete_item(TableName=TABLE, Key={"key_id": {"S": key.key_id}})
    elif what == "garbage":
        file.write_bytes(b"\xff\x00")
    else:
        keys.rotate(key.key_id, grace=0)
    again = embedded().api_key
    assert again != token
    found = keys.check(again)
    assert found is not None
    assert found.works(time.time())
    assert (file.read_text(), file.stat().st_mode & 0o777) == (again, 0o600)


def test_a_gateway_of_before_has_no_table(embedded: Callable[[], Embedded], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelzone.local.main_job.Embedded.outputs", lambda *_: {"ApiId": "abc"})
    with pytest.raises(ModelzoneError, match="has no output KeysTableName; run: make local"):
        _ = embedded().api_key


def test_the_main_job_asks_with_the_key(
    embedded: Callable[[], Embedded], server: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    turn = ask(embedded(), prompt="Who?", model="mixtral")
    assert turn.answer.text == "Hello there."
    said = capsys.readouterr().out
    assert "\n  you    Who?\n  model  Hello there.\n" in said
    assert "[local] streamed in 3 pieces, the first after" in said
    assert KEY not in said
    server.default = lambda _: stream(chunk(reason="stop"), DONE)
    with pytest.raises(ModelzoneError, match="mixtral answered nothing; its logs: "):
        ask(embedded(), prompt="Who?", model="mixtral")


@pytest.fixture
def server(running: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    with gateway() as found:
        monkeypatch.setattr("modelzone.local.main_job.Embedded.base_url", f"{found.base_url}/v1")
        # Of some other gateway: it is not sent to this one.
        monkeypatch.setenv("MODELZONE_API_KEY", "mz_other")
        found.default = lambda request: hello() if request.body else document({"data": [{"id": "mixtral"}]})
        yield found


@pytest.mark.parametrize("verb", [["local", "chat"], ["chat", "--local"]])
def test_both_ways_to_chat_are_one(project: Path, server: Gateway, verb: list[str]) -> None:
    shown = CliRunner().invoke(app, ["--project", str(project), *verb, "hi", "--temperature", "0"])
    assert (shown.exit_code, shown.stdout) == (ExitCode.DONE, "Hello there.\n")
    assert "stop, 3 tokens" in shown.stderr
    assert {request.headers["authorization"] for request in server.seen} == {f"Bearer {KEY}"}
    body = server.seen[-1].body
    assert (body["model"], body["messages"], body["temperature"]) == ("mixtral", [{"role": "user", "content": "hi"}], 0)
    found = CliRunner().invoke(app, ["--project", str(project), *verb, "hi", "--model", "other", "--json"])
    assert json.loads(found.stdout)["text"] == "Hello there."
    assert server.seen[-1].body["model"] == "other"


def test_a_key_file_goes_before_the_key_of_the_workspace(project: Path, server: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("mz_given")
    file.chmod(0o600)
    words = ["--project", str(project), "chat", "--local", "--key-file", str(file), "--model", "m", "hi"]
    assert CliRunner().invoke(app, words).exit_code == ExitCode.DONE
    assert server.seen[-1].headers["authorization"] == "Bearer mz_given"


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
