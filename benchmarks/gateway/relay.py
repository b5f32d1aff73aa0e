"""The least that anything in between costs: passes bytes on between two sockets, and reads nothing of them.

``python -m benchmarks.gateway.relay PORT UPSTREAM_PORT``. What a proxy adds above this is its own doing; what this adds
is the machine's, for one more process and two more sockets.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

__all__ = ["serve"]


class _Half(asyncio.Protocol):
    """One side of a relayed connection."""

    def __init__(self, upstream_port: int | None, other: _Half | None = None) -> None:
        self._upstream_port = upstream_port
        self._other = other
        self._early: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the other side, unless this is it."""
        self._transport = cast("asyncio.Transport", transport)
        if self._upstream_port is not None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(self._upstream_port))

    async def _connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        _, other = await loop.create_connection(lambda: _Half(None, self), "127.0.0.1", port)
        self._other = other
        for data in self._early:
            other.write(data)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self._other is None:
            self._early.append(data)
        else:
            self._other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other side."""
        del exc
        if self._other is not None:
            self._other.close()

    def write(self, data: bytes) -> None:
        """Send."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Close this side."""
        if self._transport is not None:
            self._transport.close()


async def serve(port: int, upstream_port: int) -> None:
    """Relay until the process ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Half(upstream_port), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
