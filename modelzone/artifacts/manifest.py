"""The manifest of an artifact: what it was made from, and every object with its size and checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelzone.artifacts.key import artifact_key

__all__ = ["FORMAT", "MANIFEST", "Manifest", "ManifestError", "StoredObject", "parse_manifest"]

MANIFEST = "manifest.json"
FORMAT = 1


class ManifestError(ValueError):
    """It is no manifest of this artifact; the text reads on from its name."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object as the manifest lists it. ``s3_checksum`` is empty where the store told none."""

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
    """

    key: str
    facts: Mapping[str, str]
    created: str
    producer: Mapping[str, Any]
    objects: tuple[StoredObject, ...]
    sha256: str

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
    try:
        data = json.loads(raw)
    except ValueError:
        raise ManifestError("is not JSON") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise ManifestError(f"has format {found!r}, not {FORMAT}")
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
    )


def _objects(listed: object) -> tuple[StoredObject, ...]:
    found: dict[str, StoredObject] = {}
    for item in listed if isinstance(listed, list) else []:
        path = item.get("path") if isinstance(item, dict) else None
        size = item.get("size") if isinstance(item, dict) else None
        if not isinstance(path, str) or not path or type(size) is not int or size < 0 or path in found:
            raise ManifestError(f"lists an object without a proper path and size: {item!r:.200}")
        found[path] = StoredObject(
            path=path, size=size, sha256=str(item.get("sha256", "")), s3_checksum=str(item.get("s3_checksum", ""))
        )
    if not found:
        raise ManifestError("lists no objects")
    return tuple(found.values())
