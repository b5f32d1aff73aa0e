"""Streams of JSON objects, one a line, as DJL Serving sends them; and its errors in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from invoke_proxy.errors import ApiError
from invoke_proxy.generation import Answer, Finish, Piece, StreamEvent, Token, ToolCall

from . import reading
from .base import StreamParser

__all__ = ["MAX_LINE_BYTES", "JsonLinesParser", "gathered"]

# The last line of a rolling batch repeats the prompt, which comes in a body of 6 MB at most.
MAX_LINE_BYTES = 16 << 20

_ENGINE = "DJL Serving"
# `{"token": {}}`; shorter lines are empty, or the brace that begins an error.
_LEAST_OBJECT = 13


class JsonLinesParser:
    """Cuts bytes into lines and reads an object from each; subclasses know what the objects mean."""

    def __init__(self) -> None:
        self._rest = bytearray()
        # 0.26 writes an error over several lines: "{", '  "code": 424,', "}".
        self._pretty: bytearray | None = None
        self._finished = False

    def read(self, document: dict[str, Any]) -> Iterable[StreamEvent]:
        """Return what one object says."""
        raise NotImplementedError

    def at_end(self) -> Iterable[StreamEvent]:
        """Return what the end of the stream completes."""
        return ()

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """Yield what the bytes complete."""
        start = 0
        while not self._finished:
            end = chunk.find(b"\n", start)
            if end < 0:
                self._rest += chunk[start:]
                self._check(len(self._rest))
                return
            if self._rest:
                self._rest += chunk[start:end]
                line = bytes(self._rest)
                self._rest.clear()
            else:
                line = chunk[start:end]
            start = end + 1
            self._check(len(line))
            yield from self._line(line)

    def end(self) -> Iterator[StreamEvent]:
        """Yield what the end of the stream completes: the last line may lack its line end."""
        if self._finished:
            return
        last = bytes(self._rest)
        self._rest.clear()
        try:
            events = self._line(last)
        except ApiError as error:
            # Half a line is what a broken connection leaves.
            if error.code == "engine_answer_not_understood":
                raise reading.incomplete() from error
            raise
        yield from events
        if not self._finished:
            yield from self._taken(self.at_end)
        if not self._finished:
            raise reading.incomplete()

    def _line(self, line: bytes) -> Sequence[StreamEvent]:
        if self._pretty is not None:
            self._pretty += line
            self._check(len(self._pretty))
            if line.rstrip() != b"}":
                return ()
            line, self._pretty = bytes(self._pretty), None
        elif len(line) < _LEAST_OBJECT:
            if not line.strip():
                return ()
            if line.strip() == b"{":
                self._pretty = bytearray(line)
                return ()
        return self._taken(lambda: self._document(line))

    def _document(self, line: bytes) -> Iterable[StreamEvent]:
        document = reading.load(line)
        if not isinstance(document, dict):
            raise reading.not_understood(_ENGINE)
        reading.raise_failure(document)
        return self.read(document)

    def _taken(self, read: Callable[[], Iterable[StreamEvent]]) -> Sequence[StreamEvent]:
        """Return what is read; a finish can only be the last of it."""
        try:
            events = tuple(read())
        except reading.MALFORMED as error:
            raise reading.not_understood(_ENGINE) from error
        self._finished = bool(events) and isinstance(events[-1], Finish)
        return events

    @staticmethod
    def _check(size: int) -> None:
        if size > MAX_LINE_BYTES:
            raise reading.not_understood(_ENGINE)


def gathered(parser: StreamParser, payload: bytes) -> Answer:
    """Read an answer in one piece that has the form of a stream.

    Raises
    ------
    ApiError
        What the stream's parser raises.
    """
    text: list[str] = []
    tokens: list[Token] = []
    calls: list[ToolCall] = []
    finish: Finish | None = None
    for events in (parser.feed(payload), parser.end()):
        for event in events:
            if isinstance(event, Piece):
                text.append(event.text)
                tokens += event.tokens
                calls += event.tool_calls
            elif isinstance(event, Finish):
                finish = event
    if finish is None:
        raise reading.incomplete()
    return Answer(text="".join(text), tokens=tuple(tokens), tool_calls=tuple(calls), finish=finish)
