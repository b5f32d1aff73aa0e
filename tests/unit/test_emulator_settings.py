"""Settings of the emulator's process, and the environments it makes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modelzone.errors import ModelzoneError
from modelzone.local.emulator import environment
from modelzone.local.emulator.settings import MODEL_SERVER_COMMAND_VARIABLE, EmulatorSettings


@pytest.fixture
def settings(tmp_path: Path) -> EmulatorSettings:
    return EmulatorSettings(port=4566, state_dir=tmp_path)


def test_the_model_server_is_this_projects_by_default(settings: EmulatorSettings) -> None:
    assert settings.model_server_command == (sys.executable, "-m", "modelzone.local.model_server")


def test_the_model_servers_command_can_be_replaced() -> None:
    given = {MODEL_SERVER_COMMAND_VARIABLE: '["python3", "server.py"]'}
    assert EmulatorSettings.model_server_command_from(given) == ("python3", "server.py")
    assert EmulatorSettings.model_server_command_from({}) is None


@pytest.mark.parametrize("text", ["python3 server.py", '"python3"', "[]", "[1]"])
def test_a_command_that_is_no_list_of_strings_is_refused(text: str) -> None:
    with pytest.raises(ModelzoneError, match=MODEL_SERVER_COMMAND_VARIABLE):
        EmulatorSettings.model_server_command_from({MODEL_SERVER_COMMAND_VARIABLE: text})


@pytest.mark.parametrize("account", ["123", "12345678901a", ""])
def test_an_account_has_twelve_digits(tmp_path: Path, account: str) -> None:
    with pytest.raises(ModelzoneError, match="12 digits"):
        EmulatorSettings(port=1, state_dir=tmp_path, account=account)


def test_ministacks_environment_is_ours_and_local(settings: EmulatorSettings) -> None:
    given = {
        "AWS_ENDPOINT_URL": "http://elsewhere",
        "AWS_PROFILE": "production",
        "LOCALSTACK_HOSTNAME": "elsewhere",
        "MINISTACK_REGION": "eu-west-1",
        "HTTP_PROXY": "http://proxy",
        "https_proxy": "http://proxy",
        "LANG": "C.UTF-8",
    }
    environment.prepare(settings, given)
    assert given["LANG"] == "C.UTF-8"
    dropped = {"AWS_ENDPOINT_URL", "AWS_PROFILE", "LOCALSTACK_HOSTNAME", "HTTP_PROXY", "https_proxy"}
    assert given.keys().isdisjoint(dropped)
    assert (given["BIND_HOST"], given["GATEWAY_PORT"], given["MINISTACK_REGION"]) == ("127.0.0.1", "4566", "us-east-1")
    assert given["TMPDIR"] == str(settings.scratch_dir)


def test_a_child_sees_python3_as_this_interpreter_and_nothing_of_the_caller(
    settings: EmulatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the caller's")
    monkeypatch.setenv("HF_TOKEN", "the caller's")
    child = environment.base_child_environment(settings)
    assert {"AWS_SECRET_ACCESS_KEY", "HF_TOKEN"}.isdisjoint(child)
    assert child[environment.STATE_VARIABLE] == str(settings.state_dir)
    found = subprocess.run(
        ["python3", "-c", "import sys; print(sys.prefix)"], env=child, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == sys.prefix


def test_a_child_keeps_the_mark_of_its_workspace(settings: EmulatorSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.STATE_VARIABLE, "the workspace")
    assert environment.base_child_environment(settings)[environment.STATE_VARIABLE] == "the workspace"


def test_children_can_import_the_package(settings: EmulatorSettings) -> None:
    child = {**environment.base_child_environment(settings), "PYTHONPATH": str(environment.package_root())}
    done = subprocess.run([sys.executable, "-c", "import modelzone"], env=child, cwd=os.sep, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "1", "--state-dir", "{}", "--account", "12"], "12 digits"),
        (["--port", "{busy}", "--state-dir", "{}"], "is in use"),
    ],
)
def test_what_the_user_can_mend_is_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        filled = [part.format(tmp_path, busy=busy.getsockname()[1]) for part in arguments]
        done = subprocess.run(
            [sys.executable, "-m", "modelzone.local.emulator", *filled],
            cwd=environment.package_root(),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
