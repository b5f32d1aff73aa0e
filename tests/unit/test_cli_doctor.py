"""``modelzone doctor`` shows what the doctor finds; the status says whether it is a failure."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ProfileNotFound
from typer.testing import CliRunner, Result

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode
from modelzone.doctor.checks import Check

ROOT = Path(__file__).resolve().parents[2]
KILLED = "compiling\n[F137] neuronx-cc was forcibly killed\ndone\n"
CHECKS = [
    Check(id="account", title="credentials", status="ok", detail="account 000000000000"),
    Check(id="endpoint-quota", title="quota", status="warn", detail="not allowed to look", remedy="allow it"),
    Check(id="hub-token", title="token", status="skipped", detail="not deployed"),
]
FAILED = Check(id="zones", title="zones", status="fail", detail="not offered in us-east-1a", remedy="name others")


def run(*words: str, text: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["--project", str(ROOT), "doctor", *words], input=text)


def test_a_known_failure_has_its_cause_and_its_remedy(tmp_path: Path) -> None:
    log = tmp_path / "compile.log"
    log.write_text(KILLED)
    answer = run("log", str(log))
    assert answer.exit_code == ExitCode.REFUSED
    assert "cause: neuron-compiler-killed (line 2)" in answer.stdout
    assert "ran out of memory" in answer.stdout
    assert answer.stdout.endswith("1 known message in 3 lines\n")
    found = json.loads(run("log", str(log), "--json").stdout)
    assert found["findings"][0]["id"] == "neuron-compiler-killed"
    assert found["findings"][0]["first_line"] == 2
    assert found["lines"] == 3


def test_standard_input_and_gzip() -> None:
    assert "neuron-compiler-killed" in run("log", "-", text=KILLED).stdout
    assert "neuron-compiler-killed" in run("log", "-", text=gzip.compress(KILLED.encode())).stdout


def test_a_log_without_known_failures_says_where_to_look_next() -> None:
    answer = run("log", "-", text="all is well\n")
    assert answer.exit_code == ExitCode.DONE
    assert "Where to look next:" in answer.stdout
    found = json.loads(run("log", "-", "--json", text="all is well\n").stdout)
    assert (found["findings"], bool(found["next_steps"])) == ([], True)


def test_a_log_that_ends_in_the_middle_is_said() -> None:
    answer = run("log", "-", text=gzip.compress(b"x" * 100_000)[:-20])
    assert answer.exit_code == ExitCode.REFUSED
    assert answer.stderr.startswith("warning: the rest of the log was not read: ")


@pytest.mark.parametrize("name", ["missing.log", "."])
def test_a_log_that_cannot_be_read(name: str) -> None:
    answer = run("log", name)
    assert (answer.exit_code, answer.stdout) == (ExitCode.REFUSED, "")
    assert answer.stderr.startswith("error: ")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the doctor is asked instead of AWS."""
    seen: dict[str, Any] = {"checks": CHECKS}

    def clients(region: str, **options: Any) -> str:
        seen.update(region=region, options=options)
        return "clients"

    def check(plan: Any, clients: Any) -> Any:
        seen.update(environment=plan.environment.name, plan=plan, clients=clients)
        return seen["checks"]

    monkeypatch.setattr("modelzone.doctor.preflight.aws_clients", clients)
    monkeypatch.setattr("modelzone.doctor.preflight.preflight", check)
    return seen


def test_checks_that_pass(asked: dict[str, Any]) -> None:
    answer = run("preflight", "dev", "-c", "deployment.mixtral.scaling.max_instances=7")
    assert answer.exit_code == ExitCode.DONE
    assert answer.stdout.splitlines()[1].split() == ["ok", "credentials", "account", "000000000000"]
    assert answer.stdout.endswith("1 ok, 1 warn, 1 skipped\n")
    assert (asked["environment"], asked["region"], asked["options"]) == ("dev", "us-east-1", {})
    assert asked["plan"].deployments[0].serving.scaling.max_instances == 7


def test_a_check_that_fails(asked: dict[str, Any]) -> None:
    asked["checks"] = [*CHECKS, FAILED]
    answer = run("preflight", "dev", "--json", "--endpoint-url", "http://localhost:1")
    found = json.loads(answer.stdout)
    assert (answer.exit_code, found["passed"]) == (ExitCode.REFUSED, False)
    assert found["checks"][-1] == {
        "id": "zones",
        "title": "zones",
        "status": "fail",
        "detail": "not offered in us-east-1a",
        "remedy": "name others",
    }
    assert asked["options"] == {"endpoint_url": "http://localhost:1"}


def test_the_embedded_aws_has_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELZONE_LOCAL_STATE", str(tmp_path))
    answer = run("preflight", "dev", "--local")
    assert answer.stderr == "error: the embedded AWS does not run; start it with: make local\n"


def test_local_takes_no_other_endpoint() -> None:
    answer = run("preflight", "dev", "--local", "--profile", "x")
    assert answer.exit_code == ExitCode.USAGE


def test_a_profile_that_is_not_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    # What the verb sets is taken back when the test ends.
    monkeypatch.setenv("AWS_PROFILE", "default")
    answer = run("preflight", "dev", "--profile", "nobody")
    assert (answer.exit_code, answer.stdout) == (ExitCode.REFUSED, "")
    assert answer.stderr == f"error: {ProfileNotFound(profile='nobody')}\n"


def test_input_that_is_no_text() -> None:
    stream = io.BytesIO(bytes(range(256)) * 1000)
    assert run("log", "-", text=stream.read()).exit_code == ExitCode.DONE
