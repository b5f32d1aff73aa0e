"""A small HTTP/1.1 client for asyncio: one pool of kept connections, answers whole or piece by piece.

It is our own because of its cost: httpcore was measured at 1.4 ms of CPU a request and a direct client at 0.07 ms;
`benchmarks/gateway` prints the effect. It does what AWS needs and no more: no redirects, no compression, no proxies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .endpoints import Address
from .errors import ConnectError, ConnectionBrokenError
from .http_connection import Connection, HttpAnswer

if TYPE_CHECKING:
    import ssl

__all__ = ["HttpClient"]

CONNECT_SECONDS = 5.0
# A kept connection is not used again after this. Lambda freezes the process between requests for any time, and what
# the other side or a NAT gateway has forgotten meanwhile cannot be seen from here.
# NOT VERIFIED: after how long AWS's side closes an idle connection; a request on a closed one is sent again.
IDLE_SECONDS = 20.0
MAX_IDLE = 32

_READ_BYTES = 128 * 1024
_CERTIFICATES = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt")


class HttpClient:
    """Sends requests; keeps connections that can be used again.

    Parameters
    ----------
    ca_bundle
        A file of certificates to trust in place of the system's.
    """

    def __init__(self, *, ca_bundle: str | None = None, idle_seconds: float = IDLE_SECONDS) -> None:
        self._ca_bundle = ca_bundle
        self._idle_seconds = idle_seconds
        self._idle: dict[Address, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._tls: ssl.SSLContext | None = None
        # One for all connections: asyncio fills it and has it emptied before it reads from another.
        self.read_buffer = memoryview(bytearray(_READ_BYTES))

    @property
    def open_connections(self) -> int:
        """How many connections are open, in use or kept."""
        return len(self._open)

    async def request(
        self,
        address: Address,
        *,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        seconds: float,
    ) -> HttpAnswer:
        """Send a request and return its answer as soon as the head is there.

        The body of the answer must be read to its end or closed. A request is sent a second time only when the
        first can not have been begun: the connection could not be opened, or was closed before the request was written,
        or a kept one was closed at once without a byte of an answer. Cancelling drops the connection.

        Parameters
        ----------
        target
            Path and query as they are sent.
        headers
            Without ``content-length``.
        seconds
            How long the whole answer may take, from now.

        Raises
        ------
        TransportError
            One of its kinds.
        ValueError
            When a header holds what no header may.
        """
        head = _request_head(method, target, headers, len(body))
        deadline = asyncio.get_running_loop().time() + seconds
        kept = self._take(address)
        if kept is not None:
            try:
                return await kept.exchange(head, body, deadline)
            except ConnectionBrokenError as error:
                if not error.stale:
                    raise
        try:
            return await (await self._connect(address)).exchange(head, body, deadline)
        except ConnectError:
            return await (await self._connect(address)).exchange(head, body, deadline)

    async def aclose(self) -> None:
        """Drop all connections, and wait until they are gone. The client can be used again after it."""
        self._idle.clear()
        connections = list(self._open)
        for connection in connections:
            connection.abort()
        loop = asyncio.get_running_loop()
        for connection in connections:
            if connection.loop is loop:
                await connection.wait_gone()

    def _take(self, address: Address) -> Connection | None:
        kept = self._idle.get(address)
        while kept:
            connection = kept.pop()
            if connection.usable(self._idle_seconds):
                return connection
            connection.abort()
        return None

    async def _connect(self, address: Address) -> Connection:
        loop = asyncio.get_running_loop()
        tls = self._tls_context() if address.tls else None
        connection = Connection(self, address, loop)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(
                    lambda: connection,
                    address.host,
                    address.port,
                    ssl=tls,
                    server_hostname=address.host if tls is not None else None,
                    ssl_handshake_timeout=CONNECT_SECONDS if tls is not None else None,
                )
        except (OSError, TimeoutError) as error:  # TLS's failures are OSErrors too
            connection.abort()
            message = f"no connection to {address.host}:{address.port}: {type(error).__name__}"
            raise ConnectError(message) from error
        except BaseException:
            connection.abort()
            raise
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = _make_tls_context(self._ca_bundle)
        return self._tls

    # ---- what connections tell -------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Count a connection that is open."""
        self._open.add(connection)

    def keep(self, connection: Connection) -> None:
        """Keep a connection whose answer is complete for another request."""
        kept = self._idle.setdefault(connection.address, [])
        if len(kept) >= MAX_IDLE:
            connection.abort()
        else:
            kept.append(connection)

    def forget(self, connection: Connection) -> None:
        """Forget a connection that is gone."""
        self._open.discard(connection)
        kept = self._idle.get(connection.address)
        if kept and connection in kept:
            kept.remove(connection)


def _request_head(method: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if length or method != "GET":
        lines.append(f"content-length: {length}")
    text = "\r\n".join(lines)
    # A line end in a value would begin a header of the value's author.
    if not text.isascii() or len(text.splitlines()) != len(lines) or "\0" in text:
        message = "a header, the path or the method holds a line end or a character that is not ASCII"
        raise ValueError(message)
    return f"{text}\r\n\r\n".encode()


def _make_tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    import ssl  # noqa: PLC0415 - a gateway whose endpoints are local never needs it

    if ca_bundle:
        return ssl.create_default_context(cafile=ca_bundle)
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:
        # This Python was built for a system that keeps its certificates elsewhere.
        # NOT VERIFIED: whether Lambda's Python needs it; Amazon Linux 2023 keeps them at the first of these places.
        for name in _CERTIFICATES:
            if Path(name).exists():
                context.load_verify_locations(cafile=name)
                break
    return context
