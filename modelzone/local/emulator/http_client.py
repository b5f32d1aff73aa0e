"""A small HTTP/1.1 client for the children: one connection a request, the body passed on as it arrives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import h11

__all__ = ["ChildResponse", "ResponseBroken", "request"]

_READ_BYTES = 65536
_HEADERS_OF_CONNECTION = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection", "expect"}
)
_MAX_HEADER_BYTES = 256 * 1024

Headers = Sequence[tuple[str, str]]


class ResponseBroken(Exception):  # noqa: N818 - named after what happened
    """The child closed the connection, or spoke no HTTP, before its answer was complete."""


@dataclass(kw_only=True)
class ChildResponse:
    """An answer whose head has arrived."""

    status: int
    headers: list[tuple[str, str]]
    _connection: h11.Connection
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    def header(self, name: str) -> str | None:
        """The first header of that name, whatever its case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises
        ------
        ResponseBroken
            The connection ended inside the body.
        """
        while True:
            event = await _next_event(self._connection, self._reader)
            if isinstance(event, h11.Data):
                if event.data:
                    yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise ResponseBroken("the connection ended inside the body")

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    def close(self) -> None:
        """Close the connection, also in the middle of the body: the child then sees its client leave."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()


async def request(*, port: int, method: str, target: str, headers: Headers, body: bytes) -> ChildResponse:
    """Send a request to ``127.0.0.1:port`` and wait for the head of the answer.

    Raises
    ------
    OSError
        Nothing listens on that port.
    ResponseBroken
        The connection ended before an answer.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADER_BYTES)
    kept = [
        (name, value)
        for name, value in headers
        if name.lower() not in _HEADERS_OF_CONNECTION and name.lower() != "content-length"
    ]
    if not any(name.lower() == "host" for name, _ in kept):
        kept.insert(0, ("host", f"127.0.0.1:{port}"))
    kept += [("content-length", str(len(body))), ("connection", "close")]
    try:
        writer.write(connection.send(h11.Request(method=method, target=target, headers=_encoded(kept))) or b"")
        if body:
            writer.write(connection.send(h11.Data(data=body)) or b"")
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        event = await _response_head(connection, reader)
    except BaseException:
        writer.close()
        raise
    answered = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers.raw_items()]
    return ChildResponse(
        status=event.status_code,
        headers=[(name, value) for name, value in answered if name.lower() not in _HEADERS_OF_CONNECTION],
        _connection=connection,
        _reader=reader,
        _writer=writer,
    )


async def _response_head(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Response:
    while True:
        event = await _next_event(connection, reader)
        if isinstance(event, h11.Response):
            return event
        if not isinstance(event, h11.InformationalResponse):
            raise ResponseBroken("the connection ended before an answer")


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    # What is not ASCII travels as UTF-8, as AWS passes it on.
    return [(name.encode("latin-1"), value.encode()) for name, value in headers]


async def _next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    try:
        while True:
            event = connection.next_event()
            if event is not h11.NEED_DATA:
                return event
            connection.receive_data(await reader.read(_READ_BYTES))
    except (h11.RemoteProtocolError, ConnectionError) as error:
        raise ResponseBroken(str(error)) from error
