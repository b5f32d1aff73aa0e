"""Stand-in for the ``docker`` client of an emulated host.

Images and containers are small files in the host's folder. A container is a process in a session of its own: it lives
on when the client is killed, as a real one does, and ends with ``docker rm --force`` or with the instance. Paths under
a mount's target are turned into paths of the source in arguments and variables; standard input is passed on as it is.
Its environment holds nothing of the host's but the marks of the emulator (no AWS credentials: the hop limit keeps
containers of real hosts from the role), and ``HF_ENDPOINT``. Every command line goes to ``containers.jsonl``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import psutil

from modelzone.local.host.faults import Faults
from modelzone.local.host.images import KnownImage, find_image
from modelzone.local.host.machine import devices_of
from modelzone.local.host.world import CONTAINER_VARIABLE, KEPT_IN_CONTAINERS, HostWorld

__all__ = [
    "CONTAINER_BIN",
    "DEVICES_VARIABLE",
    "IMAGE_VARIABLE",
    "RECORD",
    "Refused",
    "RunOptions",
    "main",
    "parse_run",
    "translate",
]

RECORD = "containers.jsonl"
"""One JSON object a line, in the host's folder: every command line that docker was given."""

CONTAINER_BIN = "container-bin"
"""Folder of the programs that images hold, in the host's folder."""

IMAGE_VARIABLE = "MODELZONE_IMAGE"
"""The image of a container, for the programs in it."""

DEVICES_VARIABLE = "MODELZONE_DEVICES"
"""How many Neuron devices a container was given."""

_FAILED, _NOT_RUN, _NOT_FOUND = 1, 125, 127
_WITH_VALUE = {
    "cap-add", "cidfile", "cpus", "device", "entrypoint", "env", "gpus", "hostname", "ipc", "label", "log-driver",
    "memory", "mount", "name", "network", "platform", "pull", "security-opt", "shm-size", "stop-timeout", "tmpfs",
    "ulimit", "user", "volume", "workdir",
}  # fmt: skip
_FLAGS = {"init", "interactive", "privileged", "quiet", "read-only", "rm", "tty"}
_SHORT = {"e": "env", "h": "hostname", "i": "interactive", "q": "quiet", "t": "tty", "u": "user", "v": "volume",
          "w": "workdir"}  # fmt: skip
_NEURON_DEVICE = re.compile(r"/dev/neuron(\d+)(:.*)?")
_ECR = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?")


class Refused(Exception):  # noqa: N818 - what docker does
    """The client or the daemon refuses; the text is docker's."""

    def __init__(self, text: str, status: int = _FAILED) -> None:
        super().__init__(text)
        self.status = status


@dataclass(kw_only=True)
class RunOptions:
    """What ``docker run`` was asked for. ``mounts`` are pairs of the source and the target."""

    image: str
    arguments: list[str]
    values: dict[str, list[str]] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    mounts: list[tuple[str, str]] = field(default_factory=list)

    def last(self, name: str) -> str | None:
        """The value of an option that counts."""
        given = self.values.get(name)
        return given[-1] if given else None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that were given."""
        pairs = (text.partition("=") for text in self.values.get("env", []))
        # A name alone passes the client's own value on.
        return {name: value if equals else os.environ.get(name, "") for name, equals, value in pairs}


def parse_run(arguments: Sequence[str]) -> RunOptions:
    """Read the arguments of ``docker run``.

    Raises
    ------
    Refused
        An option is unknown or lacks its value.
    """
    words = list(arguments)
    options = RunOptions(image="", arguments=[])
    while words and words[0].startswith("-"):
        word = words.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--"):
            if len(name) > 1 and set(name) <= {"i", "t", "q"}:  # -it
                options.flags |= {_SHORT[letter] for letter in name}
                continue
            name = _SHORT.get(name, name)
        if name in _FLAGS:
            if value != "false":
                options.flags.add(name)
        elif name in _WITH_VALUE:
            if not equals and not words:
                raise Refused(f"flag needs an argument: {word}", _NOT_RUN)
            options.values.setdefault(name, []).append(value if equals else words.pop(0))
        else:
            raise Refused(f"unknown flag: {word}\nSee 'docker run --help'.", _NOT_RUN)
    if not words:
        raise Refused('"docker run" requires at least 1 argument.', _NOT_RUN)
    options.image, options.arguments = words[0], words[1:]
    options.mounts = list(_mounts(options))
    return options


def _mounts(options: RunOptions) -> Iterator[tuple[str, str]]:
    for text in options.values.get("mount", []):
        parts = {name: value for name, _, value in (part.partition("=") for part in text.split(","))}
        source = parts.get("source") or parts.get("src")
        target = parts.get("target") or parts.get("destination") or parts.get("dst")
        if parts.get("type") != "bind" or not source or not target:
            raise Refused(f'invalid argument "{text}" for "--mount" flag: only bind mounts here', _NOT_RUN)
        if not Path(source).exists():
            raise Refused(
                f'docker: Error response from daemon: invalid mount config for type "bind": bind source path does not '
                f"exist: {source}",
                _NOT_RUN,
            )
        yield source, target
    for text in options.values.get("volume", []):
        source, target, *_ = text.split(":")
        Path(source).mkdir(parents=True, exist_ok=True)  # --volume makes what is not there
        yield source, target


def translate(text: str, mounts: Sequence[tuple[str, str]]) -> str:
    """Turn paths of the container into paths of the host, also inside a word such as ``--output=/target/x``."""
    for source, target in sorted(mounts, key=lambda mount: -len(mount[1])):
        # A source may hold backslashes, which a plain replacement would read as its own.
        place = source.replace("\\", "\\\\")
        text = re.sub(rf"(?<![\w./-]){re.escape(target)}(?![\w.-])", place, text)
    return text


class _Docker:
    """The client, and what of the daemon is needed."""

    def __init__(self, world: HostWorld, *, config: Path, faults: Faults) -> None:
        self._world, self._config, self._faults = world, config, faults
        self._containers = world.folder / "containers"
        self._images = world.folder / "images.json"

    def login(self, arguments: list[str]) -> int:
        user = _value(arguments, "--username", "-u")
        server = next((word for word in reversed(arguments) if "." in word), "https://index.docker.io/v1/")
        if "--password-stdin" not in arguments:
            raise Refused("the stand-in takes a password on standard input only: --password-stdin")
        password = sys.stdin.read().rstrip("\n")
        try:
            self._world.post("registry/login", {"user": user, "password": password})
        except urllib.error.HTTPError as error:
            error.close()
            raise Refused(
                f"Error response from daemon: login attempt to https://{server}/v2/ failed with status: "
                f"{error.code} {error.reason}"
            ) from None
        self._config.mkdir(parents=True, exist_ok=True)
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        file = self._config / "config.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps({"auths": {server: {"auth": token}}}), encoding="utf-8")
        sys.stdout.write("Login Succeeded\n")
        return 0

    def logout(self, _arguments: list[str]) -> int:
        (self._config / "config.json").unlink(missing_ok=True)
        return 0

    def pull(self, arguments: list[str]) -> int:
        reference = next(word for word in reversed(arguments) if not word.startswith("-"))
        image = self._fetch(reference)
        if not {"--quiet", "-q"} & set(arguments):
            sys.stdout.write(f"{image.tag}: Pulling from {image.repository}\nDigest: {image.digest}\n")
            sys.stdout.write(f"Status: Downloaded newer image for {reference}\n")
        sys.stdout.write(f"{reference}\n")
        return 0

    def _fetch(self, reference: str) -> KnownImage:
        registry, _, path = reference.partition("/")
        repository = re.split("[:@]", path)[0]
        if _ECR.fullmatch(registry):
            if self._faults.ecr_pull == "denied":
                raise Refused(
                    f"Error response from daemon: pull access denied for {registry}/{repository}, repository does not "
                    "exist or may require 'docker login': denied: User is not authorized to perform: "
                    f"ecr:BatchGetImage on resource: {repository} because no identity-based policy allows the "
                    "ecr:BatchGetImage action"
                )
            if registry not in self._logins():
                raise Refused(
                    f'Error response from daemon: Head "https://{registry}/v2/{repository}/manifests/latest": '
                    "no basic auth credentials"
                )
        image = find_image(reference)
        if image is None:
            raise Refused(
                f"Error response from daemon: manifest for {reference} not found: manifest unknown: Requested image "
                "not found"
            )
        known = self._pulled()
        known.update({image.uri: image.uri, image.by_digest: image.uri, reference: image.uri})
        self._images.write_text(json.dumps(known), encoding="utf-8")
        return image

    def _logins(self) -> set[str]:
        try:
            return set(json.loads((self._config / "config.json").read_text(encoding="utf-8"))["auths"])
        except (OSError, ValueError, KeyError):
            return set()

    def _pulled(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(self._images.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def image(self, arguments: list[str]) -> int:
        command, *rest = arguments
        if command == "pull":
            return self.pull(rest)
        if command != "inspect":
            raise Refused(f"docker: the stand-in has no 'image {command}'")
        form = _value(rest, "--format", "-f") or ""
        reference = rest[-1]
        uri = self._pulled().get(reference)
        if uri is None:
            sys.stdout.write("\n")
            raise Refused(f"Error response from daemon: No such image: {reference}")
        image = KnownImage(uri=uri)
        # Docker's templates are Go's; these are the fields that anybody asks for.
        if ".RepoDigests" in form:
            listed = json.dumps([image.by_digest]) if "json" in form else image.by_digest
            sys.stdout.write(f"{listed}\n")
        elif ".Id" in form:
            sys.stdout.write(f"{image.digest}\n")
        else:
            row = {"Id": image.digest, "RepoTags": [image.uri], "RepoDigests": [image.by_digest]}
            sys.stdout.write(json.dumps([row], indent=1) + "\n")
        return 0

    def run(self, arguments: list[str]) -> int:
        options = parse_run(arguments)
        if options.image not in self._pulled():
            sys.stderr.write(f"Unable to find image '{options.image}' locally\n")
            self._fetch(options.image)
        image = KnownImage(uri=self._pulled()[options.image])
        self._check_devices(options)
        name = options.last("name") or f"container-{os.getpid()}"
        if self._processes(name):
            raise Refused(
                f'docker: Error response from daemon: Conflict. The container name "/{name}" is already in use. You '
                "have to remove (or rename) that container to be able to reuse that name.",
                _NOT_RUN,
            )
        command = [translate(word, options.mounts) for word in self._command(options)]
        environment = self._environment(options, name=name, image=image)
        program = shutil.which(command[0], path=environment["PATH"])
        if program is None:
            raise Refused(
                "docker: Error response from daemon: failed to create task for container: exec: "
                f'"{command[0]}": executable file not found in $PATH',
                _NOT_FOUND,
            )
        interactive = "interactive" in options.flags
        child = subprocess.Popen(
            [program, *command[1:]],
            env=environment,
            cwd=self._world.folder,
            stdin=None if interactive else subprocess.DEVNULL,
            start_new_session=True,
        )
        self._containers.mkdir(exist_ok=True)
        note = self._containers / f"{name}.json"
        described = {"name": name, "image": image.uri, "pid": child.pid, "created": time.time()}
        note.write_text(json.dumps(described), encoding="utf-8")

        def pass_on(number: int, _frame: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, pass_on)
        status = child.wait()
        # A container ends with its first process.
        self._kill(name)
        if "rm" in options.flags:
            note.unlink(missing_ok=True)
        return status if status >= 0 else 128 - status

    @staticmethod
    def _command(options: RunOptions) -> list[str]:
        entrypoint = options.last("entrypoint")
        command = [*([entrypoint] if entrypoint else []), *options.arguments]
        if not command:
            raise Refused("docker: the stand-in's images serve nothing: give --entrypoint or a command", _NOT_RUN)
        return command

    def _environment(self, options: RunOptions, *, name: str, image: KnownImage) -> dict[str, str]:
        kept = {key: os.environ[key] for key in KEPT_IN_CONTAINERS if key in os.environ}
        home = self._world.folder / "container-home" / name
        home.mkdir(parents=True, exist_ok=True)
        given = {key: translate(value, options.mounts) for key, value in options.environment.items()}
        return {
            "PATH": os.pathsep.join([str(self._world.folder / CONTAINER_BIN), "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": str(home),
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),  # noqa: S108 - the host's own
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "HF_ENDPOINT": f"{self._world.emulator}/_modelzone/hub",
            # The hub's other protocol for large files needs servers of its own.
            "HF_HUB_DISABLE_XET": "1",
            **given,
            **kept,
            CONTAINER_VARIABLE: name,
            IMAGE_VARIABLE: image.uri,
            DEVICES_VARIABLE: str(len(options.values.get("device", []))),
        }

    def _check_devices(self, options: RunOptions) -> None:
        present = devices_of(self._world.instance_type, kind="neuron")
        for device in options.values.get("device", []):
            match = _NEURON_DEVICE.fullmatch(device)
            if match is None or int(match[1]) >= present:
                raise Refused(
                    "docker: Error response from daemon: error gathering device information while adding custom device "
                    f'"{device}": no such file or directory',
                    _NOT_RUN,
                )
        if options.values.get("gpus") and not devices_of(self._world.instance_type, kind="gpu"):
            raise Refused(
                'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]]',
                _NOT_RUN,
            )

    def rm(self, arguments: list[str]) -> int:
        """Also ``kill`` and ``stop``."""
        status = 0
        for name in (word for word in arguments if not word.startswith("-") and not word.isdecimal()):
            note = self._containers / f"{name}.json"
            if not note.exists() and not self._processes(name):
                sys.stderr.write(f"Error response from daemon: No such container: {name}\n")
                status = _FAILED
                continue
            self._kill(name)
            note.unlink(missing_ok=True)
            sys.stdout.write(f"{name}\n")
        return status

    def ps(self, arguments: list[str]) -> int:
        rows = [
            json.loads(path.read_text(encoding="utf-8"))
            for path in (sorted(self._containers.glob("*.json")) if self._containers.exists() else [])
        ]
        shown = [row for row in rows if {"-a", "--all"} & set(arguments) or self._processes(row["name"])]
        wanted = _value(arguments, "--filter", "-f") or ""
        if wanted.startswith("name="):
            shown = [row for row in shown if wanted[5:].strip("^$/") in row["name"]]
        form = _value(arguments, "--format")
        if {"-q", "--quiet"} & set(arguments) or form:
            sys.stdout.writelines(f"{row['name']}\n" for row in shown)
        else:
            sys.stdout.write("NAMES\tIMAGE\n" + "".join(f"{row['name']}\t{row['image']}\n" for row in shown))
        return 0

    def _processes(self, name: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                variables = process.environ()
                if (variables.get(CONTAINER_VARIABLE), variables.get("MODELZONE_HOST")) == (
                    name,
                    self._world.instance_id,
                ) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _kill(self, name: str) -> None:
        """Kill what runs in a container until nothing of it is left: a process may start another one meanwhile."""
        while processes := self._processes(name):
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(processes, timeout=1)


def _value(arguments: Sequence[str], *names: str) -> str | None:
    """The value of an option that is given as ``--name value`` or ``--name=value``."""
    for index, word in enumerate(arguments):
        if word in names and index + 1 < len(arguments):
            return arguments[index + 1]
        for name in names:
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
    return None


def _record(world: HostWorld, arguments: Sequence[str]) -> None:
    row: dict[str, Any] = {"time": time.time(), "argv": ["docker", *arguments], "environment": dict(os.environ)}
    with (world.folder / RECORD).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _refuse_unknown(command: str) -> NoReturn:
    raise Refused(f"docker: '{command}' is not a docker command that the stand-in knows.\nSee 'docker --help'")


def main(arguments: list[str]) -> int:
    """Do what the command line says and return the exit status."""
    world = HostWorld.current()
    _record(world, arguments)
    config = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    words = list(arguments)
    if words and words[0].startswith("--config"):
        given = words.pop(0)
        config = Path(given.partition("=")[2] or words.pop(0))
    docker = _Docker(world, config=config, faults=Faults.of_host())
    command, *rest = words or ["help"]
    known = {
        "login": docker.login,
        "logout": docker.logout,
        "pull": docker.pull,
        "image": docker.image,
        "run": docker.run,
        "rm": docker.rm,
        "kill": docker.rm,
        "stop": docker.rm,
        "ps": docker.ps,
    }
    if command in {"version", "--version", "info"}:
        sys.stdout.write("Docker version 28.5.1, build stand-in\n")
        return 0
    try:
        return known[command](rest) if command in known else _refuse_unknown(command)
    except Refused as refusal:
        sys.stderr.write(f"{refusal}\n")
        return refusal.status
