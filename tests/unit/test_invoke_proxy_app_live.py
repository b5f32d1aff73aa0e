"""Behind a real web server: what arrives when, and what happens when one side goes away."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn
from unit.invoke_proxy_world import (
    Gateway,
    Part,
    deployment_entry,
    events_of,
    identity_header,
    openai,
    settings_entry,
    tenant_entry,
    tgi,
)

from invoke_proxy.endpoints.waiting import until_ready
from invoke_proxy.errors import ApiError

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
COMMENT = b": keep-alive\n\n"
NO_CAPACITY = ApiError(status=503, message="m", code="no_capacity", retry_after=30)
_DEFAULTS = dict(until_ready.__kwdefaults__ or {})
# Far below any timeout, far above what a busy machine takes.
AT_ONCE = 2.0


class Answer:
    """An answer as it comes over the wire."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False

    async def head(self) -> None:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}

    async def chunk(self) -> bytes:
        """Return the next chunk; b"" at the regular end."""
        size = int((await self._reader.readline()).strip(), 16)
        data = await self._reader.readexactly(size)
        await self._reader.readexactly(2)
        self.complete = size == 0
        return data

    async def rest(self) -> bytes:
        if "content-length" in self.headers:
            return await self._reader.readexactly(int(self.headers["content-length"]))
        content = b""
        while chunk := await self.chunk():
            content += chunk
        return content

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class Live:
    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self._port = port
        self._answers: list[Answer] = []

    async def ask(self, path: str, body: Any, *, head: bool = True) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        content = json.dumps(body).encode()
        headers = {"host": "gateway", "content-length": str(len(content)), **identity_header()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + content)
        answer = Answer(reader, writer)
        self._answers.append(answer)
        if head:
            await answer.head()
        return answer

    async def close(self) -> None:
        for answer in self._answers:
            answer.writer.close()


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    gateway = Gateway()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # The launcher's settings; logging stays pytest's.
        config = uvicorn.Config(
            gateway.app, http="h11", loop="asyncio", ws="none", lifespan="off", log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        live = Live(gateway, listener.getsockname()[1])
        yield live
        await live.close()
        server.should_exit = True
        async with asyncio.timeout(10):
            await serving
    await gateway.http.aclose()


async def until(condition: Callable[[], bool]) -> float:
    """Wait for something; return how long it took."""
    start = time.monotonic()
    async with asyncio.timeout(AT_ONCE):
        while not condition():
            await asyncio.sleep(0.005)
    return time.monotonic() - start


def paused(pause: float, *, after: int) -> Callable[[dict[str, Any]], list[Part]]:
    """TGI with a pause after so many tokens."""

    def engine(body: dict[str, Any]) -> list[Part]:
        parts = tgi()(body)
        return [*parts[:after], pause, *parts[after:]]

    return engine


def last_line(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    lines = [record.__dict__["fields"] for record in caplog.records if record.message == "request"]
    assert len(lines) == 1
    found: dict[str, Any] = lines[0]
    return found


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate_stream"])
async def test_tokens_are_with_the_client_before_the_engine_goes_on(live: Live, path: str) -> None:
    live.gateway.runtime.engine = paused(3600, after=2)
    body = CHAT if path.startswith("/v1") else {"inputs": "Hi"}

    async with asyncio.timeout(AT_ONCE):
        answer = await live.ask(path, body)
        content = b""
        while b" two" not in content:
            content += await answer.chunk()

    assert b" one" in content
    assert b" three" not in content


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate_stream", "/invocations"])
async def test_client_that_leaves_a_stream_ends_it(live: Live, path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    live.gateway.runtime.engine = paused(3600, after=1)
    body = {**CHAT, "inputs": "Hi"} if path == "/invocations" else CHAT if path.startswith("/v1") else {"inputs": "Hi"}
    answer = await live.ask(path, body)
    await answer.chunk()

    await answer.leave()

    await until(lambda: live.gateway.runtime.streams[0].closed)
    await until(lambda: any(record.message == "request" for record in caplog.records))
    assert (last_line(caplog)["status"], last_line(caplog)["error"]) == (499, "client_disconnected")


async def test_client_that_leaves_before_the_first_token_ends_it(live: Live) -> None:
    live.gateway.runtime.engine = paused(3600, after=0)
    answer = await live.ask("/v1/chat/completions", CHAT, head=False)
    await until(lambda: bool(live.gateway.runtime.streams))
    await asyncio.sleep(0.05)

    await answer.leave()

    await until(lambda: live.gateway.runtime.streams[0].closed)


async def test_client_that_leaves_while_the_whole_answer_is_made_ends_it(
    live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    live.gateway.runtime.engine = lambda _: [3600.0]
    answer = await live.ask("/v1/chat/completions", {**CHAT, "stream": False}, head=False)
    await until(lambda: bool(live.gateway.runtime.raw))

    await answer.leave()

    await until(lambda: live.gateway.runtime.cancelled == 1)
    await until(lambda: any(record.message == "request" for record in caplog.records))
    assert last_line(caplog)["status"] == 499


async def test_client_that_leaves_while_waiting_for_an_endpoint_ends_it(live: Live) -> None:
    live.gateway.gateway = [settings_entry(wait_seconds=300), tenant_entry()]
    live.gateway.runtime.errors = [NO_CAPACITY] * 1000
    answer = await live.ask("/v1/chat/completions", CHAT, head=False)
    await until(lambda: len(live.gateway.runtime.raw) == 1)

    await answer.leave()
    await asyncio.sleep(0.1)

    tasks = [task for task in asyncio.all_tasks() if "until_ready" in str(task.get_stack())]
    assert tasks == []


async def test_upstream_that_dies_is_an_event_and_a_clean_end(live: Live) -> None:
    failure = ApiError(status=502, message="m", code="stream_failed")
    live.gateway.runtime.engine = lambda body: [tgi()(body)[0], failure]

    answer = await live.ask("/v1/chat/completions", CHAT)
    async with asyncio.timeout(AT_ONCE):
        content = await answer.rest()

    assert events_of(content)[-1]["error"]["code"] == "stream_failed"
    assert b"[DONE]" not in content
    assert answer.complete


async def test_connection_is_kept_for_the_next_request(live: Live) -> None:
    answer = await live.ask("/v1/chat/completions", CHAT)
    await answer.rest()
    content = json.dumps({**CHAT, "stream": False}).encode()
    headers = {"host": "x", "content-length": str(len(content)), **identity_header()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    answer.writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + content)
    await answer.head()

    assert answer.status == 200
    assert json.loads(await answer.rest())["object"] == "chat.completion"


# --- an endpoint without an instance ---


async def test_without_waiting_it_is_a_503(live: Live) -> None:
    for stream in (True, False):
        live.gateway.runtime.errors = [NO_CAPACITY]
        answer = await live.ask("/v1/chat/completions", {**CHAT, "stream": stream})
        assert answer.status == 503
        assert 0 < int(answer.headers["retry-after"]) <= 120


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate_stream"])
async def test_stream_waits_with_comments_and_goes_on(live: Live, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr("invoke_proxy.streams.HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("invoke_proxy.endpoints.waiting.until_ready.__kwdefaults__", {**_DEFAULTS, "pause": 0.1})
    live.gateway.gateway = [settings_entry(wait_seconds=60), tenant_entry()]
    live.gateway.runtime.errors = [NO_CAPACITY, ApiError(status=503, message="m", code="model_not_ready")]

    answer = await live.ask(path, CHAT if path.startswith("/v1") else {"inputs": "Hi"})
    first = await answer.chunk()
    content = await answer.rest()

    assert (answer.status, first) == (200, COMMENT)
    assert (events_of(content)[-1] == "[DONE]") == path.startswith("/v1")
    assert b" one" in content
    assert len(live.gateway.runtime.raw) == 3


async def test_stream_that_waits_in_vain_ends_with_an_error_event(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invoke_proxy.streams.HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("invoke_proxy.endpoints.waiting.until_ready.__kwdefaults__", {**_DEFAULTS, "pause": 0.1})
    live.gateway.gateway = [settings_entry(wait_seconds=1), tenant_entry()]
    live.gateway.runtime.errors = [NO_CAPACITY] * 100

    answer = await live.ask("/v1/chat/completions", CHAT)
    content = await answer.rest()

    assert answer.status == 200
    assert content.startswith(COMMENT)
    assert events_of(content)[-1]["error"]["code"] == "no_capacity"
    assert answer.complete


async def test_a_refusal_while_waiting_is_final(live: Live) -> None:
    live.gateway.gateway = [settings_entry(wait_seconds=60), tenant_entry()]
    live.gateway.runtime.errors = [ApiError(status=422, message="too long", code="model_refused")]

    answer = await live.ask("/v1/chat/completions", CHAT)

    assert answer.status == 422
    assert len(live.gateway.runtime.raw) == 1


async def test_whole_answer_waits_silently(live: Live) -> None:
    live.gateway.gateway = [settings_entry(wait_seconds=60), tenant_entry()]
    live.gateway.runtime.errors = [NO_CAPACITY] * 3

    answer = await live.ask("/v1/chat/completions", {**CHAT, "stream": False})

    assert answer.status == 200
    assert (await answer.rest()).startswith(b'{"id"')
    assert len(live.gateway.runtime.raw) == 4


# --- silence and speed ---


async def test_silent_engine_is_covered_by_comments(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invoke_proxy.streams.HEARTBEAT_SECONDS", 0.05)
    live.gateway.runtime.engine = paused(0.3, after=1)

    content = await (await live.ask("/v1/chat/completions", CHAT)).rest()

    assert content.count(COMMENT) >= 3
    assert events_of(content)[-1] == "[DONE]"


async def test_end_of_the_answer_waits_for_nothing(live: Live) -> None:
    """The engine is silent after its last event, and does not close."""
    live.gateway.deployments = [deployment_entry(dialect="vllm-openai")]
    live.gateway.runtime.engine = lambda body: [*openai(lines=False)(body), 3600.0]

    async with asyncio.timeout(AT_ONCE):
        answer = await live.ask("/v1/chat/completions", CHAT)
        content = await answer.rest()

    assert events_of(content)[-1] == "[DONE]"
    assert live.gateway.runtime.streams[0].closed


async def test_client_that_leaves_during_upload_is_no_failure(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    reader, writer = await asyncio.open_connection("127.0.0.1", live._port)
    del reader
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()

    await until(lambda: any(record.message == "request" for record in caplog.records))
    assert (last_line(caplog)["status"], last_line(caplog)["error"]) == (499, "client_disconnected")
