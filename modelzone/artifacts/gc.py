"""Garbage collection: which artifacts nobody uses, and how they go.

`decide` is the whole decision: a pure function over facts that were collected before. What collects them refuses to go
on when one source cannot be read, so that "not used" is never "not known".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from modelzone.artifacts.manifest import MANIFEST
from modelzone.artifacts.registry import Parameters
from modelzone.artifacts.store import CACHE, COMPILED, ArtifactPlace, cache_objects, delete_objects
from modelzone.artifacts.uses import Use, used_by
from modelzone.compiling.aws import aws_errors
from modelzone.resources import read_data

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_ssm import SSMClient

__all__ = ["Decision", "Removed", "decide", "remove", "storage_price"]

_GB = 10**9
_DELETED_AT_ONCE = 10


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether one artifact goes, and why. `reasons` has everything that keeps one that stays."""

    place: ArtifactPlace
    delete: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What was deleted of one artifact. `stopped` says why the rest of it was left."""

    place: ArtifactPlace
    objects: int = 0
    parameters: tuple[str, ...] = ()
    cached: int = 0
    stopped: str = ""


def decide(
    places: Sequence[ArtifactPlace], uses: Sequence[Use], *, now: datetime, min_age: timedelta
) -> list[Decision]:
    """Decide on each artifact: it goes only if nothing uses it and nothing in it is younger than `min_age`."""
    every = list(uses)
    decisions = []
    for place in places:
        reasons = [use.text for use in used_by(place, every)]
        if now - place.changed < min_age:
            reasons.append(f"younger than {min_age.days} day{'s' * (min_age.days != 1)}")
        if reasons:
            decisions.append(Decision(place=place, delete=False, reasons=tuple(dict.fromkeys(reasons))))
        else:
            why = "nothing uses it" if place.complete else f"nothing uses it; incomplete: {place.problems[0]}"
            decisions.append(Decision(place=place, delete=True, reasons=(why,)))
    return decisions


def remove(
    place: ArtifactPlace,
    parameters: Parameters,
    *,
    s3: S3Client,
    ssm: SSMClient,
    environment: str,
    uses: Callable[[], Sequence[Use]],
) -> Removed:
    """Delete one artifact: its manifest, so that nobody finds it any more; its objects; what was written of it.

    Parameters
    ----------
    environment
        The one that was asked about: its parameters go as well as those of environments with the same bucket.
    uses
        Asked again right before the manifest goes, and right after: a compilation that was started meanwhile finds
        everything else as it was.
    """

    def ours(key: str) -> bool:
        return key.startswith((place.prefix, f"{CACHE}{place.key}/")) and place.prefix.startswith(COMPILED)

    count = 0
    if found := used_by(place, list(uses())):
        return Removed(place=place, stopped=f"it is used since: {found[0].text}")
    if MANIFEST in place.sizes:
        count += delete_objects(s3, place.bucket, [place.prefix + MANIFEST], allowed=ours)
    if found := used_by(place, list(uses())):
        return Removed(place=place, objects=count, stopped=f"it is used since: {found[0].text}")
    rest = [place.prefix + path for path in place.sizes if path != MANIFEST]
    count += delete_objects(s3, place.bucket, rest, allowed=ours)
    environments = {environment, *parameters.using(place.bucket)}
    names = [
        entry.parameter
        for entry in parameters.artifacts
        if entry.key == place.key and (entry.artifact == place.uri or entry.environment in environments)
    ]
    names += [name for (owner, key), name in parameters.progress.items() if key == place.key and owner in environments]
    for start in range(0, len(names), _DELETED_AT_ONCE):
        with aws_errors("deleting parameters"):
            ssm.delete_parameters(Names=names[start : start + _DELETED_AT_ONCE])
    cached = delete_objects(s3, place.bucket, cache_objects(s3, place.bucket, place.key), allowed=ours)
    return Removed(place=place, objects=count, parameters=tuple(names), cached=cached)


def storage_price(size: int) -> tuple[float, str]:
    """Dollars a month for so many bytes, and what that assumes."""
    assumed = read_data("modelzone.artifacts", "assumptions.yaml")["storage"]
    return size / _GB * assumed["usd_per_gb_month"], assumed["source"]
