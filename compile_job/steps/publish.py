"""Upload the artifact: every object with its checksum, the manifest last."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from compile_job.errors import StepError
from compile_job.events import now
from compile_job.failures import is_absent
from compile_job.job import Job
from compile_job.progress import Progress
from compile_job.stopping import Stop
from compile_job.transfer import Upload, upload_files

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["MANIFEST", "check_writable", "is_published", "publish_artifact"]

MANIFEST = "manifest.json"
FORMAT = 1

_PARALLEL_CHECKS = 16


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
            item["path"]: (item["size"], item["sha256"], item.get("s3_checksum") or None)
            for item in manifest["objects"]
        }
    except (ValueError, KeyError, TypeError):
        return False
    if not same or not listed:
        return False

    def is_there(path: str) -> bool:
        check()
        size, sha256, checksum = listed[path]
        try:
            head = s3.head_object(Bucket=job.bucket, Key=job.prefix + path, ChecksumMode="ENABLED")
        except ClientError as error:
            if is_absent(error):
                return False
            raise
        # Not every store tells a sum of its own.
        same_sum = checksum in {None, head.get("ChecksumSHA256", "")}
        return same_sum and (head["ContentLength"], head.get("Metadata", {}).get("sha256")) == (size, sha256)

    with ThreadPoolExecutor(max_workers=_PARALLEL_CHECKS) as pool:
        return all(pool.map(is_there, listed))


def check_writable(bucket: str, prefix: str, *, s3: S3Client) -> None:
    """Check that the host may write to a place, by an upload that is begun and taken back."""
    key = prefix + MANIFEST
    begun = s3.create_multipart_upload(Bucket=bucket, Key=key)
    s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=begun["UploadId"])


def publish_artifact(
    job: Job, folder: Path, *, s3: S3Client, producer: Mapping[str, str], progress: Progress, stop: Stop
) -> dict[str, object]:
    """Upload all files of a folder and then the manifest that lists them.

    An object that is there with the same size and checksum is not sent again.

    Raises
    ------
    Stopped
        When a signal arrived; unfinished uploads are taken back and there is no manifest.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if any(path == folder / MANIFEST for path in files):
        message = f"the export wrote a {MANIFEST} of its own, which the artifact's own would replace: {folder}"
        raise StepError(message)
    progress.expect(sum(path.stat().st_size for path in files))
    uploads = [Upload(path, job.prefix + path.relative_to(folder).as_posix()) for path in files]
    stored = upload_files(s3, job.bucket, uploads, stop=stop.event, on_bytes=progress.add)
    objects: list[dict[str, Any]] = [
        {
            "path": item.key.removeprefix(job.prefix),
            "size": item.size,
            "sha256": item.sha256,
            "s3_checksum": item.s3_checksum,
        }
        for item in stored
    ]
    manifest = {
        "format": FORMAT,
        "kind": "artifact",
        "facts": dict(job.facts),
        "key": job.key,
        "created": now().replace("+00:00", "Z"),
        "objects": objects,
        "producer": dict(producer),
    }
    stop.check()
    s3.put_object(
        Bucket=job.bucket,
        Key=job.prefix + MANIFEST,
        Body=json.dumps(manifest, indent=2).encode(),
        ContentType="application/json",
        ChecksumAlgorithm="SHA256",
    )
    return {
        "objects": len(objects),
        "sent": sum(item.sent for item in stored),
        "bytes": sum(item.size for item in stored),
    }
