"""The manifest of an artifact: what it was made from, and every object with its size and checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelzone.artifacts.key import artifact_key

__all__ = ["FORMAT", "MANIFEST", "Manifest", "ManifestError", "StoredObject", "parse_manifest", "parse_mirror"]

MANIFEST = "manifest.json"
FORMAT = 1


class ManifestError(ValueError):
    """It is no manifest of this artifact; the text reads on from its name."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object as the manifest lists it.

    Attributes
    ----------
    s3_checksum
        S3's own, ``<ALGORITHM>:<value>``; empty where the store told none.
    """

    path: str
    size: int
    sha256: str
    s3_checksum: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest that was read.

    Attributes
    ----------
    sha256
        Of the manifest's own bytes: changes with anything in the artifact.
    document
        All that it says.
    """

    key: str
    facts: Mapping[str, str]
    created: str
    producer: Mapping[str, Any]
    objects: tuple[StoredObject, ...]
    sha256: str
    document: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """Of all objects together."""
        return sum(item.size for item in self.objects)


def parse_manifest(raw: bytes, *, key: str) -> Manifest:
    """Read the manifest that lies at the artifact `key`.

    Raises
    ------
    ManifestError
        It is broken, or another artifact's.
    """
    data = _document(raw)
    facts = data.get("facts")
    if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        raise ManifestError("has no facts")
    if not data.get("key") == key == artifact_key(facts):
        raise ManifestError(f"is of artifact {data.get('key')!r}, its facts give {artifact_key(facts)}, not {key}")
    producer = data.get("producer")
    return Manifest(
        key=key,
        facts=facts,
        created=str(data.get("created", "")),
        producer=producer if isinstance(producer, dict) else {},
        objects=_objects(data.get("objects")),
        sha256=hashlib.sha256(raw).hexdigest(),
        document=data,
    )


def parse_mirror(raw: bytes) -> tuple[Mapping[str, Any], tuple[StoredObject, ...]]:
    """Read the manifest of mirrored weights: all that it says, and its objects.

    Raises
    ------
    ManifestError
        It is broken, or lists nothing: a host that may not delete a manifest empties it.
    """
    data = _document(raw)
    if data.get("kind") != "weights":
        raise ManifestError(f"is of kind {data.get('kind')!r}, not 'weights'")
    objects = _objects(data.get("objects"))
    if unmarked := [item.path for item in objects if not item.sha256]:
        raise ManifestError(f"has no sha256 of {unmarked[0]}")
    return data, objects


def _document(raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except ValueError:
        raise ManifestError("is not JSON") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise ManifestError(f"has format {found!r}, not {FORMAT}")
    return data


def _objects(listed: object) -> tuple[StoredObject, ...]:
    found: dict[str, StoredObject] = {}
    for item in listed if isinstance(listed, list) else []:
        path = item.get("path") if isinstance(item, dict) else None
        size = item.get("size") if isinstance(item, dict) else None
        if not isinstance(path, str) or not path or type(size) is not int or size < 0 or path in found:
            raise ManifestError(f"lists an object without a proper path and size: {item!r:.200}")
        checksum = str(item.get("s3_checksum") or "")
        if checksum and ":" not in checksum:
            checksum = f"SHA256:{checksum}"  # as manifests were written before they named the algorithm
        found[path] = StoredObject(path=path, size=size, sha256=str(item.get("sha256", "")), s3_checksum=checksum)
    if not found:
        raise ManifestError("lists no objects")
    return tuple(found.values())
