"""The HTTP client against a real server that answers in every shape, and in none."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import gc
import ipaddress
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from unit.upstream_server import Peer, Upstream, always, answer, chunk, chunked, nothing_left, serving

from invoke_proxy.aws import http, http_connection
from invoke_proxy.aws.endpoints import Address
from invoke_proxy.aws.errors import (
    AnswerTimeoutError,
    BadAnswerError,
    ConnectError,
    ConnectionBrokenError,
    TransportError,
)
from invoke_proxy.aws.http import HttpClient
from invoke_proxy.aws.http_connection import HttpAnswer

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
AT_ONCE = 3.0


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.aclose()
    assert client.open_connections == 0
    await nothing_left()


async def ask(
    client: HttpClient, upstream: Upstream, body: bytes = b"{}", *, seconds: float = 5, tls: bool = False
) -> HttpAnswer:
    address = Address(host="127.0.0.1", port=upstream.port, tls=tls)
    return await client.request(
        address, method="POST", target="/path?q=1", headers={"host": "h", "x": "y"}, body=body, seconds=seconds
    )


async def whole(client: HttpClient, upstream: Upstream, **options: Any) -> bytes:
    return await (await ask(client, upstream, **options)).read(limit=1 << 24)


async def pieces(found: HttpAnswer) -> list[bytes]:
    result = []
    while piece := await found.next_piece():
        result.append(piece)
    return result


# ---- requests and answers -------------------------------------------------------------------------------------------


async def test_the_request_is_sent_as_it_was_given(client: HttpClient) -> None:
    async with serving(always(answer(b"hello", headers={"X-Y": "z"}))) as upstream:
        found = await ask(client, upstream, b"body")

        assert (found.status, found.headers["x-y"], await found.read(limit=10)) == (200, "z", b"hello")
        (asked,) = upstream.asked
        assert (asked.method, asked.target, asked.body) == ("POST", "/path?q=1", b"body")
        assert asked.headers == {"host": "h", "x": "y", "content-length": "4"}


async def test_a_get_has_no_body(client: HttpClient) -> None:
    async with serving(always(answer(b"hello"))) as upstream:
        address = Address(host="127.0.0.1", port=upstream.port, tls=False)
        found = await client.request(address, method="GET", target="/", headers={"host": "h"}, seconds=5)

        assert await found.read(limit=10) == b"hello"
        assert "content-length" not in upstream.asked[0].headers


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 6 * 1024 * 1024])
async def test_bodies_of_any_size_go_both_ways(client: HttpClient, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    async def echo(peer: Peer) -> None:
        while True:
            await peer.send(answer((await peer.request()).body))

    async with serving(echo) as upstream:
        for _ in range(2):
            assert await whole(client, upstream, body=content) == content
        assert upstream.connections == 1


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (answer(b"hello"), True),
        (CHUNKED_HEAD + chunked([b"hel", b"lo"]), True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"hello"), True),
        (answer(b"hello", headers={"Connection": "close"}), False),
    ],
)
@pytest.mark.parametrize("in_bytes", [False, True])
async def test_shapes(client: HttpClient, data: bytes, *, kept: bool, in_bytes: bool) -> None:
    sent = [data[at : at + 1] for at in range(len(data))] if in_bytes else [data]
    async with serving(always(*sent)) as upstream:
        for _ in range(3):
            assert await whole(client, upstream) == b"hello"
        for _ in range(3):
            assert b"".join(await pieces(await ask(client, upstream))) == b"hello"
        assert upstream.connections == (1 if kept else 6)


async def test_a_body_until_close(client: HttpClient) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n", b"hel", b"lo")

    async with serving(handler) as upstream:
        assert await whole(client, upstream) == b"hello"
        assert b"".join(await pieces(await ask(client, upstream))) == b"hello"
        await upstream.all_gone()


async def test_a_body_until_close_that_is_reset(client: HttpClient) -> None:
    read = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await read.wait()
        peer.reset()

    async with serving(handler) as upstream:
        found = await ask(client, upstream)
        assert await found.next_piece() == b"hello"
        read.set()
        with pytest.raises(ConnectionBrokenError):
            await found.next_piece()


async def test_pieces_are_handed_on_as_they_come(client: HttpClient) -> None:
    more = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD)
        for piece in (b"one", b"two"):
            await more.wait()
            more.clear()
            await peer.send(chunk(piece))
        await more.wait()
        await peer.send(b"a\r\nfirst", b" half\r\n0\r\n\r\n")

    async with serving(handler) as upstream:
        found = await ask(client, upstream)
        for expected in (b"one", b"two"):
            more.set()
            assert await found.next_piece() == expected
        more.set()
        assert b"".join(await pieces(found)) == b"first half"
        assert await found.next_piece() == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\x15\x03\x01 not HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
    ],
)
async def test_garbage_instead_of_a_head(client: HttpClient, data: bytes) -> None:
    async with serving(always(data)) as upstream:
        with pytest.raises(BadAnswerError):
            await ask(client, upstream)
        await upstream.all_gone()
        assert len(upstream.asked) == 1


async def test_garbage_in_the_body(client: HttpClient) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD + chunk(b"good"))
        await asyncio.sleep(0.02)
        await peer.send(b"garbage\r\n")
        await peer.gone()

    async with serving(handler) as upstream:
        found = await ask(client, upstream)
        assert await found.next_piece() == b"good"
        with pytest.raises(BadAnswerError):
            await found.next_piece()
        with pytest.raises(BadAnswerError):
            await whole(client, upstream)
        await upstream.all_gone()


@pytest.mark.parametrize("body", [answer(b"x" * 101), CHUNKED_HEAD + chunk(b"x" * 50) * 3])
async def test_answers_that_are_too_large(client: HttpClient, body: bytes) -> None:
    async with serving(always(body)) as upstream:
        found = await ask(client, upstream)
        with pytest.raises(BadAnswerError, match="100 bytes"):
            await found.read(limit=100)


async def test_a_declared_length_over_the_limit_is_not_waited_for(client: HttpClient) -> None:
    async with serving(always(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")) as upstream:
        found = await ask(client, upstream)
        with pytest.raises(BadAnswerError, match="100 bytes"):
            await found.read(limit=100)
        await upstream.all_gone()


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "\0", "ä", "a\x0bb", "a\u2028b"])
async def test_headers_that_would_be_two(client: HttpClient, value: str) -> None:
    async with serving(always(answer())) as upstream:
        address = Address(host="127.0.0.1", port=upstream.port, tls=False)
        for headers, target in (({"x": value}, "/"), ({}, f"/{value}")):
            with pytest.raises(ValueError, match="line end"):
                await client.request(address, method="GET", target=target, headers=headers, seconds=5)
        assert upstream.connections == 0


# ---- broken connections ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", answer(b"hello")[:-1], CHUNKED_HEAD + chunk(b"hello")])
async def test_a_new_connection_that_breaks_is_a_failure_at_once(
    client: HttpClient, sent: bytes, *, reset: bool
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        if reset:
            await asyncio.sleep(0.02)
            peer.reset()

    async with serving(handler) as upstream:
        started = time.monotonic()
        with pytest.raises(ConnectionBrokenError) as caught:
            await whole(client, upstream)
        assert not caught.value.stale
        assert time.monotonic() - started < AT_ONCE
        assert len(upstream.asked) == 1


def breaks_when_used_again(*sent: bytes, reset: bool = False) -> Callable[[Peer], Awaitable[None]]:
    """Answer once; at the second request on the first connection, send this and close."""

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"hello"))
        await peer.request()
        if peer.number == 1:
            await peer.send(*sent)
            if reset:
                peer.reset()
        else:
            await peer.send(answer(b"hello"))

    return handler


@pytest.mark.parametrize("reset", [False, True])
async def test_a_kept_connection_that_breaks_is_replaced_once(client: HttpClient, *, reset: bool) -> None:
    async with serving(breaks_when_used_again(reset=reset)) as upstream:
        for _ in range(3):
            assert await whole(client, upstream) == b"hello"
        assert [asked.connection for asked in upstream.asked] == [1, 1, 2, 2]


async def test_a_kept_connection_that_has_begun_to_answer_is_not_replaced(client: HttpClient) -> None:
    async with serving(breaks_when_used_again(b"H")) as upstream:
        await whole(client, upstream)
        with pytest.raises(ConnectionBrokenError):
            await whole(client, upstream)
        assert [asked.connection for asked in upstream.asked] == [1, 1]


async def test_a_request_that_was_begun_long_ago_is_not_sent_again(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "STALE_SECONDS", 0.0)
    async with serving(breaks_when_used_again()) as upstream:
        await whole(client, upstream)
        with pytest.raises(ConnectionBrokenError):
            await whole(client, upstream)
        assert [asked.connection for asked in upstream.asked] == [1, 1]


def time_out(client: HttpClient) -> None:
    """Do as asyncio does when the kernel gives up the one connection."""
    (connection,) = client._open
    transport: Any = connection._transport
    transport._fatal_error(OSError(errno.ETIMEDOUT, "Connection timed out"))


def silent_when_used_again(asked: asyncio.Event, *, reads: bool) -> Callable[[Peer], Awaitable[None]]:
    """Answer once; on the first connection say nothing to the second request, and perhaps do not even read it."""

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"hello"))
        if peer.number == 1:
            if reads:
                await peer.request()
            else:
                await peer.reader.readexactly(1)
                peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            asked.set()
            await asyncio.sleep(5)
        else:
            await peer.request()
            await peer.send(answer(b"hello"))

    return handler


@pytest.mark.parametrize(
    ("margin", "size", "again"),
    # Soon after the sending; later, with all of it acknowledged; later, with most of it still in the kernel.
    [(15.0, 2, True), (0.0, 2, False), (0.0, 64 * 1024 * 1024, True)],
)
async def test_a_request_that_was_acknowledged_is_not_sent_again_when_the_kernel_gives_up(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch, margin: float, size: int, *, again: bool
) -> None:
    monkeypatch.setattr(http_connection, "STALE_SECONDS", 0.0)
    monkeypatch.setattr(http_connection, "UNSENT_SECONDS", margin)
    asked = asyncio.Event()
    async with serving(silent_when_used_again(asked, reads=size == 2)) as upstream:
        await whole(client, upstream)
        second = asyncio.create_task(whole(client, upstream, body=b"x" * size))
        await asked.wait()
        await asyncio.sleep(0.05)
        time_out(client)
        if again:
            assert await second == b"hello"
        else:
            with pytest.raises(ConnectionBrokenError):
                await second
        assert upstream.connections == 1 + again


@pytest.mark.parametrize("reset", [False, True])
async def test_a_kept_connection_that_the_server_closed_is_forgotten(client: HttpClient, *, reset: bool) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"hello"))
        if reset:
            await asyncio.sleep(0.01)
            peer.reset()

    async with serving(handler) as upstream:
        await whole(client, upstream)
        async with asyncio.timeout(AT_ONCE):
            while client.open_connections:
                await asyncio.sleep(0.002)
        assert await whole(client, upstream) == b"hello"
        assert [asked.connection for asked in upstream.asked] == [1, 2]


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_was_closed_while_the_process_stood_still_is_not_used(
    client: HttpClient, *, reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after Lambda's freeze: the event loop has not heard of the close, and nothing may be lost by that."""
    monkeypatch.setattr(http_connection, "STALE_SECONDS", 0.0)  # no second try: it must not be tried at all
    frozen = threading.Event()
    with answering_thread(frozen, reset=reset) as upstream:
        await whole(client, upstream)
        frozen.set()
        time.sleep(0.05)
        assert client.open_connections == 1
        assert await whole(client, upstream) == b"hello"


@contextlib.contextmanager
def answering_thread(close: threading.Event, *, reset: bool = False) -> Iterator[Upstream]:
    """A server in threads of its own: one answer on each of two connections, which wait for the event to close."""

    def serve(connected: socket.socket) -> None:
        with connected:
            while not connected.recv(4096).endswith(b"{}"):
                pass
            connected.sendall(answer(b"hello"))
            close.wait(5)
            if reset:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def accept() -> None:
        serving_threads = []
        for _ in range(2):
            connected, _ = listening.accept()
            serving_threads.append(threading.Thread(target=serve, args=(connected,)))
            serving_threads[-1].start()
        for each in serving_threads:
            each.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield Upstream(port=listening.getsockname()[1])
        finally:
            close.set()
            thread.join()


async def test_bytes_that_nobody_asked_for_end_a_kept_connection(client: HttpClient) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"hello"))
        await asyncio.sleep(0.02)
        await peer.send(answer(b"poison"))
        await peer.gone()

    async with serving(handler) as upstream:
        assert await whole(client, upstream) == b"hello"
        await asyncio.sleep(0.05)
        assert client.open_connections == 0
        assert await whole(client, upstream) == b"hello"


@pytest.mark.parametrize("clock", ["monotonic", "wall"])
async def test_a_connection_that_has_been_idle_for_long_is_not_used(
    client: HttpClient, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(always(answer(b"hello"))) as upstream:
        await whole(client, upstream)
        if clock == "wall":
            later = time.time() + http.IDLE_SECONDS + 1
            monkeypatch.setattr(time, "time", lambda: later)
        else:
            client._idle_seconds = 0.0
        await whole(client, upstream)
        assert [asked.connection for asked in upstream.asked] == [1, 2]
        await asyncio.sleep(0.01)
        assert client.open_connections == 1


async def test_nobody_listens(client: HttpClient) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        upstream = Upstream(port=free.getsockname()[1])
        with pytest.raises(ConnectError, match="no connection"):
            await ask(client, upstream)


async def test_a_connection_that_fails_is_tried_again(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    connect, attempts = loop.create_connection, 0

    async def flaky(*args: Any, **options: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ConnectionRefusedError
        return await connect(*args, **options)

    monkeypatch.setattr(loop, "create_connection", flaky)
    async with serving(always(answer(b"hello"))) as upstream:
        assert await whole(client, upstream) == b"hello"
        assert (attempts, len(upstream.asked)) == (2, 1)


@pytest.mark.parametrize("closed", [1, 2])
async def test_a_new_connection_that_is_closed_before_the_request_is_tried_again_once(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch, closed: int
) -> None:
    connect = client._connect

    async def slow(address: Address) -> http_connection.Connection:
        connection = await connect(address)
        if upstream.connections <= closed:
            await connection.wait_gone()
        return connection

    monkeypatch.setattr(client, "_connect", slow)

    async def handler(peer: Peer) -> None:
        if peer.number > closed:
            await always(answer(b"hello"))(peer)

    async with serving(handler) as upstream:
        if closed == 1:
            assert await whole(client, upstream) == b"hello"
        else:
            with pytest.raises(ConnectError, match="closed at once"):
                await whole(client, upstream)
        assert (upstream.connections, len(upstream.asked)) == (2, 2 - closed)


async def test_a_server_that_does_not_accept(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.05)
    with socket.socket() as deaf, socket.socket() as first:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        first.connect(deaf.getsockname())  # fills the queue
        with pytest.raises(ConnectError, match="TimeoutError"):
            await ask(client, Upstream(port=deaf.getsockname()[1]))


async def test_an_early_answer_ends_the_connection(client: HttpClient) -> None:
    """What is not sent yet of the body would be read as the next request."""

    async def handler(peer: Peer) -> None:
        if peer.number == 1:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(answer(b"too large", status=413))
            await peer.gone()
        else:
            await always(answer(b"hello"))(peer)

    async with serving(handler) as upstream:
        found = await ask(client, upstream, b"x" * (32 * 1024 * 1024))
        assert (found.status, await found.read(limit=100)) == (413, b"too large")
        await upstream.all_gone()
        assert await whole(client, upstream) == b"hello"
        assert upstream.connections == 2


async def test_a_server_that_says_no_more_is_not_sent_the_rest(client: HttpClient) -> None:
    finished = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write_eof()
        await finished.wait()

    async with serving(handler) as upstream:
        with pytest.raises(ConnectionBrokenError):
            await ask(client, upstream, b"x" * (96 * 1024 * 1024))
        async with asyncio.timeout(AT_ONCE):
            while client.open_connections:
                await asyncio.sleep(0.002)
        finished.set()


# ---- time and cancellation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1", CHUNKED_HEAD, CHUNKED_HEAD + chunk(b"x"), answer(b"hello")[:-1]])
async def test_slow_answers(client: HttpClient, sent: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        await peer.gone()

    async with serving(handler) as upstream:
        with pytest.raises(AnswerTimeoutError):
            await whole(client, upstream, seconds=0.05)
        await upstream.all_gone()


async def test_the_time_is_for_the_whole_answer(client: HttpClient) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD)
        while True:
            await peer.send(chunk(b"x"))
            await asyncio.sleep(0.01)

    async with serving(handler) as upstream:
        found = await ask(client, upstream, seconds=0.5)
        with pytest.raises(AnswerTimeoutError):
            await pieces(found)


async def test_no_timer_outlives_its_answer(client: HttpClient) -> None:
    async with serving(always(answer(b"hello"))) as upstream:
        found = await ask(client, upstream, seconds=0.4)
        await asyncio.sleep(0.5)
        assert await found.read(limit=10) == b"hello"
        assert await whole(client, upstream) == b"hello"
        assert upstream.connections == 1


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", CHUNKED_HEAD, CHUNKED_HEAD + chunk(b"x")])
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_cancelling_closes_the_connection(client: HttpClient, sent: bytes, *, in_pieces: bool) -> None:
    reached = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        reached.set()
        await peer.gone()

    async def read(upstream: Upstream) -> None:
        found = await ask(client, upstream)
        await (pieces(found) if in_pieces else found.read(limit=100))

    async with serving(handler) as upstream:
        task = asyncio.create_task(read(upstream))
        await reached.wait()
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.all_gone(seconds=AT_ONCE)
        assert client.open_connections == 0


async def test_cancelling_while_connecting(client: HttpClient) -> None:
    with socket.socket() as deaf, socket.socket() as first:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        first.connect(deaf.getsockname())
        task = asyncio.create_task(ask(client, Upstream(port=deaf.getsockname()[1])))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.open_connections == 0


async def test_closing_an_answer_drops_its_connection(client: HttpClient) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD + chunk(b"x"))
        await peer.gone()

    async with serving(handler) as upstream:
        found = await ask(client, upstream)
        found.close()
        found.close()
        await upstream.all_gone(seconds=AT_ONCE)
        with pytest.raises(TransportError):
            await found.next_piece()


async def test_closing_a_complete_answer_keeps_its_connection(client: HttpClient) -> None:
    async with serving(always(answer(b"hello"))) as upstream:
        for _ in range(2):
            found = await ask(client, upstream)
            found.close()
            assert await found.next_piece() == b""
        assert upstream.connections == 1


async def test_a_slow_reader_makes_the_server_wait(client: HttpClient) -> None:
    size, sent = 64 * 1024, 0
    total = 400 * size

    async def handler(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            await peer.send(b"x" * size)
            sent += size

    async with serving(handler) as upstream:
        found = await ask(client, upstream, seconds=30)
        await asyncio.sleep(0.2)
        before = sent
        await asyncio.sleep(0.2)
        assert before == sent < total
        assert found._buffered < 1024 * 1024
        assert sum(map(len, await pieces(found))) == total


async def test_two_hundred_streams_at_once(client: HttpClient) -> None:
    parts = [f"data: {number}\n\n".encode() for number in range(20)]

    async def handler(peer: Peer) -> None:
        while True:
            name = (await peer.request()).body
            await peer.send(CHUNKED_HEAD)
            for part in parts:
                await peer.send(chunk(name + part))
                await asyncio.sleep(0.001)
            await peer.send(b"0\r\n\r\n")

    async def read(upstream: Upstream, number: int) -> None:
        name = b"%d:" % number
        found = await ask(client, upstream, name, seconds=30)
        if number % 10 == 7:
            await found.next_piece()
            found.close()
        else:
            assert b"".join(await pieces(found)) == b"".join(name + part for part in parts)

    async with serving(handler) as upstream:
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(read(upstream, number))
        assert upstream.connections == 200
        await asyncio.sleep(0.01)
        assert client.open_connections == http.MAX_IDLE
        assert await whole(client, upstream, body=b"x") == b"".join(b"x" + part for part in parts)
        assert upstream.connections == 200


async def test_many_requests_over_few_connections(client: HttpClient) -> None:
    gate = asyncio.Semaphore(5)

    async def handler(peer: Peer) -> None:
        while True:
            asked = await peer.request()
            await asyncio.sleep(0.001)
            await peer.send(answer(asked.body))

    async def one(upstream: Upstream, number: int) -> None:
        async with gate:
            assert await whole(client, upstream, body=b"%d" % number) == b"%d" % number

    async with serving(handler) as upstream:
        await asyncio.gather(*(one(upstream, number) for number in range(300)))
        assert upstream.connections <= 5


def test_one_client_in_several_loops() -> None:
    client = HttpClient()

    async def once() -> None:
        async with serving(always(answer(b"hello"))) as upstream:
            assert await whole(client, upstream) == b"hello"
            assert await whole(client, upstream) == b"hello"
            assert upstream.connections == 1
            await client.aclose()

    for _ in range(2):
        asyncio.run(once())


def test_a_connection_of_another_loop_is_not_used() -> None:
    client = HttpClient()

    async def once(upstream: Upstream) -> bytes:
        return await whole(client, upstream)

    async def again(upstream: Upstream) -> bytes:
        found = await once(upstream)
        await client.aclose()
        gc.collect()
        return found

    close = threading.Event()
    with answering_thread(close) as upstream:
        assert asyncio.run(once(upstream)) == b"hello"
        assert client.open_connections == 1
        with pytest.warns(ResourceWarning, match="unclosed"):
            assert asyncio.run(again(upstream)) == b"hello"
    assert client.open_connections == 0


async def test_the_client_can_be_used_after_it_was_closed(client: HttpClient) -> None:
    async with serving(always(answer(b"hello"))) as upstream:
        await whole(client, upstream)
        waiting = await ask(client, upstream)
        await client.aclose()
        await upstream.all_gone()
        assert await waiting.read(limit=10) == b"hello"  # it had come whole
        assert await whole(client, upstream) == b"hello"


# ---- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-made certificate for 127.0.0.1, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
async def tls_client(certificate: Path) -> AsyncIterator[HttpClient]:
    client = HttpClient(ca_bundle=str(certificate))
    yield client
    await client.aclose()
    assert client.open_connections == 0
    await nothing_left()


async def test_tls(tls_client: HttpClient, server_tls: ssl.SSLContext) -> None:
    content = b"x" * 1_000_000
    async with serving(always(answer(content)), tls=server_tls) as upstream:
        for _ in range(3):
            assert await whole(tls_client, upstream, tls=True, body=content) == content
        assert upstream.connections == 1
        assert b"".join(await pieces(await ask(tls_client, upstream, tls=True))) == content


async def test_a_certificate_that_nobody_knows(client: HttpClient, server_tls: ssl.SSLContext) -> None:
    async with serving(always(answer(b"hello")), tls=server_tls) as upstream:
        with pytest.raises(ConnectError, match="SSLCertVerificationError"):
            await ask(client, upstream, tls=True)
        assert upstream.asked == []


async def test_a_server_that_speaks_no_tls(tls_client: HttpClient) -> None:
    async def handler(peer: Peer) -> None:
        await peer.send(b"220 mail.example ESMTP\r\n")
        await peer.gone()

    async with serving(handler) as upstream:
        with pytest.raises(ConnectError):
            await ask(tls_client, upstream, tls=True)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_tls_stream_that_is_killed_is_noticed_at_once(
    tls_client: HttpClient, server_tls: ssl.SSLContext, how: str
) -> None:
    read = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD + chunk(b"one"))
        await read.wait()
        if how == "reset":
            peer.reset()

    async with serving(handler, tls=server_tls) as upstream:
        found = await ask(tls_client, upstream, tls=True)
        assert await found.next_piece() == b"one"
        started = time.monotonic()
        read.set()
        with pytest.raises(ConnectionBrokenError):
            await found.next_piece()
        assert time.monotonic() - started < AT_ONCE


async def test_cancelling_closes_a_tls_connection(tls_client: HttpClient, server_tls: ssl.SSLContext) -> None:
    reached = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        reached.set()
        await peer.gone()

    async with serving(handler, tls=server_tls) as upstream:
        task = asyncio.create_task(whole(tls_client, upstream, tls=True))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.all_gone(seconds=AT_ONCE)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_kept_tls_connection_that_breaks_is_replaced(
    tls_client: HttpClient, server_tls: ssl.SSLContext, *, reset: bool
) -> None:
    async with serving(breaks_when_used_again(reset=reset), tls=server_tls) as upstream:
        for _ in range(3):
            assert await whole(tls_client, upstream, tls=True) == b"hello"
        assert [asked.connection for asked in upstream.asked] == [1, 1, 2, 2]


def test_the_system_s_certificates_are_trusted() -> None:
    context = http._make_tls_context(None)

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509_ca"] > 50
