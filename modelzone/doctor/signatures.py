"""The failures that the doctor knows (``data/signatures.yaml``), and their texts as patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelzone.resources import read_data
from modelzone.schema import Settings

__all__ = ["Level", "Pattern", "Place", "Signature", "pattern", "signatures", "signatures_markdown"]

Level = Literal["cause", "request", "consequence", "note"]
Place = Literal["container", "compile", "sagemaker", "cloudformation"]

# What "…" may stand for, with the spaces around it: nothing, or text on the same line or a few lines on.
_GAP = r"[\s\S]{0,500}?"
_VALUES = {
    "number": r"\d+(?:[.,]\d+)*",
    "word": r"[^\s\"'`,;()<>\\]{0,300}[^\s\"'`,;()<>\\.:]",
    "phrase": r"[^\n]{1,200}?",
}
_PARTS = re.compile(r"\s*…\s*|\{(\w+):(number|word|phrase)\}")
# Values that follow from those in the message, for the remedy.
_DERIVED: Mapping[str, Callable[[Mapping[str, str]], str]] = {
    "room": lambda found: str(max(0, int(found["limit"]) - int(found["inputs"]))),
    "wanted": lambda found: f"{float(found['used']) + float(found['delta']):g}",
}


@dataclass(frozen=True)
class Pattern:
    """One text of a signature: its literal pieces in order, and the expression that finds it."""

    pieces: tuple[str, ...]
    expression: re.Pattern[str]


class Signature(Settings, frozen=True):
    """One known failure, as ``data/signatures.yaml`` describes it."""

    id: Annotated[str, Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    applies_to: Annotated[tuple[Place, ...], Meta(min_length=1)]
    any: Annotated[tuple[str, ...], Meta(min_length=1)]
    cause: str
    remedy: str
    source: str
    level: Level = "cause"
    remedy_with: str | None = None
    short: str | None = None
    unless: tuple[str, ...] = ()
    explained_by: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    def remedy_for(self, values: Mapping[str, str]) -> str:
        """The remedy with the values of the message, where it had all that are needed."""
        if self.remedy_with is None:
            return self.remedy
        known = dict(values)
        for name, derive in _DERIVED.items():
            try:
                known[name] = derive(values)
            except (KeyError, ValueError):
                continue
        try:
            return self.remedy_with.format_map(known)
        except KeyError:
            return self.remedy


def pattern(text: str) -> Pattern:
    """Compile a text of ``any``."""
    pieces: list[str] = []
    expression = ""
    at = 0
    for part in _PARTS.finditer(text):
        pieces.append(text[at : part.start()])
        expression += _literal(pieces[-1])
        expression += f"(?P<{part[1]}>{_VALUES[part[2]]})" if part[1] else _GAP
        at = part.end()
    pieces.append(text[at:])
    return Pattern(tuple(pieces), re.compile(expression + _literal(pieces[-1]) + _end(text)))


def _literal(text: str) -> str:
    # A long message may have been wrapped at any space.
    return r"\s+".join(re.escape(word) for word in re.split(r"\s+", text))


def _end(text: str) -> str:
    # A number at the end is taken whole, digits are not left over.
    return r"(?!\d)" if text.endswith(":number}") else ""


@cache
def signatures() -> tuple[Signature, ...]:
    """All signatures, in the order of the file."""
    return tuple(msgspec.convert(read_data("modelzone.doctor", "signatures.yaml")["signatures"], list[Signature]))


def signatures_markdown() -> str:
    """The table in docs/doctor.md."""
    lines = ["| failure | seen in | message contains (any of) | what to do |", "|---|---|---|---|"]
    for signature in signatures():
        texts = "<br>".join(_code(text) for text in signature.any)
        lines.append(f"| {signature.id} | {', '.join(signature.applies_to)} | {texts} | {_cell(signature.remedy)} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    shown = _PARTS.sub(lambda part: f"<{part[1]}>" if part[1] else part[0], text)
    fence = "``" if "`" in shown else "`"
    pad = " " if "`" in shown else ""
    return _cell(f"{fence}{pad}{shown}{pad}{fence}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
