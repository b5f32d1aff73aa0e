"""Processes that are tied to the emulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from modelzone.local.emulator import children as children_module
from modelzone.local.emulator.children import ChildProcesses

LAUNCHER = Path(children_module.__file__).with_name("launcher.py")


@pytest.fixture
def children(tmp_path: Path) -> Iterator[ChildProcesses]:
    made = ChildProcesses(children_file=tmp_path / "children.json")
    yield made
    made.stop_all(grace_seconds=0.5)


def sleeper(children: ChildProcesses, tmp_path: Path, code: str = "import time; time.sleep(60)") -> Any:
    return children.spawn(
        [sys.executable, "-c", code],
        name="sleeper",
        kind="function",
        environment={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        port=1234,
        stdout=subprocess.DEVNULL,
    )


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_children_are_recorded_while_they_run(children: ChildProcesses, tmp_path: Path) -> None:
    process = sleeper(children, tmp_path)
    (recorded,) = json.loads((tmp_path / "children.json").read_text())
    assert (recorded["name"], recorded["kind"], recorded["pid"]) == ("sleeper", "function", process.pid)
    assert recorded["port"] == 1234
    assert abs(recorded["started"] - psutil.Process(process.pid).create_time()) < 5
    (described,) = children.describe()
    assert described["rss"] > 0
    children.stop(process)
    assert json.loads((tmp_path / "children.json").read_text()) == []
    assert children.records() == []


def test_a_child_outlives_the_thread_that_asked_for_it(children: ChildProcesses, tmp_path: Path) -> None:
    started: list[Any] = []
    thread = threading.Thread(target=lambda: started.append(sleeper(children, tmp_path)))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert started[0].poll() is None


def test_a_child_that_ended_by_itself_is_forgotten(children: ChildProcesses, tmp_path: Path) -> None:
    sleeper(children, tmp_path, "pass")
    eventually(lambda: children.records() == [])


def test_stopping_a_child_stops_what_it_started(children: ChildProcesses, tmp_path: Path) -> None:
    code = f"import subprocess, sys; subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(60)']).wait()"
    process = sleeper(children, tmp_path, code)
    eventually(lambda: bool(psutil.Process(process.pid).children()))
    (grandchild,) = psutil.Process(process.pid).children()
    children.stop(process)
    eventually(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


def test_a_child_that_ignores_the_request_is_killed(children: ChildProcesses, tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('ready', 'w').close(); time.sleep(60)"
    )
    process = sleeper(children, tmp_path, code)
    eventually((tmp_path / "ready").exists)
    children.stop(process, grace_seconds=0.2)
    assert process.returncode == -signal.SIGKILL


def test_no_child_starts_after_the_end(children: ChildProcesses, tmp_path: Path) -> None:
    children.stop_all()
    with pytest.raises(RuntimeError, match=r"shutting down|after shutdown"):
        sleeper(children, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(children_module.__file__).parents[3])!r})
from modelzone.local.emulator.children import ChildProcesses
children = ChildProcesses(children_file=Path("children.json"))
child = children.spawn([sys.executable, "-c", "import time; time.sleep(60)"], name="c", kind="function",
                       environment={{}}, cwd=".")
print(child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.3)
        assert child.is_running()
        parent.kill()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_program_that_cannot_start_says_so(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\n")
    command = [sys.executable, "-I", str(LAUNCHER), str(os.getpid()), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, f"cannot start {script}: Permission denied")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_a_program_whose_parent_is_gone_already_does_not_start() -> None:
    command = [sys.executable, "-I", str(LAUNCHER), "1", sys.executable, "-c", "print('started')"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
