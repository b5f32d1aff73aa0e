"""One connection of HTTP/1.1, and the answer that comes on it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Protocol, cast

from .endpoints import Address
from .errors import AnswerTimeoutError, BadAnswerError, ConnectError, ConnectionBrokenError, TransportError
from .http_parser import AnswerParser, Head

__all__ = ["Connection", "HttpAnswer", "Pool"]

# A kept connection that breaks this soon after a request was dead before it; later, the request may have been begun.
STALE_SECONDS = 5.0
# Data that nobody acknowledges for this long: the connection is dead. Without it, Linux tries for 15 minutes.
UNACKNOWLEDGED_MS = 10_000
KEEP_ALIVE_SECONDS = 30
# The kernel gives up so long after it has sent what nobody acknowledges. A request that was acknowledged is only missed
# by the probes of an idle connection, which begin after `KEEP_ALIVE_SECONDS`.
UNSENT_SECONDS = UNACKNOWLEDGED_MS / 1000 + 5

# Reading pauses while a slow client has this much before it.
_HIGH_WATER, _LOW_WATER = 256 * 1024, 64 * 1024
# A body up to this size travels in one write with the head.
_ONE_WRITE_BYTES = 64 * 1024


class Pool(Protocol):
    """What a connection tells its owner."""

    @property
    def read_buffer(self) -> memoryview:
        """Where the bytes of a read go: taken from there before anything else is read."""
        ...

    def opened(self, connection: Connection) -> None:
        """The connection is open."""
        ...

    def keep(self, connection: Connection) -> None:
        """The answer is complete, and another request may follow."""
        ...

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        ...


class Connection(asyncio.BufferedProtocol):
    """One connection: idle, or with one request under way.

    Buffered, because asyncio allocates and frees 256 KiB for each read of the other kind: most of a chunk's cost.
    """

    def __init__(self, pool: Pool, address: Address, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self.loop = loop
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._answer: HttpAnswer | None = None
        self._gone: asyncio.Future[None] = loop.create_future()
        self._poll = select.poll()
        self._used = False
        self._sent_at = 0.0
        self._idle_since = (0.0, 0.0)

    # ---- asyncio's callbacks ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the open connection."""
        # Loops give stream protocols no other; uvloop's is none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self._pool.opened(self)
        connected: socket.socket = transport.get_extra_info("socket")
        self._poll.register(connected.fileno(), select.POLLIN)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Linux's; on other systems a dead connection is noticed later.
        for option, value in (("TCP_KEEPIDLE", KEEP_ALIVE_SECONDS), ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS)):
            if hasattr(socket, option):
                with contextlib.suppress(OSError):
                    connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where the next bytes go."""
        return self._pool.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what has come."""
        if self._answer is None:
            self.abort()  # nobody asked
        else:
            self._answer.feed(bytes(self._pool.read_buffer[:nbytes]))

    def eof_received(self) -> None:
        """Take note that the other side sends no more."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the connection is gone."""
        self._end(exc)
        self._pool.forget(self)
        if not self._gone.done():
            self._gone.set_result(None)

    def _end(self, cause: Exception | None) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            return
        since = self.loop.time() - self._sent_at
        timed_out = isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT
        unsent = timed_out and (since < UNSENT_SECONDS or self._holds_unacknowledged())
        answer.lost(cause, stale=self._used and (since < STALE_SECONDS or unsent))

    def _holds_unacknowledged(self) -> bool:
        """Whether the kernel still has bytes that the other side has not acknowledged.

        False where that cannot be told: not on Linux, and when the socket is closed already, as TLS's then is.
        """
        if not sys.platform.startswith("linux") or self._transport is None:
            return False
        import fcntl  # noqa: PLC0415 - rare
        import termios  # noqa: PLC0415

        count = bytearray(4)
        try:
            # The same number as Linux's SIOCOUTQ.
            fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
        except (OSError, ValueError):
            return False
        return int.from_bytes(count, sys.byteorder) > 0

    # ---- what the client does with it ------------------------------------------------------------------------------

    async def exchange(self, head: bytes, body: bytes, deadline: float) -> HttpAnswer:
        """Send a request; return when the head of its answer is there.

        Raises
        ------
        ConnectError
            The connection is new, and was closed before anything was sent on it.
        TransportError
            Another of its kinds.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            if not self._used:
                raise ConnectError(f"the connection to {self.address.host}:{self.address.port} was closed at once")
            raise ConnectionBrokenError("the connection was closed before the request", stale=True)
        answer = self._answer = HttpAnswer(self, self.loop, deadline)
        self._sent_at = self.loop.time()
        if len(body) <= _ONE_WRITE_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        await answer.wait_head()
        return answer

    def usable(self, idle_seconds: float) -> bool:
        """Whether the connection looks alive: it has not been idle for long, and nothing has come on it."""
        since, since_wall = self._idle_since
        # A frozen machine's monotonic clock may stand still; its wall clock is set when it thaws.
        idle = max(self.loop.time() - since, time.time() - since_wall)
        transport = self._transport
        return (
            idle <= idle_seconds
            and transport is not None
            and not transport.is_closing()
            and self.loop is asyncio.get_running_loop()
            # A readable socket holds the other side's farewell, or what nobody asked for.
            and not self._poll.poll(0)
        )

    def finished(self, *, keep: bool) -> None:
        """The answer is complete: go back to the pool, or close."""
        self._answer = None
        transport = self._transport
        # An answer that came before the request was sent whole: the rest would be taken for the next request.
        if transport is None or not keep or transport.is_closing() or transport.get_write_buffer_size():
            self.abort()
            return
        self._used = True
        self._idle_since = (self.loop.time(), time.time())
        self._pool.keep(self)

    def pause(self) -> None:
        """Let the other side wait."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection at once. Safe twice."""
        self._answer = None
        if self.loop.is_closed():
            self._pool.forget(self)
        elif self._transport is not None:
            self._transport.abort()

    async def wait_gone(self) -> None:
        """Wait until the socket is closed."""
        if self._transport is not None:
            await self._gone


class HttpAnswer:
    """An answer: its head, and its body whole or in pieces.

    Only one task may read it.
    """

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self._connection: Connection | None = connection
        self._loop = loop
        self._parser = AnswerParser()
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._collecting_up_to: int | None = None
        self._failure: TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer = loop.call_at(deadline, self._time_out)

    @property
    def head(self) -> Head:
        """Status and headers."""
        head = self._parser.head
        assert head is not None  # noqa: S101 - `HttpClient.request` returns answers with a head only
        return head

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.head.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, names in lower case."""
        return self.head.headers

    async def next_piece(self) -> bytes:
        """Return bytes of the body as soon as some are there; none at its end.

        Pieces that came before a failure are returned before it is raised. Cancelling closes the connection.

        Raises
        ------
        TransportError
            When the body can not be complete any more.
        """
        pieces = self._pieces
        while not pieces:
            if self._parser.ended:
                return b""
            if self._failure is not None:
                raise self._failure
            await self._wait()
        piece = pieces.popleft()
        self._buffered -= len(piece)
        if self._paused and self._buffered <= _LOW_WATER and self._connection is not None:
            self._paused = False
            self._connection.resume()
        return piece

    async def read(self, *, limit: int) -> bytes:
        """Return the whole body.

        Parameters
        ----------
        limit
            The most bytes that are accepted.

        Raises
        ------
        TransportError
            When the body is incomplete or larger.
        """
        if not self._parser.ended:
            self._collecting_up_to = limit
            self._check_limit()
            if self._paused and self._connection is not None:
                self._paused = False
                self._connection.resume()
            while not self._parser.ended and self._failure is None:
                await self._wait()
        elif self._buffered > limit:
            raise _too_large(limit)
        if self._failure is not None:
            raise self._failure
        body = b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        return body

    def close(self) -> None:
        """Give the answer up: drop its connection at once, unless the answer is complete. Safe twice."""
        self._pieces.clear()
        self._buffered = 0
        if not self._parser.ended:
            self._fail(ConnectionBrokenError("the answer was closed before its end"))

    # ---- reading ---------------------------------------------------------------------------------------------------

    async def wait_head(self) -> None:
        """Wait for the head."""
        while self._parser.head is None:
            if self._failure is not None:
                raise self._failure
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None

    # ---- what the connection tells ---------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        parser = self._parser
        try:
            pieces = parser.feed(data)
        except BadAnswerError as error:
            self._fail(error)
            return
        for piece in pieces:
            self._buffered += len(piece)
        self._pieces += pieces
        if parser.ended:
            self._finish(keep=parser.keep_alive)
        elif self._collecting_up_to is not None:
            self._check_limit()
        else:
            if self._buffered > _HIGH_WATER and not self._paused and self._connection is not None:
                self._paused = True
                self._connection.pause()
            if parser.head is not None:
                self._wake()

    def lost(self, cause: Exception | None, *, stale: bool) -> None:
        """Take note that the connection is gone."""
        if self._failure is not None or self._parser.ended:
            return
        if cause is None and self._parser.end_of_input():
            self._finish(keep=False)
            return
        failure = ConnectionBrokenError(
            "the connection was closed before the end of the answer", stale=stale and not self._parser.started
        )
        failure.__cause__ = cause
        self._fail(failure)

    def _check_limit(self) -> None:
        limit = self._collecting_up_to
        if limit is None:
            return
        declared = self.headers.get("content-length", "")
        if self._buffered > limit or (declared.isdecimal() and int(declared) > limit):
            self._fail(_too_large(limit))

    def _time_out(self) -> None:
        self._fail(AnswerTimeoutError("the answer was not complete in time"))

    def _fail(self, failure: TransportError) -> None:
        if self._failure is None:
            self._failure = failure
        self._timer.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._wake()

    def _finish(self, *, keep: bool) -> None:
        self._timer.cancel()
        if self._collecting_up_to is not None and self._buffered > self._collecting_up_to:
            self._failure = _too_large(self._collecting_up_to)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finished(keep=keep)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _too_large(limit: int) -> BadAnswerError:
    return BadAnswerError(f"the answer is larger than {limit} bytes")
