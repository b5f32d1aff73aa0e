"""The client towards children, and what passes their bodies on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from modelzone.local.emulator.asgi import Message, pump
from modelzone.local.emulator.http_client import ResponseBroken, request

Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[int]:
    """A server that reads one request with its body and lets ``serve`` answer."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length")]
        body = await reader.readexactly(lengths[0] if lengths else 0)
        try:
            await serve(head + body, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def get(port: int, **options: Any) -> Any:
    return await request(port=port, **{"method": "GET", "target": "/", "headers": [], "body": b"", **options})


async def test_a_request_carries_method_target_headers_and_body() -> None:
    seen: list[bytes] = []

    async def serve(received: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(received)
        writer.write(b"HTTP/1.1 201 Created\r\nX-Own: 1\r\nX-Own: 2\r\nContent-Length: 2\r\n\r\nok")

    async with server(serve) as port:
        headers = [("X-Asked", "a"), ("Connection", "keep-alive"), ("Content-Length", "99"), ("Host", "api")]
        answer = await get(port, method="POST", target="/a?b=c", headers=headers, body=b"body")
        assert await answer.read() == b"ok"
        answer.close()
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /a?b=c HTTP/1.1"
    assert sorted(line.lower() for line in lines[1:]) == [
        b"connection: close",
        b"content-length: 4",
        b"host: api",
        b"x-asked: a",
    ]
    assert body == b"body"
    assert (answer.status, [value for name, value in answer.headers if name == "X-Own"]) == (201, ["1", "2"])


async def test_the_body_arrives_while_it_is_written() -> None:
    may_go_on = asyncio.Event()

    async def serve(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        await may_go_on.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async with server(serve) as port:
        answer = await get(port)
        chunks = answer.chunks()
        assert await anext(chunks) == b"one"
        may_go_on.set()
        assert [chunk async for chunk in chunks] == [b"two"]
        assert "transfer-encoding" not in [name.lower() for name, _ in answer.headers]
        answer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
    ],
)
async def test_a_body_that_breaks_off_is_noticed(sent: bytes) -> None:
    async def serve(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)

    async with server(serve) as port:
        answer = await get(port)
        with pytest.raises(ResponseBroken):
            await answer.read()
        answer.close()


@pytest.mark.parametrize("sent", [b"", b"no http at all\r\n\r\n"])
async def test_no_answer_is_noticed(sent: bytes) -> None:
    async def serve(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)

    async with server(serve) as port:
        with pytest.raises(ResponseBroken):
            await get(port)


async def test_an_interim_answer_is_skipped() -> None:
    async def serve(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")

    async with server(serve) as port:
        answer = await get(port)
        answer.close()
    assert answer.status == 204


class Client:
    """The other side of an ASGI application."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.gone = asyncio.Event()

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_chunks_are_sent_as_they_come() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        assert [message["body"] for message in client.sent] == [b"one"]
        yield b"two"

    client = Client()
    assert await pump(chunks(), client.send, client.receive) is True
    assert [message["body"] for message in client.sent] == [b"one", b"two"]
    assert all(message["more_body"] for message in client.sent)


async def test_a_client_that_leaves_ends_the_source() -> None:
    ended: list[bool] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            client.gone.set()
            await asyncio.sleep(60)
            yield b"never"
        finally:
            ended.append(True)

    client = Client()
    assert await asyncio.wait_for(pump(chunks(), client.send, client.receive), 5) is False
    assert ended == [True]


async def test_what_breaks_the_source_is_passed_on() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        raise ResponseBroken("ended")

    client = Client()
    with pytest.raises(ResponseBroken):
        await pump(chunks(), client.send, client.receive)
