"""Server-sent events: an incremental parser for bytes that arrive in any pieces, and a writer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Comment", "Event", "EventParser", "comment_bytes", "event_bytes"]

MAX_EVENT_BYTES = 1 << 20

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class Event:
    """One event: its data lines joined by newlines."""

    data: str


@dataclass(frozen=True)
class Comment:
    """A comment line, which servers send to keep a silent connection open."""


class EventParser:
    """Turn arbitrarily split bytes into events.

    Lines end with LF, CRLF or CR. A character or a line end cut by the transport is put together again.
    Fields other than ``data`` are read and dropped: no engine here uses them.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[str] = []
        self._size = 0
        self._after_cr = False

    @property
    def at_boundary(self) -> bool:
        """Whether everything fed so far belongs to a complete event."""
        return not self._line and not self._data

    @property
    def idle(self) -> bool:
        """Whether the next byte begins an event: nothing of one is held, and no line end may still be completed."""
        return not (self._line or self._data or self._after_cr)

    def feed(self, chunk: bytes) -> Iterator[Event | Comment]:
        """Yield what the chunk completes.

        Raises
        ------
        ValueError
            When an event grows beyond 1 MiB: the engine does not speak server-sent events.
        """
        if not chunk.endswith(b"\n\n") or b"\r" in chunk or not self.idle:
            yield from self._feed_lines(chunk)
            return
        # Nearly every chunk is a whole event of one line, or several: a third of the time for each.
        for block in chunk[:-2].split(b"\n\n"):
            if block.startswith(b"data:") and b"\n" not in block and len(block) <= MAX_EVENT_BYTES:
                yield Event(block[6 if block.startswith(b"data: ") else 5 :].decode("utf-8", errors="replace"))
            else:
                yield from self._feed_lines(block + b"\n\n")

    def _feed_lines(self, chunk: bytes) -> Iterator[Event | Comment]:
        for line in self._lines(chunk):
            if not line:
                if self._data:
                    data = "\n".join(self._data)
                    self._data.clear()
                    self._size = 0
                    yield Event(data)
            elif line.startswith(b":"):
                yield Comment()
            else:
                name, _, value = line.partition(b":")
                if name == b"data":
                    self._size += len(value)
                    self._check_size()
                    self._data.append(value.removeprefix(b" ").decode("utf-8", errors="replace"))

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        start = 0
        while start < len(chunk):
            lf, cr = chunk.find(b"\n", start), chunk.find(b"\r", start)
            ends = [end for end in (lf, cr) if end >= 0]
            if not ends:
                break
            end = min(ends)
            self._line += chunk[start:end]
            line = bytes(self._line)
            self._line.clear()
            start = end + 1
            if end == cr:
                if start == len(chunk):
                    self._after_cr = True
                elif chunk[start : start + 1] == b"\n":
                    start += 1
            yield line
        self._line += chunk[start:]
        self._check_size()

    def _check_size(self) -> None:
        if self._size + len(self._line) > MAX_EVENT_BYTES:
            message = f"a server-sent event is larger than {MAX_EVENT_BYTES} bytes"
            raise ValueError(message)


def event_bytes(data: dict[str, Any] | str) -> bytes:
    """Return one event, ``data: {...}`` and an empty line."""
    text = data if isinstance(data, str) else _encode(data)
    return f"data: {text}\n\n".encode()


def comment_bytes() -> bytes:
    """Return a comment that keeps a silent connection open; clients skip it."""
    return b": keep-alive\n\n"
