"""Chunks of a stream that differ from an earlier one in their text only: nearly all of them.

Reading one such chunk as JSON is most of what a streamed token costs, and brings nothing new but its text.
"""

from __future__ import annotations

import re

__all__ = ["SameAround"]

# Where OpenAI's chunks have their text. Within a JSON text these bytes can only be a key and the quote of its value.
_KEYS = (b'"content":"', b'"content": "', b'"text":"', b'"text": "')
# What a JSON text has between its quotes where nothing is escaped.
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]+')


class SameAround:
    """Remembers what is around the text of one chunk.

    What a reader makes of a JSON text is the same for another one that differs in one string, but for that string.
    """

    def __init__(self) -> None:
        self._before = self._after = b""
        self._around = 0

    def learn(self, chunk: bytes, text: str) -> None:
        """Remember a chunk that was read as this text and nothing else.

        Nothing is learnt from a chunk with several places for a text, or with an escaped one.
        """
        found = [(key, chunk.find(key)) for key in _KEYS if key in chunk]
        if len(found) != 1 or not text:
            return
        ((key, at),) = found
        start = at + len(key)
        raw = text.encode("utf-8", "replace")
        end = start + len(raw)
        if chunk.count(key) == 1 and chunk[start:end] == raw and chunk[end : end + 1] == b'"' and _PLAIN.fullmatch(raw):
            self._before, self._after = chunk[:start], chunk[end:]
            self._around = len(self._before) + len(self._after)

    def text_of(self, chunk: bytes) -> str | None:
        """Return the text of a chunk that is otherwise the one that was learnt; None for any other."""
        if (
            not self._around
            or len(chunk) <= self._around
            or not chunk.startswith(self._before)
            or not chunk.endswith(self._after)
        ):
            return None
        raw = chunk[len(self._before) : -len(self._after)]
        if _PLAIN.fullmatch(raw) is None:
            return None
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return None
