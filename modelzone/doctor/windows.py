"""Cuts the surroundings of a place out of a log and brings them to one form."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["AHEAD", "BEHIND", "Window", "end_of_line", "window"]

# A message and its continuation are looked for within this many bytes and lines.
BEHIND = 4096
AHEAD = 8192
_LINES_BEFORE = 4
_LINES_AFTER = 8
_LINE_PART = 4096

# What `aws logs tail` and CloudWatch exports put before each line: a time and, with tail, the stream.
_PREFIX = re.compile(
    r"^\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:?\d\d)\s(?:\S+/(?:i-)?[0-9a-f]{8,}(?:/\S+)?\s)?", re.MULTILINE
)
_ESCAPE = re.compile(r"\\(?:u001b\[[0-9;]*[A-Za-z]|u00([2-7][0-9a-fA-F])|([\"'/\\])|[nrt])")


class Window(NamedTuple):
    """The lines around a place; ``start`` and ``end`` are those of the line itself in the text."""

    text: str
    start: int
    end: int


def end_of_line(buffer: bytes, at: int) -> int:
    """Where the line ends that an offset is on, or the part of it that is taken at once."""
    newline = buffer.find(b"\n", at, at + _LINE_PART)
    return newline if newline >= 0 else min(len(buffer), at + _LINE_PART)


def window(buffer: bytes, at: int) -> Window:
    """The surroundings of an offset."""
    line_start = max(buffer.rfind(b"\n", max(0, at - _LINE_PART), at) + 1, at - _LINE_PART, 0)
    line_end = end_of_line(buffer, at)
    first = line_start
    for _ in range(_LINES_BEFORE):
        if first <= 0 or line_start - first >= BEHIND:
            break
        first = max(buffer.rfind(b"\n", max(0, line_start - BEHIND), first - 1) + 1, line_start - BEHIND, 0)
    last = line_end
    limit = min(len(buffer), line_end + AHEAD // 2)
    for _ in range(_LINES_AFTER):
        newline = buffer.find(b"\n", last + 1, limit)
        last = newline if newline >= 0 else limit
        if last == limit:
            break
    before, line, after = (
        _conform(buffer[start:end]) for start, end in ((first, line_start), (line_start, line_end), (line_end, last))
    )
    return Window(before + line + after, len(before), len(before) + len(line))


def _conform(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    text = _PREFIX.sub("", text)
    return _ESCAPE.sub(_unescape, text) if "\\" in text else text


def _unescape(found: re.Match[str]) -> str:
    if found[1]:
        return chr(int(found[1], 16))
    if found[2]:
        return found[2]
    return "" if found[0].startswith("\\u") else " "
