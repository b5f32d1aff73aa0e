"""Streamed answers: nothing is held back, failures become events, and a client that leaves ends the reading."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .chat_answer import ChatAnswer, Finish
from .dialects import Dialect, StreamEvent
from .errors import ApiError, internal_error, openai_error, tgi_error
from .logs import RequestLog
from .sagemaker import EndpointStream
from .sse import Comment, Event, EventParser, comment_bytes, event_bytes

__all__ = ["CLIENT_CLOSED", "EventStreamResponse", "chat_events", "first_event", "parsed_events", "tgi_events"]

logger = logging.getLogger(__name__)

CLIENT_CLOSED = 499


class EventStreamResponse(StreamingResponse):
    """Server-sent events from an endpoint's stream.

    However it ends (also when the client is gone), the endpoint's stream is closed and the log is written.
    """

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], *, stream: EndpointStream, log: RequestLog) -> None:
        super().__init__(content, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._stream = stream
        self._log = log
        self._ended = False

    async def stream_response(self, send: Send) -> None:
        """Send all events; noting the end tells a finished answer from an abandoned one."""
        await super().stream_response(send)
        self._ended = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events and clean up."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()
            if not self._ended and self._log.error is None:
                self._log.error = "client_disconnected"
            self._log.write(status=self.status_code if self._ended else CLIENT_CLOSED)


async def parsed_events(stream: EndpointStream) -> AsyncGenerator[Event | Comment, None]:
    """Yield the events of an endpoint's stream as soon as their last byte is there."""
    parser = EventParser()
    async for chunk in stream:
        for item in parser.feed(chunk):
            yield item


async def first_event(events: AsyncIterator[Event | Comment], dialect: Dialect) -> StreamEvent | None:
    """Return the first event; None when the engine only says that it is alive.

    Raises
    ------
    ApiError
        When the first event is an error, or there is none.
    """
    async for item in events:
        return dialect.stream_event(item.data) if isinstance(item, Event) else None
    raise _incomplete()


async def chat_events(
    first: StreamEvent | None,
    events: AsyncIterator[Event | Comment],
    *,
    dialect: Dialect,
    answer: ChatAnswer,
    log: RequestLog,
) -> AsyncIterator[bytes]:
    """Yield OpenAI's chunks, then `[DONE]`; or an error event in the middle, and no more."""
    finish: Finish | None = None
    try:
        yield event_bytes(answer.first_chunk())
        async for event in _with_first(first, events, dialect):
            if event is None:
                yield comment_bytes()
                continue
            if event.token is not None:
                log.token()
                for chunk in answer.token_chunks(event.token):
                    yield event_bytes(chunk)
            if event.finish is not None:
                finish = event.finish
                break
        if finish is None:
            yield event_bytes(openai_error(_stream_failure(_incomplete(), log)))
            return
        log.prompt_tokens = finish.prompt_tokens
        for chunk in answer.last_chunks(finish):
            yield event_bytes(chunk)
        yield event_bytes("[DONE]")
    except Exception as failure:
        yield event_bytes(openai_error(_stream_failure(failure, log)))


async def _with_first(
    first: StreamEvent | None, events: AsyncIterator[Event | Comment], dialect: Dialect
) -> AsyncIterator[StreamEvent | None]:
    """Yield the event that was read ahead and then the others; None stands for a comment."""
    yield first
    async for item in events:
        yield dialect.stream_event(item.data) if isinstance(item, Event) else None


async def tgi_events(stream: EndpointStream, *, log: RequestLog) -> AsyncIterator[bytes]:
    """Yield the engine's own bytes, unchanged; they are read along only to count tokens."""
    parser = EventParser()
    try:
        async for chunk in stream:
            for item in parser.feed(chunk):
                if not isinstance(item, Event):
                    continue
                if item.data.startswith('{"error"'):
                    log.error = "model_error_event"
                else:
                    log.token()
            yield chunk
    except Exception as failure:
        error = event_bytes(tgi_error(_stream_failure(failure, log)))
        yield error if parser.at_boundary else b"\n\n" + error


def _stream_failure(failure: Exception, log: RequestLog) -> ApiError:
    """Return the error that the client reads in the stream; a failure of our own is logged with its place."""
    if isinstance(failure, ApiError):
        error = failure
    else:
        logger.error("stream failed", extra={"fields": {"request_id": log.request_id}}, exc_info=failure)
        error = internal_error()
    log.error = error.code
    return error


def _incomplete() -> ApiError:
    return ApiError(
        status=502,
        message="The model's answer ended before it was complete.",
        code="incomplete_answer",
        error_type="incomplete_generation",
    )
