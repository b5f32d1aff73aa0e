"""A TCP server that answers as a test tells it, and bytes as AWS's servers send them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
import ssl
import struct
from binascii import crc32
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

EVENT_STREAM = "application/vnd.amazon.eventstream"


@dataclass
class Asked:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass
class Peer:
    """The server's side of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    upstream: Upstream

    async def request(self) -> Asked:
        """Read the next request; `asyncio.IncompleteReadError` when the client has gone."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        asked = Asked(method, target, headers, body, self.number)
        self.upstream.asked.append(asked)
        return asked

    async def send(self, *pieces: bytes) -> None:
        """Send each piece in a segment of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0)

    async def gone(self) -> None:
        """Wait until the client has dropped the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        """Close with RST: what was sent and not yet read is lost."""
        connected = self.writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Handler = Callable[[Peer], Awaitable[Any]]


@dataclass
class Upstream:
    """Where it listens, and what came."""

    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    failures: list[BaseException] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environ(self, **more: str) -> dict[str, str]:
        """Variables that lead a client here."""
        return {
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": self.url,
            **more,
        }

    async def all_gone(self, *, seconds: float = 2.0) -> None:
        """Wait until no client is connected."""
        async with asyncio.timeout(seconds):
            while self.open:
                await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def serving(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """Serve each connection by the handler; its end closes the connection."""
    upstream = Upstream()
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        upstream.connections += 1
        upstream.open += 1
        peer = Peer(reader, writer, upstream.connections, upstream)
        upstream.peers.append(peer)
        try:
            await handler(peer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except BaseException as failure:
            upstream.failures.append(failure)
        finally:
            upstream.open -= 1
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, limit=1 << 24)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for peer in upstream.peers:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await peer.writer.wait_closed()
        await server.wait_closed()
    assert upstream.failures == []


def always(*pieces: bytes) -> Handler:
    """Answer each request of a connection with these bytes."""

    async def handler(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(*pieces)

    return handler


def answer(body: bytes = b"", *, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """Return an answer with a content length."""
    lines = [f"HTTP/1.1 {status} Reason", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


def chunked(pieces: Iterable[bytes]) -> bytes:
    """Return pieces as chunks, with the end."""
    return b"".join(chunk(piece) for piece in pieces) + b"0\r\n\r\n"


def chunk(piece: bytes) -> bytes:
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


STREAM_HEAD = (
    f"HTTP/1.1 200 OK\r\nContent-Type: {EVENT_STREAM}\r\nx-amzn-SageMaker-Content-Type: text/event-stream\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
).encode()


def event(payload: bytes, *, kind: str = "event", name: str = "PayloadPart") -> bytes:
    """One message of an event stream."""
    names = {"event": ":event-type", "exception": ":exception-type", "error": ":error-code"}
    return message({":message-type": kind, names[kind]: name, ":content-type": "application/octet-stream"}, payload)


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """A message with texts as headers."""
    raw = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    return framed(raw, payload)


def framed(headers: bytes, payload: bytes) -> bytes:
    """A message of encoded headers."""
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    content = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return content + struct.pack(">I", crc32(content))


def cut(data: bytes, *places: int) -> list[bytes]:
    """Return the data in pieces."""
    ends = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends)]


async def nothing_left() -> None:
    """Fail when a task is left; show sockets that nobody has closed."""
    await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, others
    gc.collect()
