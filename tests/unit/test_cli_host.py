"""``modelzone host``: a debugging host that ends itself, reached through Session Manager."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from unit.compile_world import Run, World

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode

ROOT = Path(__file__).resolve().parents[2]
FIRST = "i-00000000000000001"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()
    monkeypatch.setattr("modelzone.doctor.preflight.aws_clients", lambda *_, **__: found)
    return found


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have replaced this process."""
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _, words: seen.append(list(words)))
    monkeypatch.setattr("shutil.which", lambda tool: f"/usr/bin/{tool}")
    return seen


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["--project", str(ROOT), "host", *words])


def document(result: Result, code: int = ExitCode.DONE) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_starting_one(world: World) -> None:
    shown = run("start", "mixtral", "--hours", "3")
    assert shown.exit_code == ExitCode.DONE, shown.output
    assert f"{FIRST}, inf2.24xlarge in us-east-1a" in shown.stdout
    assert "6.49 USD an hour, 19.47 for 3 h" in shown.stdout
    assert f"modelzone host stop {FIRST} -e dev" in shown.stdout
    assert [asked["SubnetId"] for asked in world.started] == ["subnet-a"]
    found = document(run("start", "mixtral", "--hours", "1", "--json"))
    assert (found["role"], found["usd_per_hour"]) == ("debug-host", 6.49063)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["start", "mixtral"], 2, "Missing option '--hours'"),
        (["start", "mixtral", "--hours", "0"], 2, "greater than or equal to 1"),
        (["start", "mixtral", "--hours", "13"], 2, "less than or equal to 12"),
        (["start", "nothing", "--hours", "3"], 1, "knows no deployment 'nothing'"),
        (["connect"], 1, "no debugging host of dev runs"),
        (["connect", "--local-port", "1"], 2, "--local-port says where --port arrives"),
        (["connect", "--port", "0"], 2, "greater than or equal to 1"),
        (["connect", "i-1"], 1, "'i-1' is no host of environment dev that runs; it has: none"),
        (["stop", "i-1"], 1, "'i-1' is no host of environment dev"),
    ],
)
def test_refusals(world: World, words: list[str], code: int, says: str) -> None:
    answer = run(*words)
    assert (answer.exit_code, answer.stdout) == (code, "")
    assert says in answer.stderr
    assert world.started == []


def test_a_stack_without_subnets_names_the_command(world: World) -> None:
    del world.stacks["modelzone-dev-compile"]["SubnetIds"]
    assert (
        "has no output SubnetIds\n  fix: deploy it again: cdk deploy" in run("start", "mixtral", "--hours", "1").stderr
    )


def test_the_list(world: World) -> None:
    assert run("list").stdout == "no host of dev runs\n"
    world.host(1, role="debug-host")
    world.host(2, execution="mixtral-x")
    world.host(3, state="terminated")
    shown = run("list").stdout
    assert re.search(
        rf"^{FIRST} +debug-host +inf2.24xlarge +us-east-1a +running +on-demand +2026-11", shown, re.MULTILINE
    )
    assert re.search(r"compile-host .* mixtral-x +6.49 ", shown, re.MULTILINE)
    assert [row["instance_id"][-1] for row in document(run("list", "--json"))["hosts"]] == ["1", "2"]


def test_connecting_to_the_only_one(world: World, replaced: list[list[str]]) -> None:
    world.host(1, role="debug-host")
    world.host(2, role="compile-host")
    run("connect")
    assert replaced[-1] == ["aws", "--region", "us-east-1", "ssm", "start-session", "--target", FIRST]
    answer = run("connect", "--port", "8888", "--local-port", "9999", "--profile", "me")
    assert replaced[-1][:5] == ["aws", "--region", "us-east-1", "--profile", "me"]
    assert json.loads(replaced[-1][-1]) == {"portNumber": ["8888"], "localPortNumber": ["9999"]}
    assert f"http://127.0.0.1:9999 is port 8888 of {FIRST}" in answer.stderr


def test_a_compile_host_is_reached_by_its_id(world: World, replaced: list[list[str]]) -> None:
    world.host(1)
    run("connect", FIRST)
    assert replaced[-1][-1] == FIRST


def test_several_have_to_be_named(world: World, replaced: list[list[str]]) -> None:
    world.host(1, role="debug-host")
    world.host(2, role="debug-host")
    assert f"several debugging hosts run, name one: {FIRST}, i-0" in run("connect").stderr
    assert replaced == []


def test_without_the_plugin_the_command_is_printed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.host(1, role="debug-host")
    monkeypatch.setattr("shutil.which", lambda tool: "/usr/bin/aws" if tool == "aws" else None)
    answer = run("connect", "--port", "8888")
    assert answer.exit_code == ExitCode.REFUSED
    assert answer.stderr == "error: session-manager-plugin is not installed here; the command is:\n"
    assert answer.stdout == (
        f"aws --region us-east-1 ssm start-session --target {FIRST} --document-name AWS-StartPortForwardingSession "
        """--parameters '{"portNumber": ["8888"], "localPortNumber": ["8888"]}'\n"""
    )
    assert document(run("connect", "--json"))["command"][:2] == ["aws", "--region"]


def test_the_embedded_aws_has_no_sessions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelzone.cli.account._local_url", lambda _: "http://localhost:1")
    assert "has no Session Manager" in run("connect", "--local").stderr
    assert world.asked == []


def test_stopping_one(world: World) -> None:
    world.host(1, role="debug-host")
    assert run("stop", FIRST).stdout == f"{FIRST} ends now\n"
    assert world.hosts[0]["State"]["Name"] == "shutting-down"


def test_a_compile_host_is_not_stopped_here(world: World) -> None:
    name = f"mixtral-{'0' * 20}-20261121120000"
    world.host(1, execution=name)
    world.runs.append(Run(name))
    answer = run("stop", FIRST)
    assert answer.exit_code == ExitCode.REFUSED
    assert f"{FIRST} compiles for {name}: cancel that instead" in answer.stderr
    assert f"fix: modelzone compile cancel mixtral -e dev --execution {name}" in answer.stderr
    assert world.hosts[0]["State"]["Name"] == "running"


def test_a_compile_host_whose_compilation_has_ended_is_stopped(world: World) -> None:
    name = f"mixtral-{'0' * 20}-20261121120000"
    world.host(1, execution=name)
    world.runs.append(Run(name, "FAILED"))
    world.broken["ListExecutions"] = "AccessDenied"
    assert run("stop", FIRST).exit_code == ExitCode.REFUSED
    world.broken.clear()
    assert run("stop", FIRST).stdout == f"{FIRST} ends now\n"


@pytest.mark.parametrize("words", [[], ["start"], ["list"], ["connect"], ["stop"]])
def test_help_has_examples_and_whole_sentences(words: list[str]) -> None:
    shown = run(*words, "--help").stdout
    assert "Examples:\n    modelzone host " in shown
    assert "..." not in shown.replace("[ARGS]...", "")
