"""Lengths of time as people write them: ``90d``, ``24h``, ``30m``."""

from __future__ import annotations

import re

from modelzone.errors import ModelzoneError

__all__ = ["parse_span", "span_text"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"(?P<number>[0-9]{1,6})(?P<unit>[smhdw])")


def parse_span(text: str, *, name: str, least: int, most: int) -> int:
    """Seconds of a length of time.

    Parameters
    ----------
    name
        What it is for, in messages: an option.
    least, most
        Its bounds in seconds.

    Raises
    ------
    ModelzoneError
        It is no length of time, or out of bounds.
    """
    match = _SPAN.fullmatch(text.strip().lower())
    if not match:
        raise ModelzoneError(
            f"{name} {text!r} is no length of time\n  fix: write a whole number and s, m, h, d or w, as in 24h or 90d"
        )
    seconds = int(match["number"]) * _SECONDS[match["unit"]]
    if not least <= seconds <= most:
        raise ModelzoneError(
            f"{name} {text}: must be between {span_text(least)} and {span_text(most)}\n  fix: give a length in between"
        )
    return seconds


def span_text(seconds: int) -> str:
    """The same as `parse_span` reads, in the largest unit that has no remainder; weeks as days."""
    for unit in "dhm":
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"
