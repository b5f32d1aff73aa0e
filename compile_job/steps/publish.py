"""Upload the artifact: every object with its checksum, the manifest last."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from compile_job.errors import StepError
from compile_job.job import Job

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["MANIFEST", "check_writable", "is_published", "publish_artifact"]

MANIFEST = "manifest.json"
FORMAT = 1

_PARALLEL_FILES = 4
_PARALLEL_CHECKS = 16
_MIB = 1024**2
# 64 MiB parts: 10,000 of them hold more than any file of weights.
_TRANSFER = TransferConfig(
    multipart_threshold=64 * _MIB, multipart_chunksize=64 * _MIB, max_concurrency=8, use_threads=True
)
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_CHECKSUM = "sha256"
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Object:
    path: str
    size: int
    sha256: str


class _CancelledError(Exception):
    """Raised inside a transfer, which then takes its unfinished upload back."""


def is_published(job: Job, *, s3: S3Client) -> bool:
    """Return whether a manifest with the job's facts is there, and every object that it lists, with its size.

    Raises
    ------
    StepError
        When the host may not read there: better now than after hours of compiling.
    """
    try:
        raw = s3.get_object(Bucket=job.bucket, Key=job.prefix + MANIFEST)["Body"].read()
    except ClientError as error:
        if _code(error) in _ABSENT:
            return False
        message = (
            f"{job.s3_uri}{MANIFEST} cannot be read ({_code(error)}): the host's role needs s3:GetObject and, on the "
            "bucket, s3:ListBucket"
        )
        raise StepError(message) from error
    try:
        manifest = json.loads(raw)
        same = (manifest["format"], manifest["facts"], manifest["key"]) == (FORMAT, dict(job.facts), job.key)
        sizes = {item["path"]: item["size"] for item in manifest["objects"]}
    except (ValueError, KeyError, TypeError):
        return False
    if not same or not sizes:
        return False
    with ThreadPoolExecutor(max_workers=_PARALLEL_CHECKS) as pool:
        found = pool.map(lambda path: _head(s3, job, path), sizes)
        return all(
            head is not None and head["ContentLength"] == sizes[path] for path, head in zip(sizes, found, strict=True)
        )


def check_writable(job: Job, *, s3: S3Client) -> None:
    """Check that the host may write to the artifact's place, by an upload that is begun and taken back.

    Raises
    ------
    StepError
        When it may not.
    """
    key = job.prefix + MANIFEST
    try:
        begun = s3.create_multipart_upload(Bucket=job.bucket, Key=key)
        s3.abort_multipart_upload(Bucket=job.bucket, Key=key, UploadId=begun["UploadId"])
    except ClientError as error:
        message = (
            f"{job.s3_uri} cannot be written ({_code(error)}): the host's role needs s3:PutObject and "
            "s3:AbortMultipartUpload there, and the use of the bucket's key"
        )
        raise StepError(message) from error


def publish_artifact(job: Job, folder: Path, *, s3: S3Client, producer: Mapping[str, str]) -> dict[str, object]:
    """Upload all files of a folder and then the manifest that lists them.

    An object that is there with the same size and checksum is not sent again. S3 checks every part against a SHA-256
    that is sent along.

    Raises
    ------
    botocore.exceptions.ClientError, boto3.exceptions.S3UploadFailedError
        When S3 refuses.
    Stopped
        When a signal arrived; unfinished uploads are taken back and there is no manifest.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stop = threading.Event()

    def upload(path: Path) -> tuple[_Object, bool]:
        item = _describe(path, folder, stop)
        head = _head(s3, job, item.path)
        if (
            head is not None
            and head["ContentLength"] == item.size
            and head.get("Metadata", {}).get(_CHECKSUM) == item.sha256
        ):
            return item, False
        s3.upload_file(
            str(path),
            job.bucket,
            job.prefix + item.path,
            ExtraArgs={"ChecksumAlgorithm": "SHA256", "Metadata": {_CHECKSUM: item.sha256}},
            Config=_TRANSFER,
            Callback=lambda _: _go_on(stop),
        )
        return item, True

    uploaded = _in_parallel(upload, files, stop)
    objects = [item for item, _ in uploaded]
    manifest = {
        "format": FORMAT,
        "facts": dict(job.facts),
        "key": job.key,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),  # noqa: UP017 - Python 3.10
        "objects": [vars(item) for item in objects],
        "producer": dict(producer),
    }
    s3.put_object(
        Bucket=job.bucket,
        Key=job.prefix + MANIFEST,
        Body=json.dumps(manifest, indent=2).encode(),
        ContentType="application/json",
        ChecksumAlgorithm="SHA256",
    )
    return {
        "objects": len(objects),
        "sent": sum(sent for _, sent in uploaded),
        "bytes": sum(item.size for item in objects),
    }


def _in_parallel(upload: Callable[[Path], _Result], files: list[Path], stop: threading.Event) -> list[_Result]:
    pool = ThreadPoolExecutor(max_workers=_PARALLEL_FILES, thread_name_prefix="upload")
    try:
        futures = [pool.submit(upload, path) for path in files]
        ended = wait(futures, return_when=FIRST_EXCEPTION).done
        if error := next((future.exception() for future in ended if future.exception()), None):
            raise error
        return [future.result() for future in futures]
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _describe(path: Path, folder: Path, stop: threading.Event) -> _Object:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while block := file.read(8 * _MIB):
            _go_on(stop)
            digest.update(block)
            size += len(block)
    return _Object(path=path.relative_to(folder).as_posix(), size=size, sha256=digest.hexdigest())


def _go_on(stop: threading.Event) -> None:
    if stop.is_set():
        raise _CancelledError


def _head(s3: S3Client, job: Job, path: str) -> Any:
    try:
        return s3.head_object(Bucket=job.bucket, Key=job.prefix + path)
    except ClientError as error:
        if _code(error) in _ABSENT:
            return None
        raise


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
