"""What was found in a log, and in which order it should be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modelzone.doctor.masking import mask
from modelzone.doctor.signatures import Level, Place, Signature

__all__ = ["Finding", "Sighting", "findings_of"]

# Where a failure can show that happened in a place: a container that dies fails its endpoint, and that its stack.
_LEADS_TO: Mapping[Place, tuple[Place, ...]] = {
    "container": ("container", "sagemaker", "cloudformation"),
    "compile": ("compile",),
    "sagemaker": ("sagemaker", "cloudformation"),
    "cloudformation": ("cloudformation",),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One known failure in a log.

    Attributes
    ----------
    values
        What the message says in numbers and names; secrets are masked.
    count, first_line, last_line
        How often it stands there, and on which lines.
    explained_by
        The finding that this one follows from, if it is a consequence and only one cause is there.
    settings
        Keys of the deployment that the remedy changes.
    """

    id: str
    level: Level
    applies_to: tuple[str, ...]
    cause: str
    remedy: str
    excerpt: str
    count: int
    first_line: int
    last_line: int
    explained_by: str | None
    values: Mapping[str, str]
    settings: tuple[str, ...]
    source: str


@dataclass
class Sighting:
    """A signature and where it was seen, while a log is looked through."""

    signature: Signature
    first_line: int
    last_line: int
    excerpt: str
    values: dict[str, str]
    count: int = 1


def findings_of(sightings: Iterable[Sighting]) -> tuple[Finding, ...]:
    """In the order in which they should be read: causes, failures nobody explains, requests, what follows, notes."""
    seen = sorted(sightings, key=lambda sighting: sighting.first_line)
    ranked = []
    for sighting in seen:
        explained_by = _explained_by(sighting, seen)
        ranked.append((_rank(sighting.signature.level, explained=explained_by is not None), sighting, explained_by))
    ranked.sort(key=lambda item: item[0])
    return tuple(_finding(sighting, explained_by) for _, sighting, explained_by in ranked)


def _explained_by(sighting: Sighting, seen: Iterable[Sighting]) -> str | None:
    others = [other for other in seen if other is not sighting]
    named = [other for other in others if other.signature.id in sighting.signature.explained_by]
    if not named and sighting.signature.level == "consequence":
        named = [other for other in others if other.signature.level == "cause" and _leads_to(other, sighting)]
        # Of several nobody knows which one it was: they all come first, and none is blamed.
        named = named if len(named) == 1 else []
    # Events are often printed newest first, so a cause further down counts too.
    return named[0].signature.id if named else None


def _leads_to(cause: Sighting, consequence: Sighting) -> bool:
    return any(set(_LEADS_TO[place]) & set(consequence.signature.applies_to) for place in cause.signature.applies_to)


def _rank(level: Level, *, explained: bool) -> int:
    if level == "note":
        return 4
    if explained:
        return 3
    return {"cause": 0, "consequence": 1, "request": 2}[level]


def _finding(sighting: Sighting, explained_by: str | None) -> Finding:
    signature = sighting.signature
    values = {name: mask(value) for name, value in sighting.values.items() if value is not None}
    return Finding(
        id=signature.id,
        level=signature.level,
        applies_to=signature.applies_to,
        cause=signature.cause,
        remedy=signature.remedy_for(values),
        excerpt=sighting.excerpt,
        count=sighting.count,
        first_line=sighting.first_line,
        last_line=sighting.last_line,
        explained_by=explained_by,
        values=values,
        settings=signature.settings,
        source=signature.source,
    )
