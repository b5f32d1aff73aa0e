"""The job: read, checked, frozen."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import placeholders
from .errors import JobError
from .reading import Reader

__all__ = ["ACCELERATORS", "FACT_NAMES", "LAYOUTS", "Job", "Weights", "artifact_key", "artifact_prefix", "read_job"]

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
ACCELERATORS = ("neuron", "nvidia", "none")
NO_LAYOUT = "none"
LAYOUTS = ("neuron-config-key", "neuron-config-file", "tensorrt-llm-repo", "traced-modules", NO_LAYOUT)
SOURCES = ("hub", "s3")

_KEY_DIGITS = 20
_REQUIRED = {
    "facts",
    "bucket",
    "prefix",
    "image",
    "accelerator",
    "devices",
    "layout",
    "weights",
    "export_command",
    "work_dir",
    "min_free_gib",
    "region",
}
_OPTIONAL: Mapping[str, Any] = {
    "image_digest": "",
    "properties": {},
    "weights_only": False,
    "min_memory_gib": 0,
    "progress_parameter": "",
}
_REVISION = re.compile(r"[0-9a-f]{40}|main")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MODEL_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Weights:
    """Where the weights come from.

    Attributes
    ----------
    source
        ``hub`` for the Hugging Face Hub (what the mirror in S3 has is taken from there), ``s3`` for the mirror alone.
    token_secret_arn
        Empty for models that need no token.
    """

    source: str
    model_id: str
    revision: str
    token_secret_arn: str = ""

    @property
    def slug(self) -> str:
        """The model's id as one part of a path."""
        return _slug(self.model_id)

    @property
    def prefix(self) -> str:
        """Where the mirror has them in the bucket."""
        return f"weights/{self.slug}/{self.revision}/"


@dataclass(frozen=True)
class Job:
    """A checked job; see the package's documentation for the keys."""

    facts: Mapping[str, str]
    bucket: str
    prefix: str
    image: str
    image_digest: str
    accelerator: str
    devices: int
    layout: str
    weights: Weights
    export_command: tuple[str, ...]
    properties: Mapping[str, str]
    weights_only: bool
    work_dir: Path
    min_free_gib: int
    min_memory_gib: int
    region: str
    progress_parameter: str

    @property
    def key(self) -> str:
        """The artifact's identity."""
        return artifact_key(self.facts)

    @property
    def mirrors_only(self) -> bool:
        """Whether the job ends when the weights are in the mirror."""
        return self.weights_only or self.layout == NO_LAYOUT

    @property
    def s3_uri(self) -> str:
        """Where the result goes."""
        return f"s3://{self.bucket}/{self.weights.prefix if self.mirrors_only else self.prefix}"


def artifact_key(facts: Mapping[str, str]) -> str:
    """Return the first 20 hexadecimal digits of the SHA-256 of the facts as canonical JSON."""
    text = json.dumps(dict(facts), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


def artifact_prefix(facts: Mapping[str, str]) -> str:
    """Return ``compiled/<model>/<key>/``, the place of the artifact in the bucket."""
    return f"compiled/{_slug(facts['model_id'])}/{artifact_key(facts)}/"


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
    return _job(data, Reader(str(path)))


def _job(data: Any, read: Reader) -> Job:
    values = read.mapping("job", data)
    read.keys("", values, required=_REQUIRED, optional=set(_OPTIONAL))
    values = {**_OPTIONAL, **values}
    facts = _facts(values["facts"], read)
    prefix = read.text("prefix", values["prefix"])
    if prefix != artifact_prefix(facts):
        read.fail("prefix", prefix, f"the facts give {artifact_prefix(facts)!r}")
    digest = read.text_or_empty("image_digest", values["image_digest"], "the image as its tag names it")
    if digest and not _DIGEST.fullmatch(digest):
        read.fail("image_digest", digest, "expected sha256: and 64 hexadecimal digits")
    layout = read.choice("layout", values["layout"], LAYOUTS)
    return Job(
        facts=facts,
        bucket=read.text("bucket", values["bucket"]),
        prefix=prefix,
        image=read.text("image", values["image"]),
        image_digest=digest,
        accelerator=read.choice("accelerator", values["accelerator"], ACCELERATORS),
        devices=read.number("devices", values["devices"]),
        layout=layout,
        weights=_weights(values["weights"], facts, read),
        export_command=_command(values["export_command"], layout, read),
        properties=read.texts("properties", values["properties"]),
        weights_only=read.flag("weights_only", values["weights_only"]),
        work_dir=read.absolute("work_dir", values["work_dir"]),
        min_free_gib=read.number("min_free_gib", values["min_free_gib"]),
        min_memory_gib=read.number("min_memory_gib", values["min_memory_gib"]),
        region=read.text("region", values["region"]),
        progress_parameter=read.text_or_empty("progress_parameter", values["progress_parameter"], "none"),
    )


def _facts(data: Any, read: Reader) -> dict[str, str]:
    facts = read.mapping("facts", data)
    read.keys("facts", facts, required=set(FACT_NAMES), optional=set())
    checked = {name: read.text(f"facts.{name}", facts[name]) for name in FACT_NAMES}
    for name in placeholders.NUMBERS:
        if not checked[name].isdecimal() or int(checked[name]) < 1:
            read.fail(f"facts.{name}", checked[name], "expected a positive whole number, as a text")
    if not _REVISION.fullmatch(checked["model_revision"]):
        read.fail("facts.model_revision", checked["model_revision"], "expected 40 hexadecimal digits, or main")
    if not _MODEL_ID.fullmatch(checked["model_id"]):
        read.fail("facts.model_id", checked["model_id"], "expected an id of the hub, as in owner/name")
    return checked


def _weights(data: Any, facts: Mapping[str, str], read: Reader) -> Weights:
    values = read.mapping("weights", data)
    source = read.choice("weights.source", values.get("source"), SOURCES)
    read.keys("weights", values, required={"source", "model_id", "revision"}, optional={"token_secret_arn"})
    for name, fact in (("model_id", "model_id"), ("revision", "model_revision")):
        if values[name] != facts[fact]:
            read.fail(f"weights.{name}", values[name], f"the facts say {facts[fact]!r}")
    secret = values.get("token_secret_arn", "")
    return Weights(
        source=source,
        model_id=facts["model_id"],
        revision=facts["model_revision"],
        token_secret_arn=read.text_or_empty("weights.token_secret_arn", secret, "a model that needs no token"),
    )


def _command(data: Any, layout: str, read: Reader) -> tuple[str, ...]:
    if not isinstance(data, list) or not all(isinstance(word, str) and word for word in data):
        read.fail("export_command", data, "expected a list of texts")
    if not data:
        if layout != NO_LAYOUT:
            read.fail("export_command", data, f"may be empty with the layout '{NO_LAYOUT}' only, not '{layout}'")
        return ()
    if layout == NO_LAYOUT:
        read.fail("export_command", data, f"with the layout '{NO_LAYOUT}' nothing is exported: expected []")
    for placeholder in ("{model}", "{output}"):
        if data.count(placeholder) != 1:
            read.fail("export_command", data, f"expected {placeholder} once, as a word of its own")
    for word in data:
        if found := placeholders.unknown(word):
            known = ", ".join(f"{{{name}}}" for name in placeholders.PATHS + placeholders.NUMBERS)
            reason = f"nothing stands for {found} here; known are {known}, the first {len(placeholders.PATHS)} as words"
            read.fail("export_command", word, f"{reason} of their own")
    return tuple(data)


def _slug(model_id: str) -> str:
    return model_id.lower().replace("/", "--")
