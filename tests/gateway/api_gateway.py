"""What API Gateway and the Lambda Web Adapter do in front of the proxy: they know the key, and add its context.

A small layer on TCP: requests get the header ``x-amzn-request-context``, answers pass as they are, byte for byte and at
once. Clients which cannot send that header (all of them) talk to the proxy through it. A request without a known key is
answered 401 in OpenAI's shape, as the gateway response of the API does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.gateway.fake_aws import in_thread

__all__ = ["CONTEXT_HEADER", "Exchange", "Tap", "fronting", "request_context"]

CONTEXT_HEADER = "x-amzn-request-context"
_HEAD_LIMIT = 1 << 20
_REFUSED = json.dumps(
    {
        "error": {
            "message": "The API key is missing, unknown, expired or revoked.",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }
).encode()


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request and what the client got for it, as it was on the wire."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Tap:
    """What went through the layer, by connection: the requests' first lines and the bytes of all answers."""

    connections: list[tuple[list[str], bytearray]] = field(default_factory=list)

    def exchanges(self) -> Iterator[Exchange]:
        """Yield what is complete; an answer that a client or the proxy broke off is not."""
        for requests, raw in self.connections:
            rest = bytes(raw)
            for line in requests:
                method, path, _ = line.split(" ")
                head, found, rest = rest.partition(b"\r\n\r\n")
                if not found:
                    break
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {n.lower(): v.strip() for n, _, v in (item.partition(":") for item in lines)}
                cut = _cut_body(rest, headers)
                if cut is None:
                    break
                body, rest = cut
                yield Exchange(method=method, path=path, status=int(first.split(" ")[1]), headers=headers, body=body)


def _cut_body(data: bytes, headers: Mapping[str, str]) -> tuple[bytes, bytes] | None:
    """Return an answer's body and what comes after it."""
    if headers.get("transfer-encoding", "") != "chunked":
        size = int(headers.get("content-length", "0"))
        return (data[:size], data[size:]) if len(data) >= size else None
    body = bytearray()
    while True:
        line, found, data = data.partition(b"\r\n")
        if not found:
            return None
        size = int(line, 16)
        if len(data) < size + 2:
            return None
        body += data[:size]
        data = data[size + 2 :]
        if not size:
            return bytes(body), data


def request_context(
    tenant: str, *, key_id: str = "k1", request_id: str = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"
) -> str:
    """Return the header's value: API Gateway's ``requestContext`` as JSON, with what the authorizer found out."""
    return json.dumps(
        {
            "requestId": request_id,
            "stage": "v1",
            "identity": {"sourceIp": "127.0.0.1", "userArn": None},
            "authorizer": {"tenant": tenant, "key_id": key_id},
        }
    )


@contextlib.contextmanager
def fronting(url: str, *, keys: Mapping[str, str], tap: Tap | None = None) -> Iterator[str]:
    """Put the layer in front of a proxy and yield the layer's URL. `keys` has tenants by key."""
    with in_thread(_front(url, keys=keys, tap=tap)) as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def _front(url: str, *, keys: Mapping[str, str], tap: Tap | None) -> AsyncIterator[int]:
    upstream = urlsplit(url).port
    assert upstream is not None
    clients: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        # Cancelled when the layer ends: that is the end of the connection and no failure.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await _Client(reader, writer, port=upstream, keys=keys, tap=tap).serve()
        writer.transport.abort()
        clients.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=_HEAD_LIMIT, backlog=1024)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        waiting = tuple(clients)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0)


class _Client:
    """One connection of a client, and the one of ours that belongs to it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        port: int,
        keys: Mapping[str, str],
        tap: Tap | None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._port = port
        self._keys = keys
        self._asked: list[str] = []
        self._answered = bytearray()
        if tap is not None:
            tap.connections.append((self._asked, self._answered))
        self._upstream: asyncio.StreamWriter | None = None
        self._answers: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        try:
            while head := await self._head():
                tenant = self._keys.get(self._key(head))
                if tenant is None:
                    await self._refuse(head)
                    continue
                upstream = await self._connected()
                self._asked.append(head.partition(b"\r\n")[0].decode("latin-1"))
                context = request_context(tenant).encode()
                first, _, rest = head.partition(b"\r\n")
                upstream.write(first + b"\r\n" + CONTEXT_HEADER.encode() + b": " + context + b"\r\n" + rest)
                await self._pass_body(head, upstream)
        finally:
            if self._upstream is not None:
                self._upstream.transport.abort()
            if self._answers is not None:
                self._answers.cancel()

    async def _head(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""

    @staticmethod
    def _header(head: bytes, name: bytes) -> str:
        for line in head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name:
                return value.strip().decode("latin-1")
        return ""

    def _key(self, head: bytes) -> str:
        bearer = self._header(head, b"authorization")
        return bearer.removeprefix("Bearer ").strip() if bearer else self._header(head, b"x-api-key")

    async def _connected(self) -> asyncio.StreamWriter:
        if self._upstream is None:
            reader, self._upstream = await asyncio.open_connection("127.0.0.1", self._port)
            self._answers = asyncio.create_task(self._pass_answers(reader))
        return self._upstream

    async def _pass_answers(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                self._answered += data
                self._writer.write(data)
                await self._writer.drain()
        self._writer.close()

    async def _pass_body(self, head: bytes, upstream: asyncio.StreamWriter) -> None:
        async for data in self._body(head):
            upstream.write(data)
        await upstream.drain()

    async def _body(self, head: bytes) -> AsyncIterator[bytes]:
        """Yield the bytes of a request's body as they are on the wire."""
        if self._header(head, b"transfer-encoding").lower() == "chunked":
            while True:
                line = await self._reader.readuntil(b"\r\n")
                size = int(line.split(b";")[0], 16)
                yield line + await self._reader.readexactly(size + 2)
                if not size:
                    return
        left = int(self._header(head, b"content-length") or 0)
        while left:
            data = await self._reader.read(min(left, 1 << 16))
            if not data:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(data)
            yield data

    async def _refuse(self, head: bytes) -> None:
        async for _ in self._body(head):
            pass
        lines = (
            f"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: {len(_REFUSED)}\r\n\r\n"
        )
        self._writer.write(lines.encode() + _REFUSED)
        await self._writer.drain()
