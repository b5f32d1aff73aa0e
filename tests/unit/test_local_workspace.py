"""The state folder of the embedded AWS, and how its processes are found and stopped."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from modelzone.local.processes import STATE_VARIABLE, aws_environment, running_emulator, stop_everything
from modelzone.local.workspace import EmulatorState, Workspace, free_port

SLEEP = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)",
]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path / "state")


def start(workspace: Workspace, command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command, env={**os.environ, STATE_VARIABLE: str(workspace.folder)}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_state_survives_a_round_trip_and_a_broken_file(workspace: Workspace) -> None:
    assert workspace.read() is None
    state = EmulatorState(pid=1, port=4580, started=2.5)
    workspace.write(state)
    assert workspace.read() == state
    next(workspace.folder.glob("state.json")).write_text('{"pid": 1')
    assert workspace.read() is None
    workspace.forget()
    assert workspace.read() is None


def test_a_port_that_is_taken_is_not_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_another_process_with_the_emulators_pid_is_not_the_emulator(workspace: Workspace) -> None:
    me = psutil.Process()
    workspace.write(EmulatorState(pid=me.pid, port=1, started=me.create_time() - 100))
    assert running_emulator(workspace) is None
    assert stop_everything(workspace) == 0


@pytest.mark.parametrize("command", [SLEEP, DEAF])
def test_everything_that_carries_the_workspace_is_stopped(workspace: Workspace, command: list[str]) -> None:
    with start(workspace, command) as process:
        started = time.monotonic()
        assert stop_everything(workspace) == 1
        assert not psutil.pid_exists(process.pid)
        assert time.monotonic() - started < 10


def test_processes_of_another_workspace_are_left_alone(workspace: Workspace, tmp_path: Path) -> None:
    with start(Workspace(tmp_path, tmp_path / "other"), SLEEP) as process:
        assert stop_everything(workspace) == 0
        assert process.poll() is None
        process.kill()


def test_no_credentials_of_the_users_reach_the_cli(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "theirs")
    monkeypatch.setenv("CDK_DEFAULT_ACCOUNT", "123456789012")
    environment = aws_environment(region="eu-west-1", endpoint_url="http://localhost:4580")
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN", "CDK_DEFAULT_ACCOUNT"} & set(environment)
    assert environment["AWS_ENDPOINT_URL"] == "http://localhost:4580"
    assert environment["AWS_REGION"] == "eu-west-1"
    assert environment["AWS_SHARED_CREDENTIALS_FILE"] == os.devnull
    nowhere = aws_environment(region="eu-west-1", endpoint_url=None)
    assert not {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"} & set(nowhere)
