"""Copying an artifact or mirrored weights from one store to another, inside S3: the manifest comes last.

A plain copy of the objects would do without what makes them an artifact: `aws s3 sync` leaves out the metadata of
large objects, and S3 computes other checksums for the copies than the manifest lists.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from modelzone.artifacts.manifest import MANIFEST, ManifestError, StoredObject, parse_mirror
from modelzone.artifacts.store import ArtifactPlace, s3_uri
from modelzone.artifacts.verify import check_objects, checksum_of
from modelzone.compiling.aws import aws_errors, code_of
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["COPIES", "LARGEST_COPY", "Copied", "Original", "copy", "of_artifact", "of_weights"]

# S3 copies no larger object with one request.
LARGEST_COPY = 5 * 1024**3
_PART = 512 * 1024**2
_MOST_PARTS = 10_000
# Requests at a time: S3 does the work, here they only wait.
COPIES = 32
_ABSENT = {"404", "NoSuchKey", "NotFound"}
# Of what comes in parts; of the rest SHA-256, which can be compared with the manifest's.
_OF_PARTS: Literal["CRC32"] = "CRC32"
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Original:
    """What is copied: a prefix with a manifest.

    Attributes
    ----------
    document
        All that the manifest says.
    """

    bucket: str
    prefix: str
    document: Mapping[str, Any]
    objects: tuple[StoredObject, ...]

    @property
    def uri(self) -> str:
        """``s3://…/``."""
        return s3_uri(self.bucket, self.prefix)

    @property
    def bytes(self) -> int:
        """Of all objects together."""
        return sum(item.size for item in self.objects)


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What was done: `copied` objects of `objects`, the others were there."""

    uri: str
    objects: int
    copied: int
    bytes: int


def of_artifact(place: ArtifactPlace) -> Original:
    """An artifact.

    Raises
    ------
    ModelzoneError
        It is not complete.
    """
    if place.manifest is None or not place.complete:
        raise ModelzoneError(f"{place.uri} is not complete: {place.problems[0]}\n  fix: compile it again")
    return Original(
        bucket=place.bucket, prefix=place.prefix, document=place.manifest.document, objects=place.manifest.objects
    )


def of_weights(s3: S3Client, bucket: str, prefix: str) -> Original | None:
    """Mirrored weights; None where there is no manifest that lists them."""
    key = prefix + MANIFEST
    with aws_errors(f"reading {s3_uri(bucket, key)}"):
        try:
            document, objects = parse_mirror(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        except ManifestError:
            return None
        except ClientError as error:
            if code_of(error) in _ABSENT:
                return None
            raise
    return Original(bucket=bucket, prefix=prefix, document=document, objects=objects)


def copy(
    s3: S3Client,
    original: Original,
    bucket: str,
    *,
    threshold: int = LARGEST_COPY,
    part: int = _PART,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Copied:
    """Copy it to the same prefix of another bucket of the account and region.

    Objects that are there with the same size and SHA-256 are left, so that a copy that was stopped goes on. A manifest
    that is there goes before anything below it changes.

    Parameters
    ----------
    threshold
        From this size on an object is copied in parts.
    part
        How large they are, at least.
    on_bytes
        Told, from several threads, how many more bytes are done.

    Raises
    ------
    ModelzoneError
        The original differs from its manifest, or S3 refuses. Unfinished parts are taken back.
    """
    _check(s3, original, original.bucket, original.objects, "compare it with modelzone artifacts verify --deep")
    target = s3_uri(bucket, original.prefix)
    there = {
        item.path
        for item, found in zip(
            original.objects,
            check_objects(s3, bucket, original.prefix, _unsummed(original.objects)),
            strict=True,
        )
        if not found.problem and "metadata" in found.by
    }
    missing = [item for item in original.objects if item.path not in there]
    on_bytes(sum(item.size for item in original.objects if item.path in there))
    with aws_errors(f"copying to {target}"):
        if missing:
            s3.delete_object(Bucket=bucket, Key=original.prefix + MANIFEST)
        _Copies(s3, original, bucket, threshold=threshold, part=part, on_bytes=on_bytes).run(missing)
        objects = _heads(s3, original, bucket)
        _check(s3, original, bucket, objects, "copy it again")
        s3.put_object(
            Bucket=bucket,
            Key=original.prefix + MANIFEST,
            Body=json.dumps({**original.document, "objects": [vars(item) for item in objects]}, indent=2).encode(),
            ContentType="application/json",
            ChecksumAlgorithm="SHA256",
        )
    return Copied(uri=target, objects=len(objects), copied=len(missing), bytes=sum(item.size for item in missing))


def _unsummed(objects: Sequence[StoredObject]) -> list[StoredObject]:
    """Without S3's checksums: those of a copy are its own."""
    return [replace(item, s3_checksum="") for item in objects]


def _check(s3: S3Client, original: Original, bucket: str, objects: Sequence[StoredObject], fix: str) -> None:
    for item in check_objects(s3, bucket, original.prefix, objects):
        problem = item.problem or ("" if "metadata" in item.by else "is not marked with its sha256")
        if problem:
            raise ModelzoneError(f"{s3_uri(bucket, original.prefix)}{item.path} {problem}\n  fix: {fix}")


def _heads(s3: S3Client, original: Original, bucket: str) -> list[StoredObject]:
    """The objects with the checksums that the target tells."""

    def head(item: StoredObject) -> StoredObject:
        answer = s3.head_object(Bucket=bucket, Key=original.prefix + item.path, ChecksumMode="ENABLED")
        told = checksum_of(answer)
        known = _DIGEST.fullmatch(item.sha256)
        whole = f"SHA256:{base64.b64encode(bytes.fromhex(item.sha256)).decode()}" if known else told
        # With a number of parts behind it, it is the sum of their sums.
        if told.startswith("SHA256:") and "-" not in told and told != whole:
            raise ModelzoneError(
                f"{s3_uri(bucket, original.prefix)}{item.path} has S3's checksum {told}, its sha256 gives {whole}\n"
                "  fix: the original is damaged: modelzone artifacts verify --deep; compile it again"
            )
        return replace(item, s3_checksum=told)

    with ThreadPoolExecutor(max_workers=COPIES) as pool:
        return list(pool.map(head, original.objects))


class _Copies:
    """The copies of one call: whole objects and parts, so many at a time."""

    def __init__(
        self,
        s3: S3Client,
        original: Original,
        bucket: str,
        *,
        threshold: int,
        part: int,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._s3, self._original, self._bucket = s3, original, bucket
        self._threshold, self._part, self._on_bytes = threshold, part, on_bytes
        self._begun: dict[str, str] = {}
        self._stop = threading.Event()

    def run(self, items: Sequence[StoredObject]) -> None:
        pool = ThreadPoolExecutor(max_workers=COPIES)
        try:
            finishing: list[Callable[[], None]] = []
            futures: list[Future[Any]] = []
            # The largest first: its parts are what is waited for.
            for item in sorted(items, key=lambda item: -item.size):
                if item.size < self._threshold:
                    futures.append(pool.submit(self._whole, item))
                else:
                    upload = self._begin(item)
                    parts = [
                        pool.submit(self._copy_part, item, upload, number, first, last)
                        for number, first, last in self._ranges(item.size)
                    ]
                    futures += parts
                    finishing.append(partial(self._complete, item, upload, parts))
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            for finish in finishing:
                finish()
        except BaseException:
            self._stop.set()
            # What is being copied has to end first: S3 keeps parts that arrive after an abort.
            pool.shutdown(wait=True, cancel_futures=True)
            self._take_back()
            raise
        pool.shutdown()

    def _source(self, item: StoredObject) -> Any:
        return {"Bucket": self._original.bucket, "Key": self._original.prefix + item.path}

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise ModelzoneError("the copy was stopped")

    def _whole(self, item: StoredObject) -> None:
        self._check_stop()
        self._s3.copy_object(
            Bucket=self._bucket,
            Key=self._original.prefix + item.path,
            CopySource=self._source(item),
            MetadataDirective="REPLACE",
            Metadata={"sha256": item.sha256},
            ChecksumAlgorithm="SHA256",
        )
        self._on_bytes(item.size)

    def _begin(self, item: StoredObject) -> str:
        key = self._original.prefix + item.path
        answer = self._s3.create_multipart_upload(
            Bucket=self._bucket, Key=key, ChecksumAlgorithm=_OF_PARTS, Metadata={"sha256": item.sha256}
        )
        self._begun[answer["UploadId"]] = key
        return answer["UploadId"]

    def _ranges(self, size: int) -> Iterator[tuple[int, int, int]]:
        step = max(self._part, -(-size // _MOST_PARTS))
        for number, first in enumerate(range(0, size, step), start=1):
            yield number, first, min(first + step, size) - 1

    def _copy_part(self, item: StoredObject, upload: str, number: int, first: int, last: int) -> dict[str, Any]:
        self._check_stop()
        answer: Any = self._s3.upload_part_copy(
            Bucket=self._bucket,
            Key=self._original.prefix + item.path,
            UploadId=upload,
            PartNumber=number,
            CopySource=self._source(item),
            CopySourceRange=f"bytes={first}-{last}",
        )
        self._on_bytes(last + 1 - first)
        found = answer["CopyPartResult"]
        sums = {name: value for name, value in found.items() if name.startswith("Checksum")}
        return {"PartNumber": number, "ETag": found["ETag"], **sums}

    def _complete(self, item: StoredObject, upload: str, parts: Sequence[Future[dict[str, Any]]]) -> None:
        listed: Any = [future.result() for future in parts]
        self._s3.complete_multipart_upload(
            Bucket=self._bucket,
            Key=self._original.prefix + item.path,
            UploadId=upload,
            MultipartUpload={"Parts": listed},
        )
        del self._begun[upload]

    def _take_back(self) -> None:
        for upload, key in self._begun.items():
            with contextlib.suppress(ClientError, BotoCoreError):
                self._s3.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
