"""Starts, finds, measures and stops the processes of the embedded AWS."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import psutil

from modelzone.errors import ModelzoneError
from modelzone.local.workspace import ACCOUNT, EmulatorState, Workspace, free_port

__all__ = ["MemoryWatch", "aws_environment", "running_emulator", "start_emulator", "stop_everything"]

# Every process of a workspace carries this variable, so that none can be lost.
STATE_VARIABLE = "MODELZONE_LOCAL_STATE"
_HEALTH_PATH = "/_modelzone/health"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 8.0
# The emulator outlives the command that started it; Python warns of a Popen that is dropped while its process runs.
_started: list[subprocess.Popen[bytes]] = []


def aws_environment(*, region: str, endpoint_url: str | None) -> dict[str, str]:
    """The environment of this process, pointed at the embedded AWS and at no account of the user's.

    Without `endpoint_url` there is no AWS at all and no credentials.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "CDK_", "MODELZONE_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    common = {
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "CDK_DISABLE_CLI_TELEMETRY": "1",
        "CI": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")]),
    }
    if endpoint_url is not None:
        common |= {
            "AWS_ENDPOINT_URL": endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": "embedded",
        }
    return {**kept, **common}


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + _HEALTH_PATH, timeout=2) as answer:  # noqa: S310 - our own http URL
            return bool(answer.status == 200)  # noqa: PLR2004
    except (urllib.error.URLError, OSError):
        return False


def running_emulator(workspace: Workspace) -> EmulatorState | None:
    """The workspace's emulator if it runs and answers."""
    state = workspace.read()
    if state is None:
        return None
    try:
        same = abs(psutil.Process(state.pid).create_time() - state.started) < 1
    except psutil.Error:
        return None
    return state if same and _healthy(state.url) else None


def start_emulator(workspace: Workspace) -> EmulatorState:
    """Start the emulator in the background and wait until it answers.

    Raises
    ------
    ModelzoneError
        It ends or does not answer in time; the end of its log is in the text.
    """
    previous = workspace.read()
    # Of an emulator that was killed children may be left, and they would hold the ports and the state of the old one.
    stop_everything(workspace)
    port = free_port(previous.port if previous else workspace.first_port)
    workspace.logs.mkdir(parents=True, exist_ok=True)
    log = workspace.logs / "emulator-start.log"
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "CDK_")) and k != "PYTHONDONTWRITEBYTECODE"
    }
    environment[STATE_VARIABLE] = str(workspace.folder)
    # At full speed the small model's answer is there before one sees it stream.
    environment.setdefault("MODELZONE_LOCAL_TOKEN_DELAY_MS", "20")
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "modelzone.local.emulator"),
                *("--port", str(port), "--state-dir", str(workspace.folder), "--account", ACCOUNT),
            ],
            cwd=workspace.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)
    state = EmulatorState(pid=process.pid, port=port, started=psutil.Process(process.pid).create_time())
    workspace.write(state)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _healthy(state.url):
            return state
        time.sleep(0.1)
    stop_everything(workspace)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    raise ModelzoneError(f"the embedded AWS did not start; {log} ends with:\n{tail}")


def _processes_of(workspace: Workspace) -> list[psutil.Process]:
    """The emulator with its descendants, and every process that carries the workspace's variable.

    This process and its parents are left out. The variable finds what an emulator left behind that was killed.
    """
    own = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    state = workspace.read()
    for process in psutil.process_iter():
        try:
            if state is not None and process.pid == state.pid and abs(process.create_time() - state.started) < 1:
                found.update({p.pid: p for p in [process, *process.children(recursive=True)]})
            elif process.environ().get(STATE_VARIABLE) == str(workspace.folder):
                found[process.pid] = process
        except psutil.Error:
            continue
    return [process for pid, process in found.items() if pid not in own]


def stop_everything(workspace: Workspace) -> int:
    """Stop the emulator and whatever it started; returns how many processes there were.

    Raises
    ------
    ModelzoneError
        A process does not go away.
    """
    processes = _processes_of(workspace)
    state = workspace.read()
    # The emulator first: it stops its own children in order. Only what is left then is killed.
    for process in processes:
        if state is not None and process.pid == state.pid:
            _signal([process], kill=False)
            psutil.wait_procs([process], timeout=_STOP_TIMEOUT_S)
    left = [process for process in processes if process.is_running()]
    _signal(left, kill=False)
    _, left = psutil.wait_procs(left, timeout=2)
    _signal(left, kill=True)
    _, left = psutil.wait_procs(left, timeout=_STOP_TIMEOUT_S)
    if left:
        raise ModelzoneError(f"these processes do not stop: {', '.join(str(p.pid) for p in left)}; kill them by hand")
    workspace.forget()
    return len(processes)


def _signal(processes: Iterable[psutil.Process], *, kill: bool) -> None:
    for process in processes:
        try:
            if kill:
                process.kill()
            else:
                process.terminate()
        except psutil.NoSuchProcess:
            continue


class MemoryWatch:
    """Samples the resident memory of this process tree and of a workspace's processes; a context manager.

    ``peak_mib`` is the largest sum seen. Pages shared between processes count once for each, so it is an upper bound.
    """

    def __init__(self, workspace: Workspace, *, interval_s: float = 0.5) -> None:
        self._workspace, self._interval_s = workspace, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak_mib = 0.0

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while True:
            roots = [me]
            state = self._workspace.read()
            if state is not None and psutil.pid_exists(state.pid):
                roots.append(psutil.Process(state.pid))
            seen: dict[int, int] = {}
            for root in roots:
                try:
                    for process in [root, *root.children(recursive=True)]:
                        seen[process.pid] = process.memory_info().rss
                except psutil.Error:
                    continue
            self.peak_mib = max(self.peak_mib, sum(seen.values()) / 2**20)
            if self._stop.wait(self._interval_s):
                return
