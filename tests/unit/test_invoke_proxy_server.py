"""The head of an answer goes out with what follows it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from invoke_proxy.server import JoinedTransport

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Sink:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> str:
        return f"of the transport: {name}"


def joined() -> tuple[Sink, Any]:
    sink = Sink()
    return sink, JoinedTransport(cast("asyncio.Transport", sink), asyncio.get_running_loop())


async def test_head_and_body_are_one_write() -> None:
    sink, transport = joined()
    transport.write(HEAD)
    assert sink.writes == []
    transport.write(b"body")
    transport.write(b"more")
    await asyncio.sleep(0)

    assert sink.writes == [HEAD + b"body", b"more"]


async def test_a_head_alone_is_written_in_the_next_turn() -> None:
    sink, transport = joined()
    transport.write(HEAD)
    await asyncio.sleep(0)
    assert sink.writes == [HEAD]
    transport.write(b"body")

    assert sink.writes == [HEAD, b"body"]


async def test_two_answers_without_bodies_keep_their_order() -> None:
    sink, transport = joined()
    transport.write(HEAD)
    transport.write(HEAD + b"2")
    await asyncio.sleep(0)

    assert b"".join(sink.writes) == HEAD + HEAD + b"2"


async def test_closing_loses_nothing() -> None:
    sink, transport = joined()
    transport.write(HEAD)
    transport.close()
    await asyncio.sleep(0)

    assert (sink.writes, sink.closed, transport.is_closing()) == ([HEAD], True, True)


async def test_everything_else_is_the_transports() -> None:
    _, transport = joined()

    assert transport.get_extra_info("socket") == "of the transport: socket"
