"""Shapes and helpers of ASGI, the interface between the web server and the emulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from typing import Any

__all__ = ["App", "Message", "Receive", "Scope", "Send", "headers_of", "json_reply", "pump", "read_body", "reply"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def headers_of(scope: Scope) -> dict[str, str]:
    """The request's headers with names in lower case; a repeated one keeps its last value."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


async def read_body(receive: Receive) -> bytes:
    """The whole request body."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def reply(send: Send, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
    """Send a complete answer."""
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    encoded.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


async def json_reply(send: Send, status: int, document: Any, headers: Sequence[tuple[str, str]] = ()) -> None:
    """Send a JSON document."""
    await reply(send, status, [("content-type", "application/json"), *headers], json.dumps(document).encode())


async def pump(chunks: AsyncIterator[bytes], send: Send, receive: Receive) -> bool:
    """Send body chunks as they come until they end or the client leaves; tells whether they ended.

    The final, empty body message is left to the caller. An exception of ``chunks`` is passed on.
    """
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        while True:
            chunk = asyncio.ensure_future(anext(chunks, None))
            await asyncio.wait({chunk, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not chunk.done():
                chunk.cancel()
                await asyncio.gather(chunk, return_exceptions=True)
                return False
            data = chunk.result()
            if data is None:
                return True
            await send({"type": "http.response.body", "body": data, "more_body": True})
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
