"""Manifests in the model bucket: read, compared with what they should be, and verified object by object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from .aws import code_of
from .facts import artifact_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = [
    "MANIFEST_NAME",
    "EmptyManifestError",
    "Manifest",
    "ManifestError",
    "StoredObject",
    "artifact_manifest",
    "find_problems",
    "in_words",
    "is_absent",
    "read_raw",
    "weights_manifest",
]

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1
MAX_MANIFEST_BYTES = 8 * 1024 * 1024

_PARALLEL_HEADS = 16
_NAMED_PROBLEMS = 5
# Asked for what is not there, S3 answers 403 to those who may not list the bucket.
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_FORBIDDEN = {"403", "AccessDenied"}
# S3 keeps one of them for each object.
_CHECKSUMS = ("SHA256", "CRC64NVME", "CRC32C", "CRC32", "SHA1")


class ManifestError(ValueError):
    """It is no manifest, or that of something else; the text begins with its S3 URI."""


class EmptyManifestError(ManifestError):
    """It lists nothing: a job has put it there while it replaces what it stood for."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object as the manifest lists it; a checksum that it does not tell is empty.

    `s3_checksum` is S3's own, ``<ALGORITHM>:<value>``.
    """

    path: str
    size: int
    sha256: str
    s3_checksum: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest that was read.

    Attributes
    ----------
    sha256
        Of the manifest itself: changes with anything that it lists.
    """

    sha256: str
    created: str
    producer: Mapping[str, Any]
    objects: tuple[StoredObject, ...]

    @property
    def bytes(self) -> int:
        """Of all objects together."""
        return sum(item.size for item in self.objects)


def is_absent(error: ClientError, *, may_list: bool) -> bool:
    """Whether S3's error says that there is no such object, as far as the caller can know."""
    return code_of(error) in (_ABSENT if may_list else _ABSENT | _FORBIDDEN)


def read_raw(s3: S3Client, bucket: str, prefix: str) -> bytes:
    """Return the bytes of the manifest at a prefix.

    Raises
    ------
    ManifestError
        It is too large for a manifest.
    botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError
        It could not be read, or is not there.
    """
    answer = s3.get_object(Bucket=bucket, Key=prefix + MANIFEST_NAME)
    with answer["Body"] as body:
        if answer["ContentLength"] > MAX_MANIFEST_BYTES:
            message = (
                f"s3://{bucket}/{prefix}{MANIFEST_NAME} has {answer['ContentLength']} bytes, which no manifest has"
            )
            raise ManifestError(message)
        return body.read()


def artifact_manifest(raw: bytes, *, at: str, facts: Mapping[str, str], wanted_by: str) -> Manifest:
    """Read the manifest of an artifact and hold it to the facts that it should have.

    Parameters
    ----------
    at
        Its S3 URI.
    wanted_by
        Who wants these facts, for the message.

    Raises
    ------
    ManifestError
        It is broken or has other facts, with both values.
    """
    data = _parse(raw, at)
    if data.get("format") != MANIFEST_FORMAT:
        message = f"{at} has format {data.get('format')!r}, this deployment reads format {MANIFEST_FORMAT}"
        raise ManifestError(message)
    found = data.get("facts")
    if not isinstance(found, dict):
        message = f"{at} has no facts"
        raise ManifestError(message)
    for name in sorted({*found, *facts}):
        if found.get(name) != facts.get(name):
            message = f"{at} was compiled with {name} {found.get(name)!r}, {wanted_by} wants {facts.get(name)!r}"
            raise ManifestError(message)
    key = artifact_key(facts)
    if data.get("key") != key:
        message = f"{at} has key {data.get('key')!r}, its facts give {key!r}"
        raise ManifestError(message)
    return _manifest(data, raw, at)


def weights_manifest(raw: bytes, *, at: str) -> Manifest:
    """Read the manifest of mirrored weights.

    Raises
    ------
    ManifestError
        It is broken, or lists something else.
    """
    data = _parse(raw, at)
    if (data.get("format"), data.get("kind")) != (MANIFEST_FORMAT, "weights"):
        message = (
            f"{at} is of kind {data.get('kind')!r} in format {data.get('format')!r}, expected 'weights' in format 1"
        )
        raise ManifestError(message)
    return _manifest(data, raw, at)


def find_problems(
    s3: S3Client,
    bucket: str,
    prefix: str,
    objects: Sequence[StoredObject],
    *,
    may_list: bool,
    need_sha256: bool = False,
) -> list[str]:
    """Return one line for every object that is not there as the manifest says, in the manifest's order.

    Size, the SHA-256 that the object carries as metadata, and the checksum that S3 itself computed are compared.

    Parameters
    ----------
    may_list
        Whether the caller may list the bucket; see `is_absent`.
    need_sha256
        Whether an object without that metadata is a problem.

    Raises
    ------
    botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError
        S3 did not answer or refused, which says nothing of the object.
    """

    def problem(item: StoredObject) -> str | None:
        try:
            found = s3.head_object(Bucket=bucket, Key=prefix + item.path, ChecksumMode="ENABLED")
        except ClientError as error:
            if is_absent(error, may_list=may_list):
                return f"{item.path} does not exist" + ("" if may_list else " or may not be read")
            raise
        return _difference(item, found, need_sha256=need_sha256)

    with ThreadPoolExecutor(max_workers=_PARALLEL_HEADS) as pool:
        return [found for found in pool.map(problem, objects) if found is not None]


def in_words(problems: Sequence[str]) -> str:
    """Return the first problems, and how many more there are."""
    more = f"; and {len(problems) - _NAMED_PROBLEMS} more" if len(problems) > _NAMED_PROBLEMS else ""
    return "; ".join(problems[:_NAMED_PROBLEMS]) + more


def _checksum_of(answer: Mapping[str, Any]) -> str:
    """Return the checksum that S3 told, as ``<ALGORITHM>:<value>``; "" when it told none."""
    for algorithm in _CHECKSUMS:
        if value := answer.get(f"Checksum{algorithm}"):
            return f"{algorithm}:{value}"
    return ""


def _difference(item: StoredObject, found: Mapping[str, Any], *, need_sha256: bool) -> str | None:
    if found["ContentLength"] != item.size:
        return f"{item.path} has {found['ContentLength']} bytes, the manifest says {item.size}"
    sha256 = found.get("Metadata", {}).get("sha256", "")
    if sha256 != item.sha256 and (sha256 or need_sha256):
        return f"{item.path} has SHA-256 {sha256 or 'unknown'}, the manifest says {item.sha256 or 'nothing'}"
    checksum = _checksum_of(found)
    if item.s3_checksum and checksum != item.s3_checksum:
        return f"{item.path} has checksum {checksum or 'unknown'} in S3, the manifest says {item.s3_checksum}"
    return None


def _parse(raw: bytes, at: str) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except ValueError as error:
        message = f"{at} is not JSON"
        raise ManifestError(message) from error
    return data if isinstance(data, dict) else {}


def _manifest(data: Mapping[str, Any], raw: bytes, at: str) -> Manifest:
    producer = data.get("producer")
    return Manifest(
        sha256=hashlib.sha256(raw).hexdigest(),
        created=str(data.get("created", "")),
        producer=producer if isinstance(producer, dict) else {},
        objects=_objects(data.get("objects"), at),
    )


def _objects(listed: object, at: str) -> tuple[StoredObject, ...]:
    found: dict[str, StoredObject] = {}
    for item in listed if isinstance(listed, list) else []:
        path = item.get("path") if isinstance(item, dict) else None
        size = item.get("size") if isinstance(item, dict) else None
        if not isinstance(path, str) or not path or type(size) is not int or size < 0 or path in found:
            message = f"{at} lists an object without a proper path and size: {item!r:.200}"
            raise ManifestError(message)
        checksum = str(item.get("s3_checksum") or "")
        if checksum and ":" not in checksum:
            checksum = f"SHA256:{checksum}"  # as manifests were written before they named the algorithm
        found[path] = StoredObject(path=path, size=size, sha256=str(item.get("sha256", "")), s3_checksum=checksum)
    if not found:
        message = f"{at} lists no objects: a job was replacing them"
        raise EmptyManifestError(message)
    return tuple(found.values())
