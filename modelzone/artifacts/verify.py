"""Whether the objects of an artifact are those of its manifest: by what S3 says of them, or by reading them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from modelzone.artifacts.manifest import StoredObject
from modelzone.artifacts.store import ArtifactPlace, s3_uri
from modelzone.compiling.aws import aws_errors, code_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["Checked", "check_objects", "checksum_of", "verify"]

_PARALLEL = 8
_BLOCK = 1 << 20
_ABSENT = {"404", "NoSuchKey", "NotFound"}
# S3 keeps one of them for each object.
_CHECKSUMS = ("SHA256", "CRC64NVME", "CRC32C", "CRC32", "SHA1")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One object. `problem` is empty where all agrees; `by` says what was compared."""

    path: str
    size: int
    by: tuple[str, ...]
    problem: str = ""


def verify(
    s3: S3Client, place: ArtifactPlace, *, deep: bool, on_bytes: Callable[[int], None] = lambda _: None
) -> list[Checked]:
    """Compare every object that the manifest lists, in its order.

    Parameters
    ----------
    deep
        Read every object and hash it.
    on_bytes
        Told, from several threads, how many more bytes were read.
    """
    if place.manifest is None:
        return []
    return check_objects(s3, place.bucket, place.prefix, place.manifest.objects, deep=deep, on_bytes=on_bytes)


def check_objects(
    s3: S3Client,
    bucket: str,
    prefix: str,
    objects: Sequence[StoredObject],
    *,
    deep: bool = False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> list[Checked]:
    """Compare the objects below a prefix with what a manifest says of them, in its order; see `verify`."""
    stop = threading.Event()

    def check(item: StoredObject) -> Checked:
        with aws_errors(f"checking {s3_uri(bucket, prefix)}{item.path}"):
            return _check(s3, bucket, prefix + item.path, item, deep=deep, on_bytes=on_bytes, stop=stop)

    with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
        try:
            return list(pool.map(check, objects))
        except BaseException:
            # Ctrl-C, or S3 refused: what is being read is left at its next block.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check(
    s3: S3Client,
    bucket: str,
    key: str,
    item: StoredObject,
    *,
    deep: bool,
    on_bytes: Callable[[int], None],
    stop: threading.Event,
) -> Checked:
    try:
        head = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except ClientError as error:
        if code_of(error) not in _ABSENT:
            raise
        return Checked(path=item.path, size=item.size, by=("size",), problem="is missing")
    by, problems = ["size"], []
    if head["ContentLength"] != item.size:
        problems.append(f"has {head['ContentLength']:,} bytes, the manifest says {item.size:,}")
    noted = head.get("Metadata", {}).get("sha256", "")
    if noted and item.sha256:
        by.append("metadata")
        if noted != item.sha256:
            problems.append(f"is marked sha256 {noted}, the manifest says {item.sha256}")
    stored = checksum_of(head)
    if item.s3_checksum:
        by.append("S3's checksum")
        if stored != item.s3_checksum:
            problems.append(f"has S3's checksum {stored or 'unknown'}, the manifest says {item.s3_checksum}")
    if deep and not problems and item.sha256:
        by.append("content")
        found = _hash(s3, bucket, key, on_bytes=on_bytes, stop=stop)
        if found != item.sha256:
            problems.append(f"holds sha256 {found}, the manifest says {item.sha256}")
    return Checked(path=item.path, size=item.size, by=tuple(by), problem="; ".join(problems))


def checksum_of(answer: Mapping[str, Any]) -> str:
    """Return the checksum that S3 told, as ``<ALGORITHM>:<value>``; "" when it told none."""
    for algorithm in _CHECKSUMS:
        if value := answer.get(f"Checksum{algorithm}"):
            return f"{algorithm}:{value}"
    return ""


def _hash(s3: S3Client, bucket: str, key: str, *, on_bytes: Callable[[int], None], stop: threading.Event) -> str:
    digest = hashlib.sha256()
    body = s3.get_object(Bucket=bucket, Key=key)["Body"]
    try:
        for block in body.iter_chunks(_BLOCK):
            if stop.is_set():
                raise BotoCoreError
            digest.update(block)
            on_bytes(len(block))
    finally:
        body.close()
    return digest.hexdigest()
