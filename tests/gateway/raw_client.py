"""A small HTTP client that takes the time of what it receives; it must not be what is measured."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Answer", "Connection", "NumberedReader", "post"]

_STAMPED = re.compile(rb" (\d+)@(\d{19});")
_ZEROS = b"0" * 19


def post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return a request's bytes."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"{lines}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(kw_only=True)
class Answer:
    """An answer; times are seconds of `time.monotonic()`.

    `complete` is false when the connection ended before the answer did.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    started: float
    first_byte: float
    ended: float
    complete: bool


@dataclass
class NumberedReader:
    """Finds the numbered, stamped tokens in the bytes of an answer, whatever is around them.

    Attributes
    ----------
    numbers
        The tokens' numbers, in the order in which they came.
    sent, delays
        For each, when it was sent (seconds of `time.monotonic()`) and how many seconds it was on its way.
    """

    numbers: list[int] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    _rest: bytes = b""

    def __call__(self, data: bytes) -> None:
        """Take what has just arrived."""
        now = time.monotonic_ns()
        self._rest += data
        end = 0
        for found in _STAMPED.finditer(self._rest):
            end = found.end()
            # Engines repeat the whole text at the end, with the places that no time was written into.
            if found[2] != _ZEROS:
                stamp = int(found[2])
                self.numbers.append(int(found[1]))
                self.sent.append(stamp / 1e9)
                self.delays.append((now - stamp) / 1e9)
        self._rest = self._rest[max(end, len(self._rest) - 64) :]


class Connection(asyncio.Protocol):
    """One connection that is kept open; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._body = bytearray()
        self._head: tuple[int, dict[str, str]] | None = None
        self._left: int | None = None
        self._first = 0.0
        self._waiting: asyncio.Future[bool] | None = None
        self._on_data: Callable[[bytes], None] | None = None

    @classmethod
    async def open(cls, url: str) -> Connection:
        """Connect to the host and port of a URL."""
        where = urlsplit(url)
        host, port = where.hostname or "127.0.0.1", where.port or 80
        _, protocol = await asyncio.get_running_loop().create_connection(cls, host, port)
        return protocol

    async def ask(self, request: bytes, *, on_data: Callable[[bytes], None] | None = None) -> Answer:
        """Send a request and wait for all of its answer; `on_data` gets the body's bytes as they come.

        Raises
        ------
        ConnectionError
            When the connection ended before the answer's head was there.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._buffer.clear()
        self._body = bytearray()
        self._head, self._left, self._on_data = None, None, on_data
        self._waiting = asyncio.get_running_loop().create_future()
        started = time.monotonic()
        self._transport.write(request)
        complete = await self._waiting
        head = self._answered()
        if head is None:
            raise ConnectionResetError("the connection ended without an answer")
        status, headers = head
        return Answer(
            status=status,
            headers=headers,
            body=bytes(self._body),
            started=started,
            first_byte=self._first,
            ended=time.monotonic(),
            complete=complete,
        )

    def _answered(self) -> tuple[int, dict[str, str]] | None:
        return self._head

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer."""
        del exc
        self._finish(complete=self._left is None and self._head is not None and not self._chunked())

    def data_received(self, data: bytes) -> None:
        """Read the head, then the body in any of HTTP's three framings."""
        if self._head is None:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._first = time.monotonic()
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            self._head = int(first.split(" ")[1]), headers
            length = headers.get("content-length")
            self._left = int(length) if length is not None else None
            data = bytes(self._buffer[end + 4 :])
            self._buffer.clear()
        if self._chunked():
            self._chunks(data)
        else:
            self._take(data)
            if self._left is not None:
                self._left -= len(data)
                if self._left <= 0:
                    self._finish(complete=True)

    def _chunked(self) -> bool:
        return self._head is not None and self._head[1].get("transfer-encoding") == "chunked"

    def _chunks(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return
            size = int(self._buffer[:end], 16)
            if len(self._buffer) < end + 4 + size:
                return
            self._take(bytes(self._buffer[end + 2 : end + 2 + size]))
            del self._buffer[: end + 4 + size]
            if not size:
                self._finish(complete=True)
                return

    def _take(self, data: bytes) -> None:
        if data:
            self._body += data
            if self._on_data is not None:
                self._on_data(data)

    def _finish(self, *, complete: bool) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(complete)
