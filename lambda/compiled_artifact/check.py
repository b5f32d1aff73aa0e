"""The check itself: are the numbers possible, and is the artifact there as its manifest says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["Artifact", "CheckError", "Order", "artifact_key", "artifact_prefix", "check_artifact"]

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
# Parameters of the stack that shape the artifact, and the fact that each of them is.
SHAPING = {
    "ModelId": "model_id",
    "ModelRevision": "model_revision",
    "TensorParallelDegree": "tensor_parallel_degree",
    "BatchSize": "batch_size",
    "SequenceLength": "sequence_length",
}
MANIFEST_FORMAT = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 8 * 1024 * 1024

_KEY_DIGITS = 20
_PARALLEL_HEADS = 16
_NAMED_PROBLEMS = 5
_INSTANCE_TYPE_PARTS = 3


class CheckError(Exception):
    """The deployment must not go on; the text says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The resource's properties. CloudFormation passes every value as text.

    `values` are the settings of the stack by their parameters' names: what the operator gave, or else what was planned.
    """

    bucket: str
    deployment: str
    facts: Mapping[str, str]
    values: Mapping[str, str]
    min_instances: int
    max_instances: int
    instance_type: str
    allowed_degrees: Mapping[str, tuple[int, ...]]
    max_sequence_length: int
    max_input_tokens: int
    compile_hint: str

    @classmethod
    def from_properties(cls, properties: Mapping[str, Any]) -> Order:
        """Read the properties of the custom resource.

        Raises
        ------
        CheckError
            For a missing property or a value that is not what it should be, named.
        """
        planned, given = _mapping(properties, "Planned"), properties.get("Given", {})
        # CloudFormation leaves a parameter that was not given empty: the plan holds.
        values = {name: str(given.get(name) or value) for name, value in planned.items()}
        facts = {**_mapping(properties, "Facts"), **{f: values[n] for n, f in SHAPING.items() if n in values}}
        if wrong := sorted(set(facts) ^ set(FACT_NAMES)):
            message = f"Facts must hold exactly {', '.join(FACT_NAMES)}; missing or unknown: {', '.join(wrong)}."
            raise CheckError(message)
        allowed = {
            instance_type: tuple(_integer(f"AllowedTensorParallelDegrees.{instance_type}", item) for item in degrees)
            for instance_type, degrees in (
                (name, value.split(",")) for name, value in _mapping(properties, "AllowedTensorParallelDegrees").items()
            )
        }
        return cls(
            bucket=_text(properties, "Bucket"),
            deployment=_text(properties, "Deployment"),
            facts=facts,
            values=values,
            min_instances=_integer("MinInstanceCount", _text(values, "MinInstanceCount")),
            max_instances=_integer("MaxInstanceCount", _text(values, "MaxInstanceCount")),
            instance_type=_text(values, "InstanceType"),
            allowed_degrees=allowed,
            max_sequence_length=_integer("MaxSequenceLength", _text(properties, "MaxSequenceLength")),
            max_input_tokens=_integer("MaxInputTokens", _text(properties, "MaxInputTokens"), low=1),
            compile_hint=_text(properties, "CompileHint"),
        )

    def check_change(self, deployed: str | None) -> None:
        """Refuse a change that SageMaker refuses, before the endpoint is touched.

        Parameters
        ----------
        deployed
            `Artifact.physical_id` of what is deployed now, if anything is.

        Raises
        ------
        CheckError
            For another instance type: an endpoint with autoscaling keeps its own.
        """
        before = (deployed or "").rpartition("@")[2]
        if deployed and "@" in deployed and before != self.instance_type:
            message = (
                f"InstanceType cannot change from {before} to {self.instance_type}: SageMaker refuses it for an "
                "endpoint with autoscaling. Add a second deployment with the new type, move the clients, then remove "
                "this one; or destroy this stack and deploy it again."
            )
            raise CheckError(message)

    def check_numbers(self) -> None:
        """Refuse what cannot work before anything is looked up.

        Raises
        ------
        CheckError
            Naming the value and what is possible instead.
        """
        if self.min_instances < 1:
            message = f"MinInstanceCount is {self.min_instances}; an endpoint needs at least 1 instance."
            raise CheckError(message)
        if self.min_instances > self.max_instances:
            message = (
                f"MinInstanceCount is {self.min_instances} and MaxInstanceCount is {self.max_instances}: "
                "the first must not be above the second."
            )
            raise CheckError(message)
        degree = _integer("TensorParallelDegree", self.facts["tensor_parallel_degree"], low=1)
        allowed = self.allowed_degrees.get(self.instance_type)
        if allowed is None:
            message = (
                f"InstanceType '{self.instance_type}' is not one this deployment can run on: choose one of "
                f"{', '.join(sorted(self.allowed_degrees))}."
            )
            raise CheckError(message)
        if degree not in allowed:
            message = (
                f"TensorParallelDegree {degree} is not possible on {self.instance_type}: choose one of "
                f"{', '.join(map(str, allowed))}."
            )
            raise CheckError(message)
        self._check_family()
        _integer("BatchSize", self.facts["batch_size"], low=1)
        length = _integer("SequenceLength", self.facts["sequence_length"], low=1)
        if length > self.max_sequence_length:
            message = f"SequenceLength is {length}; this model takes {self.max_sequence_length} at most."
            raise CheckError(message)
        if self.max_input_tokens >= length:
            message = (
                f"SequenceLength is {length} and prompts may have {self.max_input_tokens} tokens: no room for an "
                "answer. Lower max_input_tokens in the environment file or raise SequenceLength."
            )
            raise CheckError(message)

    def _check_family(self) -> None:
        parts = self.instance_type.split(".")
        family = parts[1] if len(parts) == _INSTANCE_TYPE_PARTS else ""
        if family != self.facts["instance_family"]:
            message = (
                f"InstanceType '{self.instance_type}' does not belong to the instance family "
                f"'{self.facts['instance_family']}' that the model is compiled for."
            )
            raise CheckError(message)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An artifact that was found complete. `prefix` ends with a slash."""

    bucket: str
    key: str
    prefix: str
    facts: Mapping[str, str]
    manifest_sha256: str
    instance_type: str
    values: Mapping[str, str]
    max_input_tokens: int

    @property
    def s3_uri(self) -> str:
        """Where the artifact is, with a trailing slash: a prefix without one would match its neighbours too."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def physical_id(self) -> str:
        """What CloudFormation remembers of the deployment: the artifact and the instance type that serves it."""
        return f"{self.s3_uri}@{self.instance_type}"

    @property
    def attributes(self) -> dict[str, str]:
        """What the stack reads with `Fn::GetAtt`: the artifact, and the value that holds for every parameter."""
        return {
            **self.values,
            "Key": self.key,
            "Prefix": self.prefix,
            "S3Uri": self.s3_uri,
            "ManifestSha256": self.manifest_sha256,
            "Dtype": self.facts["dtype"],
            # TGI refuses to start with a prefill budget above what a full batch of longest prompts needs.
            "MaxBatchPrefillTokens": str(int(self.facts["batch_size"]) * self.max_input_tokens),
        }


def artifact_key(facts: Mapping[str, str]) -> str:
    """Return the first 20 hexadecimal digits of the SHA-256 of the facts as canonical JSON."""
    text = json.dumps(dict(facts), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


def artifact_prefix(facts: Mapping[str, str]) -> str:
    """Return ``compiled/<model>/<key>/``, the place of the artifact in the bucket."""
    slug = facts["model_id"].lower().replace("/", "--")
    return f"compiled/{slug}/{artifact_key(facts)}/"


def check_artifact(order: Order, *, s3: S3Client) -> Artifact:
    """Check the numbers, the manifest and every object that it lists.

    Only GetObject and HeadObject are used. Without permission to list, S3 answers 403 for what does not exist, so 403
    and 404 are one case here.

    Raises
    ------
    CheckError
        With the S3 URI, the values at odds and the remedy.
    """
    order.check_numbers()
    prefix = artifact_prefix(order.facts)
    uri = f"s3://{order.bucket}/{prefix}"
    raw = _read_manifest(order, prefix, s3=s3)
    objects = _read_objects(raw, order=order, uri=uri)
    problems = _missing(objects, bucket=order.bucket, prefix=prefix, s3=s3)
    if problems:
        named = "; ".join(problems[:_NAMED_PROBLEMS])
        more = f"; and {len(problems) - _NAMED_PROBLEMS} more" if len(problems) > _NAMED_PROBLEMS else ""
        message = (
            f"The compiled artifact {uri} is incomplete: {named}{more}. The compile job completes it. "
            f"{order.compile_hint}"
        )
        raise CheckError(message)
    return Artifact(
        bucket=order.bucket,
        key=artifact_key(order.facts),
        prefix=prefix,
        facts=order.facts,
        manifest_sha256=hashlib.sha256(raw).hexdigest(),
        instance_type=order.instance_type,
        values=order.values,
        max_input_tokens=order.max_input_tokens,
    )


def _read_manifest(order: Order, prefix: str, *, s3: S3Client) -> bytes:
    uri = f"s3://{order.bucket}/{prefix}{MANIFEST_NAME}"
    try:
        answer = s3.get_object(Bucket=order.bucket, Key=prefix + MANIFEST_NAME)
        if answer["ContentLength"] > MAX_MANIFEST_BYTES:
            message = f"{uri} has {answer['ContentLength']} bytes, which no manifest has. {order.compile_hint}"
            raise CheckError(message)
        with answer["Body"] as body:
            return body.read()
    except ClientError as error:
        if _absent(error):
            message = (
                f"No compiled artifact for deployment '{order.deployment}': {uri} does not exist or may not be read "
                f"({_describe(order.facts)}). {order.compile_hint}"
            )
            raise CheckError(message) from error
        message = f"{uri} could not be read: {_aws_words(error)}."
        raise CheckError(message) from error
    except BotoCoreError as error:
        message = f"{uri} could not be read: {error}."
        raise CheckError(message) from error


def _read_objects(raw: bytes, *, order: Order, uri: str) -> dict[str, int]:
    """Return the sizes of the objects by path, once the manifest is known to be the right one."""
    at = f"{uri}{MANIFEST_NAME}"
    try:
        manifest = json.loads(raw)
    except ValueError as error:
        message = f"{at} is not JSON. {order.compile_hint}"
        raise CheckError(message) from error
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        message = f"{at} has format {found!r}, this deployment reads format {MANIFEST_FORMAT}. {order.compile_hint}"
        raise CheckError(message)
    facts = manifest.get("facts")
    if not isinstance(facts, dict):
        message = f"{at} has no facts. {order.compile_hint}"
        raise CheckError(message)
    for name in sorted({*facts, *order.facts}):
        if facts.get(name) != order.facts.get(name):
            message = (
                f"{at} was compiled with {name} {facts.get(name)!r}, deployment '{order.deployment}' wants "
                f"{order.facts.get(name)!r}. {order.compile_hint}"
            )
            raise CheckError(message)
    key = artifact_key(order.facts)
    if manifest.get("key") != key:
        message = f"{at} has key {manifest.get('key')!r}, its facts give {key!r}. {order.compile_hint}"
        raise CheckError(message)
    return _object_sizes(manifest.get("objects"), at=at, hint=order.compile_hint)


def _object_sizes(objects: object, *, at: str, hint: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for item in objects if isinstance(objects, list) else []:
        path = item.get("path") if isinstance(item, dict) else None
        size = item.get("size") if isinstance(item, dict) else None
        if not isinstance(path, str) or not path or type(size) is not int or size < 0 or path in sizes:
            message = f"{at} lists an object without a proper path and size: {item!r:.200}. {hint}"
            raise CheckError(message)
        sizes[path] = size
    if not sizes:
        message = f"{at} lists no objects. {hint}"
        raise CheckError(message)
    return sizes


def _missing(objects: Mapping[str, int], *, bucket: str, prefix: str, s3: S3Client) -> list[str]:
    """Return one line for every object that is not there with its size, in the order of the manifest."""

    def problem(item: tuple[str, int]) -> str | None:
        path, size = item
        try:
            found = s3.head_object(Bucket=bucket, Key=prefix + path)["ContentLength"]
        except ClientError as error:
            return f"{path} does not exist or may not be read" if _absent(error) else f"{path}: {_aws_words(error)}"
        except BotoCoreError as error:
            return f"{path}: {error}"
        return None if found == size else f"{path} has {found} bytes, the manifest says {size}"

    with ThreadPoolExecutor(max_workers=_PARALLEL_HEADS) as pool:
        return [found for found in pool.map(problem, objects.items()) if found is not None]


def _absent(error: ClientError) -> bool:
    return error.response.get("Error", {}).get("Code") in {"403", "404", "AccessDenied", "NoSuchKey", "NotFound"}


def _aws_words(error: ClientError) -> str:
    detail = error.response.get("Error", {})
    return f"{detail.get('Code', 'unknown error')}: {detail.get('Message', '')}".rstrip(": ")


def _describe(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {facts[name]}" for name in FACT_NAMES)


def _text(properties: Mapping[str, Any], name: str) -> str:
    value = properties.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        message = f"Property {name} is missing or empty."
        raise CheckError(message)
    return value


def _mapping(properties: Mapping[str, Any], name: str) -> dict[str, str]:
    value = properties.get(name)
    if not isinstance(value, dict):
        message = f"Property {name} must be a map."
        raise CheckError(message)
    return {key: _text({f"{name}.{key}": item}, f"{name}.{key}") for key, item in value.items()}


def _integer(name: str, text: str, *, low: int = 0) -> int:
    if not text.strip().isdecimal() or int(text) < low:
        message = f"{name} is '{text}', expected a whole number of at least {low}."
        raise CheckError(message)
    return int(text)
