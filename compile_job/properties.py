"""``serving.properties``: what DJL's partition scripts are told, as the endpoint will be.

Escaped is only what Java's format cannot do without (a backslash, line ends and tabs, blanks and separators in a key, a
blank at a value's beginning, and what is not ASCII), since the scripts read the file with a reader of their own that
knows no escapes.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FILE_NAME", "render"]

FILE_NAME = "serving.properties"

_FIRST_READABLE, _LAST_READABLE = 0x20, 0x7E
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}


def render(properties: Mapping[str, str]) -> str:
    """Return the file's text, in the order given."""
    return "".join(f"{_key(key)}={_value(value)}\n" for key, value in properties.items())


def _key(key: str) -> str:
    escaped = "".join(f"\\{character}" if character in " :=" else _escape(character) for character in key)
    return f"\\{escaped}" if escaped.startswith(("#", "!")) else escaped


def _value(value: str) -> str:
    escaped = "".join(map(_escape, value))
    return f"\\{escaped}" if escaped.startswith(" ") else escaped


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if _FIRST_READABLE <= ord(character) <= _LAST_READABLE:
        return character
    # UTF-16 code units: what Java's reader understands.
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))
