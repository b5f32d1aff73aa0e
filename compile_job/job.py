"""The job: read, checked, frozen."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .errors import JobError

__all__ = ["FACT_NAMES", "DirectoryWeights", "HubWeights", "Job", "artifact_key", "artifact_prefix", "read_job"]

FACT_NAMES = (
    "engine",
    "engine_version",
    "model_id",
    "model_revision",
    "instance_family",
    "tensor_parallel_degree",
    "batch_size",
    "sequence_length",
    "dtype",
)
RUNNERS = ("docker", "process")

_KEY_DIGITS = 20
_NUMBERS = ("tensor_parallel_degree", "batch_size", "sequence_length")
_KEYS = {
    "facts",
    "bucket",
    "prefix",
    "image",
    "runner",
    "weights",
    "devices",
    "export_command",
    "work_dir",
    "min_free_gib",
    "region",
}
_OPTIONAL_KEYS = {"min_memory_gib"}
_REVISION = re.compile(r"[0-9a-f]{40}|main")
_MODEL_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class HubWeights:
    """Weights on the Hugging Face Hub. `token_secret_arn` is empty for models that need no token."""

    model_id: str
    revision: str
    token_secret_arn: str


@dataclass(frozen=True)
class DirectoryWeights:
    """Weights that are on this host."""

    path: Path


@dataclass(frozen=True)
class Job:
    """A checked job; see the package's documentation for the keys."""

    facts: Mapping[str, str]
    bucket: str
    prefix: str
    image: str
    runner: str
    weights: HubWeights | DirectoryWeights
    devices: int
    export_command: tuple[str, ...]
    work_dir: Path
    min_free_gib: int
    min_memory_gib: int
    region: str

    @property
    def key(self) -> str:
        """The artifact's identity."""
        return artifact_key(self.facts)

    @property
    def s3_uri(self) -> str:
        """Where the artifact goes."""
        return f"s3://{self.bucket}/{self.prefix}"


def artifact_key(facts: Mapping[str, str]) -> str:
    """Return the first 20 hexadecimal digits of the SHA-256 of the facts as canonical JSON."""
    text = json.dumps(dict(facts), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


def artifact_prefix(facts: Mapping[str, str]) -> str:
    """Return ``compiled/<model>/<key>/``, the place of the artifact in the bucket."""
    slug = facts["model_id"].lower().replace("/", "--")
    return f"compiled/{slug}/{artifact_key(facts)}/"


def read_job(path: Path) -> Job:
    """Read a job file.

    Raises
    ------
    JobError
        Naming the file, the key and the value at fault.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}"
        raise JobError(message) from error
    except ValueError as error:
        message = f"{path}: not JSON: {error}"
        raise JobError(message) from error
    return _Reader(str(path)).job(data)


class _Reader:
    """Checks values; every message begins with the file."""

    def __init__(self, file: str) -> None:
        self._file = file

    def job(self, data: Any) -> Job:
        values = self._object("job", data)
        self._keys("job", values, required=_KEYS, optional=_OPTIONAL_KEYS)
        facts = self._facts(values["facts"])
        runner = self._choice("runner", values["runner"], RUNNERS)
        weights = self._weights(values["weights"])
        if isinstance(weights, HubWeights):
            if runner != "docker":
                self._fail("weights.source", "hub", "the runner 'process' needs the source 'directory'")
            for name in ("model_id", "revision"):
                fact = facts["model_id" if name == "model_id" else "model_revision"]
                if getattr(weights, name) != fact:
                    self._fail(f"weights.{name}", getattr(weights, name), f"the facts say {fact!r}")
        prefix = self._text("prefix", values["prefix"])
        if prefix != artifact_prefix(facts):
            self._fail("prefix", prefix, f"the facts give {artifact_prefix(facts)!r}")
        return Job(
            facts=facts,
            bucket=self._text("bucket", values["bucket"]),
            prefix=prefix,
            image=self._text("image", values["image"]),
            runner=runner,
            weights=weights,
            devices=self._number("devices", values["devices"]),
            export_command=self._command(values["export_command"]),
            work_dir=self._absolute("work_dir", values["work_dir"]),
            min_free_gib=self._number("min_free_gib", values["min_free_gib"]),
            min_memory_gib=self._number("min_memory_gib", values.get("min_memory_gib", 0)),
            region=self._text("region", values["region"]),
        )

    def _facts(self, data: Any) -> dict[str, str]:
        facts = self._object("facts", data)
        self._keys("facts", facts, required=set(FACT_NAMES), optional=set())
        checked = {name: self._text(f"facts.{name}", facts[name]) for name in FACT_NAMES}
        for name in _NUMBERS:
            if not checked[name].isdecimal() or int(checked[name]) < 1:
                self._fail(f"facts.{name}", checked[name], "expected a positive whole number, as a text")
        if not _REVISION.fullmatch(checked["model_revision"]):
            self._fail("facts.model_revision", checked["model_revision"], "expected 40 hexadecimal digits, or main")
        if not _MODEL_ID.fullmatch(checked["model_id"]):
            self._fail("facts.model_id", checked["model_id"], "expected an id of the hub, as in owner/name")
        return checked

    def _weights(self, data: Any) -> HubWeights | DirectoryWeights:
        weights = self._object("weights", data)
        source = self._choice("weights.source", weights.get("source"), ("hub", "directory"))
        if source == "directory":
            self._keys("weights", weights, required={"source", "path"}, optional=set())
            return DirectoryWeights(path=self._absolute("weights.path", weights["path"]))
        self._keys("weights", weights, required={"source", "model_id", "revision", "token_secret_arn"}, optional=set())
        secret = weights["token_secret_arn"]
        if not isinstance(secret, str):
            self._fail("weights.token_secret_arn", secret, "expected a text, empty for a model that needs no token")
        return HubWeights(
            model_id=self._text("weights.model_id", weights["model_id"]),
            revision=self._text("weights.revision", weights["revision"]),
            token_secret_arn=secret,
        )

    def _command(self, data: Any) -> tuple[str, ...]:
        if not isinstance(data, list) or not data or not all(isinstance(word, str) and word for word in data):
            self._fail("export_command", data, "expected a list of texts")
        for placeholder in ("{model}", "{output}"):
            if data.count(placeholder) != 1:
                self._fail("export_command", data, f"expected {placeholder} once, as a word of its own")
        return tuple(data)

    def _keys(self, name: str, values: Mapping[str, Any], *, required: set[str], optional: set[str]) -> None:
        at = "" if name == "job" else f"{name}."
        for key in sorted(required - set(values)):
            message = f"{self._file}: key '{at}{key}' is missing"
            raise JobError(message)
        for key in sorted(set(values) - required - optional):
            message = f"{self._file}: key '{at}{key}' is unknown; known are {', '.join(sorted(required | optional))}"
            raise JobError(message)

    def _object(self, key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._fail(key, value, "expected an object")
        return value

    def _text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            self._fail(key, value, "expected a text that is not empty")
        return value

    def _choice(self, key: str, value: Any, choices: tuple[str, ...]) -> str:
        if value not in choices:
            self._fail(key, value, f"expected one of {', '.join(choices)}")
        return str(value)

    def _number(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self._fail(key, value, "expected a whole number of at least 0")
        return value

    def _absolute(self, key: str, value: Any) -> Path:
        path = Path(self._text(key, value))
        if not path.is_absolute() or "," in str(path):
            # docker reads a comma as the end of a mount's path
            self._fail(key, value, "expected an absolute path without commas")
        return path

    def _fail(self, key: str, value: object, reason: str) -> NoReturn:
        message = f"{self._file}: key '{key}' has value {value!r:.200}: {reason}"
        raise JobError(message)
