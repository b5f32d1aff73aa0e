"""The dialect `vllm-openai`: vLLM's OpenAI server, whose `/invocations` takes what its `/v1/…` routes take.

vLLM looks at the body: `messages` is a chat, `prompt` a completion, `input` asks for embeddings. The stream is OpenAI's
chunks as server-sent events, then `[DONE]`; a failure in the middle is a chunk `{"error": {"message", "code"}}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from invoke_proxy.generation import Answer, Finish, Generation, Heartbeat, Piece, StreamEvent
from invoke_proxy.registry import Deployment
from invoke_proxy.sse import Comment, EventParser

from . import reading
from .base import Embeddings, StreamParser
from .openai_asking import VLLM_FIELDS, VLLM_STOPPING, only_adapter, openai_body
from .openai_reading import ChunkReader, read_answer, read_embeddings
from .repetition import SameAround

__all__ = ["VllmOpenAi"]

_ENGINE = "OpenAI"


class VllmOpenAi:
    """OpenAI's own requests and chunks."""

    name = "vllm-openai"
    tokens_are_counted = False

    def body(self, generation: Generation, deployment: Deployment) -> dict[str, Any]:
        """Return the body for `/invocations`. An adapter goes by the name of a model."""
        body = openai_body(
            generation, deployment, mapped=VLLM_FIELDS, greedy={"temperature": 0}, stopping=VLLM_STOPPING
        )
        adapter = only_adapter(generation)
        return body if adapter is None else {**body, "model": adapter}

    def answer(self, payload: bytes) -> Answer:
        """Read an answer that came in one piece."""
        try:
            document = reading.load(payload)
            reading.raise_failure(document)
            return read_answer(document)
        except reading.MALFORMED as error:
            raise reading.not_understood(_ENGINE) from error

    def parser(self) -> StreamParser:
        """Return a parser for one stream."""
        return _Parser()

    def embeddings_body(self, inputs: tuple[str, ...], *, dimensions: int | None) -> dict[str, Any]:
        """Return the body that asks for embeddings."""
        body: dict[str, Any] = {"input": list(inputs), "encoding_format": "float"}
        return body if dimensions is None else {**body, "dimensions": dimensions}

    def embeddings(self, payload: bytes) -> Embeddings:
        """Read embeddings."""
        try:
            document = reading.load(payload)
            reading.raise_failure(document)
            return read_embeddings(document)
        except reading.MALFORMED as error:
            raise reading.not_understood(_ENGINE) from error


class _Parser:
    def __init__(self) -> None:
        self._events = EventParser()
        self._chunks = ChunkReader()
        self._same = SameAround()
        self._finished = False

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """Return what the bytes complete, as they are read."""
        if self._finished:
            return iter(())
        text = self._same.text_of(chunk)
        if text is not None and self._events.idle:
            return iter((Piece(text=text),))
        return self._learning(chunk) if chunk.endswith(b"\n\n") and self._events.idle else self._read_events(chunk)

    def _learning(self, chunk: bytes) -> Iterator[StreamEvent]:
        only: StreamEvent | None = None
        count = 0
        for event in self._read_events(chunk):
            only, count = event, count + 1
            yield event
        if count == 1 and isinstance(only, Piece) and not (only.tokens or only.tool_calls or self._chunks.has_reason):
            self._same.learn(chunk, only.text)

    def _read_events(self, chunk: bytes) -> Iterator[StreamEvent]:
        events = self._events.feed(chunk)
        while not self._finished:
            try:
                event = next(events, None)
                if event is None:
                    return
                found = (Heartbeat(),) if isinstance(event, Comment) else self._read(event.data)
            except reading.MALFORMED as error:
                raise reading.not_understood(_ENGINE) from error
            yield from found

    def end(self) -> Iterator[StreamEvent]:
        """Yield the finish, if only the usage is missing."""
        if self._finished:
            return
        if not self._chunks.has_reason:
            raise reading.incomplete()
        self._finished = True
        yield self._counted()

    def _read(self, data: str) -> Sequence[StreamEvent]:
        if data == "[DONE]":
            if not self._chunks.has_reason:
                raise reading.incomplete()
            self._finished = True
            return (self._chunks.finish(),)
        document = reading.load(data)
        reading.raise_failure(document)
        found = self._chunks.read(document)
        self._finished = bool(found) and isinstance(found[-1], Finish)
        return found

    def _counted(self) -> StreamEvent:
        try:
            return self._chunks.finish()
        except reading.MALFORMED as error:
            raise reading.not_understood(_ENGINE) from error
