"""The processes the emulator starts: model servers, functions, their web applications, commands on hosts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import psutil

__all__ = ["ChildKind", "ChildProcesses", "ChildRecord"]

ChildKind = Literal["model-server", "function", "web-adapter", "host"]

_LAUNCHER = Path(__file__).with_name("launcher.py")
_POLL_SECONDS = 0.02

logger = logging.getLogger("modelzone.emulator.children")


@dataclass(frozen=True, kw_only=True)
class ChildRecord:
    """One running child. ``started`` (seconds since 1970) tells it from a later process with the same pid."""

    name: str
    kind: ChildKind
    pid: int
    port: int | None
    started: float


class ChildProcesses:
    """Starts processes that do not survive the emulator, and keeps the list of them in a file.

    Each child leads a process group of its own, so that what it starts in turn is stopped with it. All are started by
    one thread that lives as long as the emulator: the kernel ties a child to the *thread* that started it.
    """

    def __init__(self, *, children_file: Path) -> None:
        self._file = children_file
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
        self._lock = threading.Lock()
        self._children: dict[int, tuple[ChildRecord, subprocess.Popen[Any]]] = {}
        self._closed = False
        self._write([])

    def spawn(
        self,
        command: Sequence[str],
        *,
        name: str,
        kind: ChildKind,
        environment: Mapping[str, str],
        cwd: Path | str,
        port: int | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: IO[bytes] | int | None = None,
        stderr: int = subprocess.STDOUT,
        text: bool = False,
        bufsize: int = -1,
    ) -> subprocess.Popen[Any]:
        """Start a child; the last five parameters are those of :class:`subprocess.Popen`.

        Raises
        ------
        RuntimeError
            The emulator is shutting down.
        """

        def start() -> subprocess.Popen[Any]:
            if self._closed:
                raise RuntimeError("the emulator is shutting down")
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command],
                cwd=cwd,
                env=dict(environment),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                text=text,
                bufsize=bufsize,
                start_new_session=True,
            )

        process = self._spawner.submit(start).result()
        record = ChildRecord(name=name, kind=kind, pid=process.pid, port=port, started=time.time())
        with self._lock:
            self._children[process.pid] = (record, process)
            self._write(self._running())
        logger.info("started %s %s (pid %d)", kind, name, process.pid)
        return process

    def records(self) -> list[ChildRecord]:
        """The children that run now."""
        with self._lock:
            return self._running()

    def describe(self) -> list[dict[str, Any]]:
        """The children that run now as JSON objects, with their resident memory ``rss`` in bytes."""
        described = []
        for record in self.records():
            with contextlib.suppress(psutil.Error):
                rss = psutil.Process(record.pid).memory_info().rss
                described.append({**dataclasses.asdict(record), "rss": rss})
        return described

    def stop(self, process: subprocess.Popen[Any], *, grace_seconds: float = 2.0) -> None:
        """Stop one child and its group: asked first, killed when it does not go within the grace period."""
        self._stop([process], grace_seconds=grace_seconds)

    def stop_all(self, *, grace_seconds: float = 2.0) -> None:
        """Stop every child and refuse to start new ones."""
        self._closed = True
        with self._lock:
            processes = [process for _, process in self._children.values()]
        self._stop(processes, grace_seconds=grace_seconds)
        self._spawner.shutdown(wait=False)

    def _stop(self, processes: Iterable[subprocess.Popen[Any]], *, grace_seconds: float) -> None:
        processes = list(processes)
        for process in processes:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        for process in processes:
            # The group may outlive its leader, so it is killed even when the leader is gone.
            _signal_group(process, signal.SIGKILL)
            process.wait()
        with self._lock:
            for process in processes:
                self._children.pop(process.pid, None)
            self._write(self._running())

    def _running(self) -> list[ChildRecord]:
        for pid, (_, process) in list(self._children.items()):
            if process.poll() is not None:
                del self._children[pid]
        return [record for record, _ in self._children.values()]

    def _write(self, records: list[ChildRecord]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".tmp")
        draft.write_text(json.dumps([dataclasses.asdict(record) for record in records], indent=1), encoding="utf-8")
        draft.replace(self._file)


def _signal_group(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    # start_new_session makes the child's pid its group's id; the group is gone when the signal finds nobody.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
