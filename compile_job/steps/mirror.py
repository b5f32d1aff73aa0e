"""The mirror of the weights in S3: ``weights/<model>/<revision>/``, its manifest last.

Single objects there may be used without the manifest, when they are what the hub says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from compile_job.errors import StepError
from compile_job.events import now
from compile_job.failures import is_absent
from compile_job.job import Weights
from compile_job.snapshot import File, check_path
from compile_job.transfer import Fetch, checksum_of, same_checksum

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["Listing", "Mirror", "MirroredFile"]

_MANIFEST = "manifest.json"
_FORMAT = 1
_PARALLEL = 16


@dataclass(frozen=True)
class MirroredFile:
    """An object as it lies in the mirror."""

    size: int
    sha256: str
    s3_checksum: str

    def may_be(self, file: File) -> bool:
        """Return whether it is that file, as far as can be said without reading it."""
        return self.size == file.size and bool(self.sha256) and file.sha256 in {"", self.sha256}

    def has(self, listed: MirroredFile) -> bool:
        """Return whether it is what the manifest lists."""
        same = (self.size, self.sha256) == (listed.size, listed.sha256)
        return same and same_checksum(listed.s3_checksum, self.s3_checksum)


@dataclass(frozen=True)
class Listing:
    """What the manifest says."""

    commit: str
    objects: Mapping[str, MirroredFile]

    @property
    def files(self) -> list[File]:
        """The files to have."""
        return [File(path, item.size, item.sha256) for path, item in self.objects.items()]


@dataclass(frozen=True)
class Mirror:
    """Of one model at one revision."""

    s3: S3Client
    bucket: str
    weights: Weights

    @property
    def uri(self) -> str:
        """Where it is."""
        return f"s3://{self.bucket}/{self.weights.prefix}"

    def key(self, path: str) -> str:
        """Return the key of a file."""
        return self.weights.prefix + path

    def manifest(self) -> Listing | None:
        """Return what the manifest lists; None when there is no proper one."""
        try:
            raw = self.s3.get_object(Bucket=self.bucket, Key=self.key(_MANIFEST))["Body"].read()
        except ClientError as error:
            if is_absent(error):
                return None
            raise
        try:
            found = json.loads(raw)
            if (found["format"], found["kind"]) != (_FORMAT, "weights"):
                return None
            objects = {
                check_path(item["path"]): MirroredFile(
                    int(item["size"]), str(item["sha256"]), str(item.get("s3_checksum") or "")
                )
                for item in found["objects"]
            }
            commit = str(found.get("commit") or found["revision"])
        except (ValueError, KeyError, TypeError, AttributeError, StepError):
            return None
        return Listing(commit, objects) if objects and all(item.sha256 for item in objects.values()) else None

    def heads(self, files: Iterable[File], check: Callable[[], None]) -> dict[str, MirroredFile]:
        """Return what of these files lies in the mirror."""

        def head(file: File) -> MirroredFile | None:
            check()
            return self._head(file.path)

        wanted = list(files)
        with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
            found = list(pool.map(head, wanted))
        return {file.path: item for file, item in zip(wanted, found, strict=True) if item is not None}

    def fetch(self, file: File, found: MirroredFile, folder: Path) -> Fetch:
        """Return what gets a file from here."""
        return Fetch(key=self.key(file.path), path=folder / file.path, size=file.size, sha256=found.sha256)

    def is_complete(self, check: Callable[[], None]) -> bool:
        """Return whether there is a manifest and everything that it lists."""
        found = self.manifest()
        if found is None:
            return False
        there = self.heads(found.files, check)
        return all(path in there and there[path].has(item) for path, item in found.objects.items())

    def forget(self) -> None:
        """Take the manifest away before objects below it change."""
        try:
            self.s3.delete_object(Bucket=self.bucket, Key=self.key(_MANIFEST))
        except ClientError:
            # A host need not be allowed to delete: a manifest that lists nothing is none either.
            self._put({"format": _FORMAT, "kind": "weights", "objects": []})

    def write_manifest(self, listing: Listing) -> None:
        """Write the manifest: from now on the mirror is whole."""
        self._put(
            {
                "format": _FORMAT,
                "kind": "weights",
                "model_id": self.weights.model_id,
                "revision": self.weights.revision,
                "commit": listing.commit,
                "created": now().replace("+00:00", "Z"),
                "objects": [{"path": path, **vars(item)} for path, item in sorted(listing.objects.items())],
            }
        )

    def _put(self, manifest: dict[str, Any]) -> None:
        self.s3.put_object(
            Bucket=self.bucket,
            Key=self.key(_MANIFEST),
            Body=json.dumps(manifest, indent=2).encode(),
            ContentType="application/json",
            ChecksumAlgorithm="SHA256",
        )

    def _head(self, path: str) -> MirroredFile | None:
        try:
            found = self.s3.head_object(Bucket=self.bucket, Key=self.key(path), ChecksumMode="ENABLED")
        except ClientError as error:
            if is_absent(error):
                return None
            raise
        return MirroredFile(
            size=found["ContentLength"],
            sha256=found.get("Metadata", {}).get("sha256", ""),
            s3_checksum=checksum_of(found),
        )
