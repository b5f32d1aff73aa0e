"""How streams are written: nothing is held back, silence is filled, failures are told, everything is closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from starlette.types import Message

from invoke_proxy.errors import ApiError, openai_error
from invoke_proxy.logs import RequestLog
from invoke_proxy.streams import EventStreamResponse, whole_events

COMMENT = b": keep-alive\n\n"


class Client:
    """Keeps what is sent, with the time."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def pieces(self) -> list[bytes]:
        return [message["body"] for message in self.messages[1:]]

    @property
    def complete(self) -> bool:
        last = self.messages[-1] if self.messages else {"type": ""}
        return last["type"] == "http.response.body" and not last.get("more_body", False)

    def header(self, name: str) -> str:
        return dict(self.messages[0]["headers"]).get(name.encode(), b"").decode()


async def receive() -> Message:
    await asyncio.sleep(3600)
    return {"type": "http.disconnect"}


def response(
    content: AsyncGenerator[bytes, None], *, heartbeat: float = 10.0, log: RequestLog | None = None
) -> EventStreamResponse:
    log = log or RequestLog(request_id="r", route="/x")
    headers = {"x-request-id": "r", "x-modelzone-deployment": "d"}
    return EventStreamResponse(content, error_body=openai_error, log=log, headers=headers, heartbeat=heartbeat)


async def serve(content: AsyncGenerator[bytes, None], **options: Any) -> Client:
    client = Client()
    await response(content, **options)({"type": "http"}, receive, client.send)
    return client


class Source:
    """A generator of events that notes when it is closed."""

    def __init__(self, *parts: bytes | float | Exception) -> None:
        self.parts = parts
        self.closed = False
        self.given = 0

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            for part in self.parts:
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, float):
                    await asyncio.sleep(part)
                    continue
                self.given += 1
                yield part
        finally:
            self.closed = True


async def test_each_event_is_sent_before_the_next_is_asked_for() -> None:
    source = Source(b"1", b"2", b"3")
    seen: list[tuple[bytes, int]] = []

    async def send(message: Message) -> None:
        if message.get("body"):
            seen.append((message["body"], source.given))

    await response(source.events())({"type": "http"}, receive, send)

    assert seen == [(b"1", 1), (b"2", 2), (b"3", 3)]
    assert source.closed


async def test_status_headers_and_end() -> None:
    client = await serve(Source(b"data: x\n\n").events())

    assert client.status == 200
    assert client.header("content-type") == "text/event-stream; charset=utf-8"
    assert client.header("x-modelzone-deployment") == "d"
    assert client.header("content-length") == ""
    assert client.complete
    assert b"".join(client.pieces) == b"data: x\n\n"


async def test_failure_before_the_first_event_is_an_http_error() -> None:
    log = RequestLog(request_id="r", route="/x")
    error = ApiError(status=503, message="m", code="no_capacity", retry_after=30)
    client = await serve(Source(error).events(), log=log)

    assert client.status == 503
    assert client.header("retry-after") == "30"
    assert client.header("content-type") == "application/json"
    assert (client.header("x-request-id"), client.header("x-modelzone-deployment")) == ("r", "d")
    assert json.loads(b"".join(client.pieces))["error"]["code"] == "no_capacity"
    assert client.complete
    assert log.error == "no_capacity"


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ApiError(status=502, message="m", code="stream_failed"), "stream_failed"),
        (ValueError("private"), "internal_error"),
    ],
)
async def test_failure_in_the_middle_is_an_event_and_the_end(
    failure: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(b"data: x\n\n", failure)
    client = await serve(source.events())

    assert client.status == 200
    assert client.complete
    assert json.loads(client.pieces[-1].removeprefix(b"data: "))["error"]["code"] == code
    assert source.closed
    assert "private" not in str([record.__dict__ for record in caplog.records if record.exc_info is None])


async def test_stream_of_nothing_is_an_empty_body() -> None:
    client = await serve(Source().events())

    assert (client.status, client.complete, b"".join(client.pieces)) == (200, True, b"")


async def test_silence_is_filled_with_comments() -> None:
    client = await serve(Source(b"data: x\n\n", 0.35, b"data: y\n\n").events(), heartbeat=0.1)

    comments = client.pieces.count(COMMENT)
    assert 2 <= comments <= 3
    assert [piece for piece in client.pieces if piece not in (COMMENT, b"")] == [b"data: x\n\n", b"data: y\n\n"]


async def test_a_stream_that_flows_has_no_comments() -> None:
    parts: list[bytes | float] = [part for _ in range(10) for part in (b"data: x\n\n", 0.03)]
    client = await serve(Source(*parts).events(), heartbeat=0.2)

    assert COMMENT not in client.pieces


async def test_waiting_for_an_endpoint_sends_the_status_and_comments() -> None:
    client = await serve(Source(0.25, b"data: x\n\n").events(), heartbeat=0.1)

    assert client.status == 200
    assert client.pieces[0] == COMMENT
    assert b"data: x\n\n" in client.pieces


async def test_waiting_in_vain_ends_with_an_error_event() -> None:
    error = ApiError(status=503, message="m", code="no_capacity", retry_after=30)
    client = await serve(Source(0.25, error).events(), heartbeat=0.1)

    assert client.status == 200
    assert client.pieces[0] == COMMENT
    assert json.loads(client.pieces[-1].removeprefix(b"data: "))["error"]["code"] == "no_capacity"
    assert client.complete


async def test_no_comment_follows_the_end() -> None:
    client = await serve(Source(b"data: x\n\n").events(), heartbeat=0.05)
    count = len(client.messages)
    await asyncio.sleep(0.15)

    assert len(client.messages) == count


async def test_client_that_does_not_read_gets_no_comments() -> None:
    """What it has not read is no silence, and must not pile up."""
    client = Client()
    reading = asyncio.Event()

    async def send(message: Message) -> None:
        if message.get("body") == b"data: x\n\n":
            await reading.wait()
        await client.send(message)

    asked = response(Source(b"data: x\n\n").events(), heartbeat=0.05)
    serving = asyncio.create_task(asked({"type": "http"}, receive, send))
    await asyncio.sleep(0.3)
    reading.set()
    await serving

    assert client.pieces.count(COMMENT) == 0


async def test_cancelling_closes_the_source_at_once() -> None:
    source = Source(b"data: x\n\n", 3600.0)
    client = Client()
    serving = asyncio.create_task(response(source.events())({"type": "http"}, receive, client.send))
    await asyncio.sleep(0.01)

    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving

    assert source.closed
    assert not client.complete


async def collect(chunks: list[bytes | Exception], cut: Callable[..., Any] = whole_events) -> tuple[list[bytes], bool]:
    source = Source(*chunks)
    seen: list[bytes] = []
    failed = False
    try:
        async for piece in cut(source.events()):
            seen += [piece]
    except ApiError:
        failed = True
    assert source.closed
    return seen, failed


async def test_bytes_pass_unchanged_and_are_cut_behind_events() -> None:
    seen, _ = await collect([b"data:1\n", b"\ndata:2\n\nda", b"ta:3\r\n\r\n", b"data:4\n\n"])

    assert seen == [b"data:1\n\ndata:2\n\n", b"data:3\r\n\r\n", b"data:4\n\n"]


async def test_what_is_left_at_a_regular_end_is_passed_on() -> None:
    assert await collect([b"data:1\n\n", b"data:2"]) == ([b"data:1\n\n", b"data:2"], False)


async def test_half_an_event_before_a_failure_is_dropped() -> None:
    error = ApiError(status=502, message="m", code="stream_failed")

    assert await collect([b"data:1\n\ndata:{", error]) == ([b"data:1\n\n"], True)


async def test_endless_event_is_not_held_back() -> None:
    seen, _ = await collect([b"x" * 600_000, b"y" * 600_000, b"z"])

    assert [len(piece) for piece in seen] == [1_200_000, 1]
