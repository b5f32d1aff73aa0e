"""The compiler's cache of graphs in S3: a new host goes on where the last one was stopped, instead of compiling again.

Best effort: what fails here is warned about, and the export compiles.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from compile_job.errors import StepError
from compile_job.events import emit
from compile_job.snapshot import check_path
from compile_job.transfer import Fetch, Upload, fetch_files, upload_files

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["CompileCache"]

# Held by the compiler while it works; on another host they would only be waited for.
_LOCKS = (".lock", ".part")
_FAILURES = (StepError, ClientError, BotoCoreError, Boto3Error, OSError)


@dataclass(frozen=True)
class CompileCache:
    """Of one artifact's key."""

    s3: S3Client
    bucket: str
    key: str
    folder: Path

    @property
    def prefix(self) -> str:
        """Where it is in the bucket."""
        return f"cache/{self.key}/"

    def restore(self, stop: threading.Event) -> None:
        """Fetch what the bucket has; what is here already is not fetched again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            items = self._listed()
            done = fetch_files(self.s3, self.bucket, items, stop=stop) if items else []
        except _FAILURES as error:
            emit("warning", message=f"the compiler's cache could not be fetched from {self.prefix}: {error}")
            return
        emit("cache", restored=sum(item.fetched for item in done), objects=len(done))

    def save(self, stop: threading.Event) -> None:
        """Upload what the bucket lacks."""
        try:
            files = sorted(path for path in self.folder.rglob("*") if path.is_file() and path.suffix not in _LOCKS)
            uploads = [Upload(path, self.prefix + path.relative_to(self.folder).as_posix()) for path in files]
            done = upload_files(self.s3, self.bucket, uploads, stop=stop) if uploads else []
        except _FAILURES as error:
            emit("warning", message=f"the compiler's cache could not be saved to {self.prefix}: {error}")
            return
        emit("cache", saved=sum(item.sent for item in done), objects=len(done))

    def _listed(self) -> list[Fetch]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        found = []
        for page in pages:
            for item in page.get("Contents", []):
                path = check_path(item["Key"].removeprefix(self.prefix))
                head = self.s3.head_object(Bucket=self.bucket, Key=item["Key"])
                sha256 = head.get("Metadata", {}).get("sha256", "")
                found.append(Fetch(item["Key"], self.folder / path, head["ContentLength"], sha256))
        return found
