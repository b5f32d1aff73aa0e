"""What known failures mean, and what to do: the doctor's knowledge, in the part that a compile host needs.

``signatures.json`` is made from the doctor's own data by ``python -m tools.signatures``; it is not edited by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["named", "remedy"]

_FILE = Path(__file__).with_name("signatures.json")
_LEVELS = {"cause": 0, "consequence": 1}
_EXPLAINED = 2
_NAMED = re.compile(r"\(doctor: [a-z0-9-]+\)")


def remedy(lines: Iterable[str]) -> str:
    """Return what to do about a known failure in these lines, with the doctor's name for it; empty if none is known.

    Causes come before what follows from them, and of several causes the first in the text.
    """
    found = _find(lines)
    return f"{found['words']} (doctor: {found['id']})" if found else ""


def named(message: str) -> str:
    """Return a message with the doctor's name for the failure, unless it has one or the doctor knows none."""
    if _NAMED.search(message):
        return message
    found = _find([message])
    return f"{message} (doctor: {found['id']})" if found else message


def _find(lines: Iterable[str]) -> dict[str, Any] | None:
    seen: dict[str, tuple[int, int]] = {}
    table = _table()
    for number, line in enumerate(lines):
        for place, entry in enumerate(table):
            if entry["id"] not in seen and _matches(entry, line):
                seen[entry["id"]] = (number, place)
    ranked = sorted(
        (_EXPLAINED if seen.keys() & set(table[place]["explained_by"]) else _LEVELS[table[place]["level"]], at, place)
        for at, place in seen.values()
    )
    return table[ranked[0][2]] if ranked else None


def _matches(entry: dict[str, Any], line: str) -> bool:
    if any(text in line for text in entry["unless"]):
        return False
    return any(_in_order(pieces, line) for pieces in entry["any"])


def _in_order(pieces: list[str], line: str) -> bool:
    at = 0
    for piece in pieces:
        found = line.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True


@cache
def _table() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))["signatures"]
    return entries
