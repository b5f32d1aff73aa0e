"""Emulated hosts: an EC2 instance is a folder and the processes that run in it.

The folder takes the place of the file system for what hosts of this project write: home, temporary files, and
``/var/lib/modelzone`` (see `EmulatedHost.localize`). User data is not run: it installs systemd units.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from modelzone.hardware import find_instance
from modelzone.local.emulator.children import ChildProcesses
from modelzone.local.emulator.environment import base_child_environment, package_root
from modelzone.local.emulator.settings import EmulatorSettings
from modelzone.local.host import world
from modelzone.local.host.docker import CONTAINER_BIN
from modelzone.local.host.faults import FAULTS_VARIABLE, Faults
from modelzone.local.host.world import HOST_VARIABLE, HostWorld

__all__ = ["WORK_ROOT", "EmulatedHost", "Hosts", "Launch"]

WORK_ROOT = "/var/lib/modelzone"
"""Where hosts work; on an emulated host it lies in the host's folder."""

_TOOLS = ("docker", "neuron-ls", "nvidia-smi", "shutdown", "systemctl")
_CONTAINER_TOOLS = ("optimum-cli",)
_CONTAINER_SCRIPTS = ("/opt/djl/partition/trt_llm_partition.py",)
_DEFAULT_MEMORY_GIB = 16.0
_GIB = 1024**3
_KILL_ROUNDS = 50

logger = logging.getLogger("modelzone.emulator.hosts")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a host is started with."""

    instance_id: str
    instance_type: str
    account: str
    region: str
    disk_gib: int
    spot: bool
    shutdown_terminates: bool
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class EmulatedHost:
    """A host, ``running``, ``shutting-down``, ``stopped`` or ``terminated``; times are seconds since 1970."""

    launch: Launch
    folder: Path
    launched: float
    state: str = "running"
    reason: str = ""
    ended: float | None = None
    # When the notice of a Spot interruption was first read.
    noticed: float | None = None
    timers: list[threading.Timer] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """Whether processes can run here."""
        return self.state == "running"

    def localize(self, text: str) -> str:
        """Put the host's folder in front of `WORK_ROOT`: a script names its work folder by an absolute path."""
        return text.replace(WORK_ROOT, str(self.folder) + WORK_ROOT)

    def localize_encoded(self, value: str) -> str:
        """Do the same inside a value that is base64, as a job is that is a document's parameter."""
        try:
            inside = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            return value
        return base64.b64encode(self.localize(inside).encode()).decode() if WORK_ROOT in inside else value


class Hosts:
    """Starts, finds and ends the hosts of all accounts."""

    def __init__(self, *, settings: EmulatorSettings, children: ChildProcesses) -> None:
        self._settings, self._children = settings, children
        self._lock = threading.Lock()
        self._hosts: dict[str, EmulatedHost] = {}
        # Told when nothing of a host runs any more; EC2's records follow.
        self.on_end: list[Callable[[EmulatedHost, str, str], None]] = []

    def faults(self) -> Faults:
        """The faults that hold now."""
        return Faults.read(self._settings.faults_file)

    def get(self, instance_id: str) -> EmulatedHost | None:
        """A host, also one that has ended."""
        with self._lock:
            return self._hosts.get(instance_id)

    def all(self) -> list[EmulatedHost]:
        """Every host that was started."""
        with self._lock:
            return list(self._hosts.values())

    def start(self, launch: Launch) -> EmulatedHost:
        """Make a host's folder with its tools."""
        folder = self._settings.hosts_dir / launch.instance_id
        for name in ("home", "tmp", "bin", CONTAINER_BIN, WORK_ROOT.lstrip("/")):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name in _TOOLS:
            _write_tool(folder / "bin" / name, name)
        for name in _CONTAINER_TOOLS:
            _write_tool(folder / CONTAINER_BIN / name, name)
        for name in ("python3", "python"):
            _write_python(folder / "bin" / name)
            _write_python(folder / CONTAINER_BIN / name, scripts=_CONTAINER_SCRIPTS)
        # Not beside python3 on the host's PATH: the folder of this interpreter holds much that a host lacks.
        aws = Path(sys.executable).with_name("aws")
        if aws.exists():
            _write_script(folder / "bin" / "aws", f'exec {shlex.quote(sys.executable)} {shlex.quote(str(aws))} "$@"')
        host = EmulatedHost(launch=launch, folder=folder, launched=time.time())
        with self._lock:
            self._hosts[launch.instance_id] = host
        logger.info("host %s (%s) started", launch.instance_id, launch.instance_type)
        return host

    def environment(self, host: EmulatedHost) -> dict[str, str]:
        """The environment of a host's processes: the SDK finds the embedded AWS as if it were the role's."""
        launch = host.launch
        instance = find_instance(launch.instance_type)
        base = base_child_environment(self._settings)
        seen = HostWorld(
            instance_id=launch.instance_id,
            instance_type=launch.instance_type,
            folder=host.folder,
            emulator=self._settings.endpoint_url,
            disk_gib=launch.disk_gib,
            memory_gib=instance.memory_bytes / _GIB if instance else _DEFAULT_MEMORY_GIB,
        )
        return {
            **base,
            "PATH": os.pathsep.join([str(host.folder / "bin"), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin",
                                     "/usr/bin", "/sbin", "/bin"]),
            "HOME": str(host.folder / "home"),
            "TMPDIR": str(host.folder / "tmp"),
            "AWS_ACCESS_KEY_ID": launch.account,
            "AWS_SECRET_ACCESS_KEY": "embedded",
            "AWS_SESSION_TOKEN": "embedded",
            "AWS_REGION": launch.region,
            "AWS_DEFAULT_REGION": launch.region,
            "AWS_ENDPOINT_URL": self._settings.endpoint_url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT":
                f"{self._settings.endpoint_url}/_modelzone/metadata/{launch.instance_id}",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            FAULTS_VARIABLE: str(self._settings.faults_file),
            **seen.variables(),
        }  # fmt: skip

    def spawn(
        self,
        host: EmulatedHost,
        command: Sequence[str],
        *,
        name: str,
        environment: Mapping[str, str],
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> subprocess.Popen[Any]:
        """Start a process on a host.

        Raises
        ------
        RuntimeError
            The host has ended.
        """
        if not host.running:
            raise RuntimeError(f"host {host.launch.instance_id} is {host.state}")
        process = self._children.spawn(
            command,
            name=name,
            kind="host",
            environment={**self.environment(host), **environment},
            cwd=host.folder,
            stdout=stdout,
            stderr=stderr.fileno(),
        )
        if not host.running:  # it ended in this very moment
            self._kill(host.launch.instance_id)
        return process

    def end(self, instance_id: str, *, state: str, reason: str) -> bool:
        """Kill everything on a host, as a power-off or a termination does; tells whether it was running."""
        with self._lock:
            host = self._hosts.get(instance_id)
            if host is None or not host.running:
                if host is not None and state == "terminated" and host.state == "stopped":
                    host.state = state
                return False
            host.state, host.reason, host.ended = "shutting-down", reason, time.time()
        for timer in host.timers:
            timer.cancel()
        self._kill(instance_id)
        if state == "terminated":
            # The volume goes with the instance; what was recorded stays for whoever looks.
            shutil.rmtree(str(host.folder) + WORK_ROOT, ignore_errors=True)
            for name in ("home", "tmp", "container-home"):
                shutil.rmtree(host.folder / name, ignore_errors=True)
        for told in self.on_end:
            told(host, state, reason)
        host.state = state
        logger.info("host %s is %s: %s", instance_id, state, reason)
        return True

    def end_later(self, host: EmulatedHost, seconds: float, *, reason: str, terminate: bool) -> None:
        """End a host by itself after a while."""
        state = "terminated" if terminate else "stopped"
        timer = threading.Timer(seconds, self.end, (host.launch.instance_id,), {"state": state, "reason": reason})
        timer.daemon = True
        host.timers.append(timer)
        timer.start()

    def power_off(self, host: EmulatedHost, seconds: float | None) -> None:
        """What ``shutdown`` on the host asks for; None takes it back."""
        for timer in host.timers:
            timer.cancel()
        host.timers.clear()
        if seconds is not None:
            reason = "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
            self.end_later(host, seconds, reason=reason, terminate=host.launch.shutdown_terminates)

    def processes(self, instance_id: str) -> list[psutil.Process]:
        """What runs on a host, containers included."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                marked = process.environ().get(HOST_VARIABLE) == instance_id
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def close(self) -> None:
        """Kill everything on every host, because the emulator ends."""
        for host in self.all():
            if host.running:
                host.state, host.reason = "terminated", "the embedded AWS stopped"
            self._kill(host.launch.instance_id)

    def describe(self) -> list[dict[str, Any]]:
        """The hosts as JSON objects."""
        return [
            {
                "instance_id": host.launch.instance_id,
                "instance_type": host.launch.instance_type,
                "state": host.state,
                "reason": host.reason,
                "tags": dict(host.launch.tags),
                "spot": host.launch.spot,
                "launched": host.launched,
                "ended": host.ended,
                "folder": str(host.folder),
                "processes": [
                    {"pid": process.pid, "command": _command_line(process)}
                    for process in (self.processes(host.launch.instance_id))
                ],
            }
            for host in self.all()
        ]

    def _kill(self, instance_id: str) -> None:
        # A process that is being killed may have started another one: until nobody is left.
        for _ in range(_KILL_ROUNDS):
            processes = self.processes(instance_id)
            if not processes:
                return
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(processes, timeout=0.2)
        logger.warning("host %s: processes are left", instance_id)


def _command_line(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _write_script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)


def _write_tool(path: Path, name: str) -> None:
    root, python = shlex.quote(str(package_root())), shlex.quote(sys.executable)
    _write_script(path, f'PYTHONPATH={root} exec {python} -m modelzone.local.host {name} "$@"')


def _write_python(path: Path, *, scripts: Sequence[str] = ()) -> None:
    """Python is this interpreter, with `sitecustomize`; scripts that only an image holds have stand-ins."""
    root, site = shlex.quote(str(package_root())), shlex.quote(str(Path(world.__file__).with_name("site")))
    python = shlex.quote(sys.executable)
    lines = [
        f'if [ "$1" = {script} ]; then shift; PYTHONPATH={root} exec {python} -m modelzone.local.host '
        f'{Path(script).name} "$@"; fi'
        for script in scripts
    ]
    _write_script(path, "\n".join([*lines, f'PYTHONPATH={site}${{PYTHONPATH:+:$PYTHONPATH}} exec {python} "$@"']))
