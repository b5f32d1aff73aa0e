"""The model bucket: which artifacts it holds, complete or not, and how one is deleted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from modelzone.artifacts.manifest import MANIFEST, Manifest, ManifestError, parse_manifest
from modelzone.compiling.aws import aws_errors, code_of
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["ArtifactPlace", "cache_objects", "delete_objects", "find_one", "place_of", "read_place", "s3_uri", "scan"]

COMPILED = "compiled/"
CACHE = "cache/"
_PREFIX = re.compile(r"compiled/(?P<slug>[^/]+)/(?P<key>[0-9a-f]{20})/")
_PARALLEL = 8
_DELETED_AT_ONCE = 1000
_ABSENT = {"404", "NoSuchKey", "NotFound"}


@dataclass(frozen=True, kw_only=True)
class ArtifactPlace:
    """One prefix ``compiled/<slug>/<key>/`` of a bucket and what lies there.

    Attributes
    ----------
    sizes
        Bytes of each object, by its path below the prefix.
    changed
        When the youngest object was written.
    manifest
        None where there is none, or a broken one; `problem` then says which.
    """

    bucket: str
    prefix: str
    sizes: Mapping[str, int]
    changed: datetime
    manifest: Manifest | None = None
    problem: str = ""

    @property
    def key(self) -> str:
        """The artifact's key."""
        return self.prefix.rstrip("/").rpartition("/")[2]

    @property
    def slug(self) -> str:
        """The model, as the bucket names it."""
        return self.prefix.split("/")[1]

    @property
    def uri(self) -> str:
        """``s3://…/``."""
        return s3_uri(self.bucket, self.prefix)

    @property
    def bytes(self) -> int:
        """Everything that lies there, listed or not."""
        return sum(self.sizes.values())

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Why it is not complete; nothing for an artifact that can be served."""
        if self.manifest is None:
            return (self.problem or "it has no manifest: its upload was not finished",)
        found = []
        for item in self.manifest.objects:
            size = self.sizes.get(item.path)
            if size is None:
                found.append(f"{item.path} is missing")
            elif size != item.size:
                found.append(f"{item.path} has {size:,} bytes, the manifest says {item.size:,}")
        return tuple(found)

    @cached_property
    def unlisted(self) -> tuple[str, ...]:
        """What lies there and is not in the manifest: SageMaker would load it with the rest."""
        if self.manifest is None:
            return ()
        listed = {MANIFEST, *(item.path for item in self.manifest.objects)}
        return tuple(sorted(path for path in self.sizes if path not in listed))

    @property
    def complete(self) -> bool:
        """Whether the manifest is there and every object that it lists, with its size; `verify` looks closer."""
        return not self.problems


def s3_uri(bucket: str, prefix: str) -> str:
    """``s3://<bucket>/<prefix>``."""
    return f"s3://{bucket}/{prefix}"


def place_of(bucket: str, prefix: str, objects: Iterable[tuple[str, int, datetime]]) -> ArtifactPlace | None:
    """What a listing says of a prefix, without its manifest; None where nothing lies there."""
    listed = [(key.removeprefix(prefix), size, when) for key, size, when in objects]
    if not listed:
        return None
    return ArtifactPlace(
        bucket=bucket,
        prefix=prefix,
        sizes={path: size for path, size, _ in listed},
        changed=max(when for _, _, when in listed),
    )


def scan(s3: S3Client, bucket: str) -> list[ArtifactPlace]:
    """Every artifact of a bucket with its manifest, in the order of the bucket."""
    groups: dict[str, list[tuple[str, int, datetime]]] = {}
    for key, size, when in _list(s3, bucket, COMPILED):
        if match := _PREFIX.match(key):
            groups.setdefault(match[0], []).append((key, size, when))
    places = [place for prefix, rows in groups.items() if (place := place_of(bucket, prefix, rows))]
    with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
        return list(pool.map(lambda place: _with_manifest(s3, place), places))


def read_place(s3: S3Client, bucket: str, prefix: str) -> ArtifactPlace | None:
    """One artifact; None where nothing lies at its prefix."""
    place = place_of(bucket, prefix, _list(s3, bucket, prefix))
    return place and _with_manifest(s3, place)


def find_one(s3: S3Client, bucket: str, named: str) -> ArtifactPlace:
    """The artifact that a person names by its key, the beginning of it, its prefix or its URI.

    Raises
    ------
    ModelzoneError
        There is none, or several begin so.
    """
    wanted = named.removeprefix(s3_uri(bucket, "")).strip("/").rpartition("/")[2].lower()
    places = scan(s3, bucket)
    found = [place for place in places if wanted and place.key.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(place.key for place in found)
        raise ModelzoneError(f"{named!r} is the beginning of several artifacts: {keys}\n  fix: give more of the key")
    raise ModelzoneError(
        f"there is no artifact {named!r} in {s3_uri(bucket, COMPILED)}, which has {len(places)}\n"
        "  fix: modelzone artifacts list shows the keys"
    )


def cache_objects(s3: S3Client, bucket: str, key: str) -> list[str]:
    """Keys of what the compiler has cached for an artifact."""
    return [name for name, _, _ in _list(s3, bucket, f"{CACHE}{key}/")]


def delete_objects(
    s3: S3Client, bucket: str, keys: Sequence[str], *, allowed: Callable[[str], bool] | None = None
) -> int:
    """Delete objects, a thousand at a time; returns how many. The bucket keeps their versions for a while.

    Parameters
    ----------
    allowed
        Asked for each key: one that is not allowed is a fault of this program, and nothing is deleted.

    Raises
    ------
    ModelzoneError
        S3 refused some of them.
    """
    if allowed is not None and (wrong := [key for key in keys if not allowed(key)]):
        raise AssertionError(f"refusing to delete {wrong[0]!r}")
    for start in range(0, len(keys), _DELETED_AT_ONCE):
        batch = keys[start : start + _DELETED_AT_ONCE]
        with aws_errors(f"deleting from {bucket}"):
            answer = s3.delete_objects(
                Bucket=bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
            )
        if errors := answer.get("Errors"):
            first = errors[0]
            raise ModelzoneError(
                f"{s3_uri(bucket, first.get('Key', ''))} could not be deleted: {first.get('Code')}: "
                f"{first.get('Message')}\n  fix: allow s3:DeleteObject, and run it again"
            )
    return len(keys)


def _list(s3: S3Client, bucket: str, prefix: str) -> Iterator[tuple[str, int, datetime]]:
    with aws_errors(f"listing {s3_uri(bucket, prefix)}"):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            items: Any = page.get("Contents", ())
            for item in items:
                yield item["Key"], item["Size"], item["LastModified"]


def _with_manifest(s3: S3Client, place: ArtifactPlace) -> ArtifactPlace:
    if MANIFEST not in place.sizes:
        return place
    manifest, problem = None, ""
    with aws_errors(f"reading {place.uri}{MANIFEST}"):
        try:
            raw = s3.get_object(Bucket=place.bucket, Key=place.prefix + MANIFEST)["Body"].read()
            manifest = parse_manifest(raw, key=place.key)
        except ManifestError as error:
            problem = f"{MANIFEST} {error}"
        except ClientError as error:
            if code_of(error) not in _ABSENT:
                raise
            problem = ""
    return ArtifactPlace(
        bucket=place.bucket,
        prefix=place.prefix,
        sizes=place.sizes,
        changed=place.changed,
        manifest=manifest,
        problem=problem,
    )
