"""Upload the artifact: every object with its checksum, the manifest last."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from compile_job.errors import StepError
from compile_job.events import emit, now
from compile_job.failures import is_absent
from compile_job.job import Job
from compile_job.progress import Progress
from compile_job.stopping import Stop
from compile_job.transfer import Stored, Upload, checksum_of, same_checksum, upload_files

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["MANIFEST", "Published", "check_writable", "is_published", "publish_artifact"]

MANIFEST = "manifest.json"
FORMAT = 1

_PARALLEL_CHECKS = 16
_NAMED = 3


@dataclass(frozen=True)
class Published:
    """What was done.

    Attributes
    ----------
    already
        Another job had published the same meanwhile; nothing was sent.
    unlisted
        Objects below the artifact's prefix that its manifest does not list.
    """

    objects: int = 0
    sent: int = 0
    bytes: int = 0
    already: bool = False
    unlisted: tuple[str, ...] = ()


def is_published(job: Job, *, s3: S3Client, check: Callable[[], None]) -> bool:
    """Return whether a manifest with the job's facts is there, and every object that it lists, as it lists it.

    Raises
    ------
    botocore.exceptions.ClientError
        When the host may not read there: better now than after hours of compiling.
    """
    try:
        raw = s3.get_object(Bucket=job.bucket, Key=job.prefix + MANIFEST)["Body"].read()
    except ClientError as error:
        if is_absent(error):
            return False
        raise
    try:
        manifest = json.loads(raw)
        same = (manifest["format"], manifest["facts"], manifest["key"]) == (FORMAT, dict(job.facts), job.key)
        listed = {
            item["path"]: (item["size"], item["sha256"], str(item.get("s3_checksum") or ""))
            for item in manifest["objects"]
        }
    except (ValueError, KeyError, TypeError):
        return False
    if not same or not listed:
        return False

    def is_there(path: str) -> bool:
        check()
        return _is_there(s3, job.bucket, job.prefix + path, listed[path])

    with ThreadPoolExecutor(max_workers=_PARALLEL_CHECKS) as pool:
        return all(pool.map(is_there, listed))


def check_writable(bucket: str, prefix: str, *, s3: S3Client) -> None:
    """Check that the host may write to a place, by an upload that is begun and taken back."""
    key = prefix + MANIFEST
    begun = s3.create_multipart_upload(Bucket=bucket, Key=key)
    s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=begun["UploadId"])


def publish_artifact(
    job: Job, folder: Path, *, s3: S3Client, producer: Mapping[str, str], progress: Progress, stop: Stop
) -> Published:
    """Upload all files of a folder and then the manifest that lists them, unless another job did so meanwhile.

    An object that is there with the same size and checksum is not sent again. A manifest never lies over objects that
    change: one that is there is taken back first, and the new one is written when everything is there as it says.

    Raises
    ------
    StepError
        When another job goes on writing to the same place.
    Stopped
        When a signal arrived; unfinished uploads are taken back and there is no manifest.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if any(path == folder / MANIFEST for path in files):
        message = f"the export wrote a {MANIFEST} of its own, which the artifact's own would replace: {folder}"
        raise StepError(message)
    if is_published(job, s3=s3, check=stop.check):
        return Published(already=True)
    _withdraw(job, s3)
    progress.expect(sum(path.stat().st_size for path in files))
    uploads = [Upload(path, job.prefix + path.relative_to(folder).as_posix()) for path in files]
    stored = upload_files(s3, job.bucket, uploads, stop=stop.event, on_bytes=progress.add)
    stored = _settle(job, stored, s3=s3, stop=stop)
    objects: list[dict[str, Any]] = [
        {
            "path": item.key.removeprefix(job.prefix),
            "size": item.size,
            "sha256": item.sha256,
            "s3_checksum": item.s3_checksum,
        }
        for item in stored
    ]
    stop.check()
    _put_manifest(job, s3, {"created": now().replace("+00:00", "Z"), "objects": objects, "producer": dict(producer)})
    return Published(
        objects=len(stored),
        sent=sum(item.sent for item in stored),
        bytes=sum(item.size for item in stored),
        unlisted=_find_unlisted(job, {item.key for item in stored}, s3),
    )


def _withdraw(job: Job, s3: S3Client) -> None:
    """Take the manifest back before objects below it change. Hosts may not delete: one that lists nothing is none."""
    try:
        s3.head_object(Bucket=job.bucket, Key=job.prefix + MANIFEST)
    except ClientError as error:
        if is_absent(error):
            return
        raise
    _put_manifest(job, s3, {"objects": []})


def _put_manifest(job: Job, s3: S3Client, contents: Mapping[str, object]) -> None:
    manifest = {"format": FORMAT, "kind": "artifact", "facts": dict(job.facts), "key": job.key, **contents}
    s3.put_object(
        Bucket=job.bucket,
        Key=job.prefix + MANIFEST,
        Body=json.dumps(manifest, indent=2).encode(),
        ContentType="application/json",
        ChecksumAlgorithm="SHA256",
    )


def _settle(job: Job, stored: Sequence[Stored], *, s3: S3Client, stop: Stop) -> list[Stored]:
    """Return what was uploaded when all of it is there; what another job replaced meanwhile is sent once more."""
    if not (replaced := _find_replaced(job, stored, s3=s3, stop=stop)):
        return list(stored)
    names = ", ".join(item.key.removeprefix(job.prefix) for item in replaced[:_NAMED])
    emit("warning", message=f"{len(replaced)} objects were replaced while they were uploaded ({names}): sent again")
    uploads = [Upload(item.path, item.key, item.sha256) for item in replaced]
    again = {item.key: item for item in upload_files(s3, job.bucket, uploads, stop=stop.event)}
    settled = [again.get(item.key, item) for item in stored]
    if replaced := _find_replaced(job, settled, s3=s3, stop=stop):
        message = (
            f"{job.s3_uri}{replaced[0].key.removeprefix(job.prefix)} was replaced twice while it was uploaded: two "
            "jobs make the same artifact. Nothing was published by this one: wait until the other has ended, and run "
            "again"
        )
        raise StepError(message)
    return settled


def _find_replaced(job: Job, stored: Sequence[Stored], *, s3: S3Client, stop: Stop) -> list[Stored]:
    def is_there(item: Stored) -> bool:
        stop.check()
        return _is_there(s3, job.bucket, item.key, (item.size, item.sha256, item.s3_checksum))

    with ThreadPoolExecutor(max_workers=_PARALLEL_CHECKS) as pool:
        return [item for item, there in zip(stored, pool.map(is_there, stored), strict=True) if not there]


def _is_there(s3: S3Client, bucket: str, key: str, wanted: tuple[int, str, str]) -> bool:
    size, sha256, checksum = wanted
    try:
        head = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except ClientError as error:
        if is_absent(error):
            return False
        raise
    same = (head["ContentLength"], head.get("Metadata", {}).get("sha256")) == (size, sha256)
    return same and same_checksum(checksum, checksum_of(head))


def _find_unlisted(job: Job, listed: set[str], s3: S3Client) -> tuple[str, ...]:
    """Return what earlier exports left: SageMaker loads everything below the prefix, listed or not.

    Hosts may not delete; whoever registers the artifact does.
    """
    try:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=job.bucket, Prefix=job.prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    except ClientError as error:
        emit("warning", message=f"whether {job.s3_uri} holds more than its manifest lists cannot be told: {error}")
        return ()
    found = tuple(key.removeprefix(job.prefix) for key in keys if key not in listed and key != job.prefix + MANIFEST)
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        names = ", ".join(found[:_NAMED]) + more
        message = f"{job.s3_uri} holds {names}, which the manifest does not list: a server would load that too"
        emit("warning", message=message)
    return found
