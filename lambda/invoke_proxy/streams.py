"""Streamed answers: nothing is held back, silence is filled, failures become events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from .errors import ApiError, internal_error
from .logs import RequestLog
from .sse import comment_bytes, event_bytes

__all__ = ["HEARTBEAT_SECONDS", "EventStreamResponse", "whole_events"]

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0

_MAX_HELD_BYTES = 1 << 20


class EventStreamResponse(Response):
    """Server-sent events, made by a generator that opens the endpoint's stream itself.

    The status goes out with the generator's first bytes: a failure before them is an HTTP error, a later one is an
    event, after which the stream ends. An endpoint that is silent for `heartbeat` seconds (its instance is being
    started, its queue is long) turns the status to 200 at once, and comments keep the connection open: proxies and
    clients give up on silent ones.

    Parameters
    ----------
    content
        Yields whole events. It is closed however the answer ends, so it closes what it has opened.
    error_body
        Writes a failure in the route's format.
    heartbeat
        Seconds of silence before a comment; `HEARTBEAT_SECONDS` by default.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        *,
        error_body: Callable[[ApiError], dict[str, Any]],
        log: RequestLog,
        headers: Mapping[str, str] | None = None,
        heartbeat: float | None = None,
    ) -> None:
        # Response.__init__ would write a content-length; without a body, init_headers does not.
        self.status_code = 200
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        self._content = content
        self._error_body = error_body
        self._log = log
        self._heartbeat = HEARTBEAT_SECONDS if heartbeat is None else heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events."""
        start: Message = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        writer = _Writer(send, start=start, heartbeat=self._heartbeat)
        failure: ApiError | None = None
        try:
            async for data in self._content:
                await writer.write(data)
        except Exception as error:  # whatever happens, the client is told in the stream's format
            failure = _api_error(error, self._log)
        finally:
            writer.stop()
            await self._content.aclose()
        if failure is None:
            await writer.end()
            return
        self._log.error = failure.code
        if await writer.started():
            await writer.end(event_bytes(self._error_body(failure)))
        else:
            response = JSONResponse(self._error_body(failure), status_code=failure.status, headers=failure.headers)
            for name in ("x-request-id", "x-modelzone-deployment"):
                if name in self.headers:
                    response.headers[name] = self.headers[name]
            await response(scope, receive, send)


class _Writer:
    """Writes the body and, when nothing else is to be written for a while, comments.

    A timer looks for silence, so that a stream that flows costs no task.
    """

    def __init__(self, send: Send, *, start: Message, heartbeat: float) -> None:
        self._send = send
        self._start = start
        self._heartbeat = heartbeat
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._started = False
        self._stopped = False
        self._written_at = self._loop.time()
        self._beat: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(heartbeat, self._look)

    async def write(self, data: bytes) -> None:
        async with self._lock:
            self._written_at = self._loop.time()
            if not self._started:
                self._started = True
                await self._send(self._start)
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        if not await self.started():
            await self.write(data)
            data = b""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def started(self) -> bool:
        """Whether the status has gone out; a comment that is just being sent is waited for."""
        async with self._lock:
            return self._started

    def stop(self) -> None:
        """Send no more comments."""
        self._stopped = True
        self._timer.cancel()

    def _look(self) -> None:
        silent = self._loop.time() - self._written_at
        if silent < self._heartbeat:
            self._timer = self._loop.call_later(self._heartbeat - silent, self._look)
            return
        if self._beat is None or self._beat.done():
            self._beat = self._loop.create_task(self._comment())
        self._timer = self._loop.call_later(self._heartbeat, self._look)

    async def _comment(self) -> None:
        # A client that does not read holds the lock; then there is no silence to fill.
        if not self._stopped and not self._lock.locked():
            await self.write(comment_bytes())


async def whole_events(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield a stream's bytes unchanged, cut only behind whole events, so that others can be put between them.

    Half an event at the end of a stream that breaks off is dropped; one larger than 1 MiB passes in pieces.
    """
    held = b""
    try:
        async for chunk in chunks:
            data = held + chunk if held else chunk
            end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0)
            if end < 2 and len(data) <= _MAX_HELD_BYTES:  # noqa: PLR2004 - rfind found nothing
                held = data
                continue
            if end < 2:  # noqa: PLR2004
                end = len(data)
            held = data[end:]
            yield data[:end]
    finally:
        await chunks.aclose()
    if held:
        yield held


def _api_error(failure: Exception, log: RequestLog) -> ApiError:
    """Return what the client reads; a failure of our own is logged with its place."""
    if isinstance(failure, ApiError):
        return failure
    logger.error("stream failed", extra={"fields": {"request_id": log.request_id}}, exc_info=failure)
    return internal_error()
