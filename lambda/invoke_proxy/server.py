"""The HTTP side of uvicorn, with one change: the head of an answer travels with what follows it.

uvicorn writes the head and the body apart: two system calls, and two packets that wake the other side twice. Requests
are read by httptools where it can be imported, else by h11; uvicorn's ``--http`` takes `Protocol` by its name.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["JoinedTransport", "Protocol"]

_HEAD = b"HTTP/1.1 "


class JoinedTransport:
    """A transport that holds the head of an answer back until the next write, or the loop's next turn.

    A body that begins like a head is held back for a turn too, which does no harm: the order stays.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""
        # What uvicorn asks for with every message goes straight to the transport.
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, together with what was held back."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        elif data.startswith(_HEAD):
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Send what was held back, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's own protocol (httptools' or h11's) over a `JoinedTransport`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with an open connection."""
        joined = JoinedTransport(cast("asyncio.Transport", transport), asyncio.get_running_loop())
        super().connection_made(cast("asyncio.Transport", joined))
