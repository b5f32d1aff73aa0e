"""The AWS services that the gateway calls, as one fast server: SSM, SageMaker's runtime, DynamoDB and S3.

It is written on `asyncio.Protocol`, because in benchmarks it must not be what is measured. It speaks the services' wire
formats and checks that requests are signed, but not the signatures: a contract test compares those with botocore's.
Beside the endpoints it serves a container's own ``/invocations`` (with the plain bytes of the engine), so that it can
stand in a model server's place behind an emulator: the header or the query names no endpoint there, so all go to the
first one.

Run alone, ``python -m tests.gateway.fake_aws --world FILE``, it prints its port and serves until its input closes.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import functools
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from tests.gateway import event_stream
from tests.gateway.engines import embeddings_answer, stream_parts, whole_answer
from tests.gateway.scripts import PLACE, Cut, Failure, Numbered, Script

__all__ = ["FakeAws", "Seen", "in_thread", "serve", "serving"]

_T = TypeVar("_T")
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\n"
    b"x-amzn-sagemaker-content-type: text/event-stream\r\nx-amzn-invoked-production-variant: AllTraffic\r\n"
    b"x-amzn-requestid: 5f0b2a5e-0000-4000-8000-000000000000\r\ntransfer-encoding: chunked\r\n\r\n"
)
_CONTAINER_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_LINGER_OFF = struct.pack("ii", 1, 0)
_JSON_1_0 = "application/x-amz-json-1.0"
_JSON_1_1 = "application/x-amz-json-1.1"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request for an endpoint, as it came."""

    endpoint: str
    stream: bool
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """The JSON of the body."""
        return json.loads(self.raw)


@dataclass
class FakeAws:
    """The state of the fake; tests change it while it serves.

    Attributes
    ----------
    parameters
        SSM: values by name.
    scripts, dialects
        SageMaker: what each endpoint does, and its dialect.
    objects
        S3: contents by ``bucket/key``.
    items
        DynamoDB: items by table and key (the first attribute of ``Key``), as DynamoDB's JSON.
    failures
        Errors that the next calls of a service get: ``ssm``, ``dynamodb``, ``s3``.
    seen, calls, dropped
        Requests for endpoints; names of the other calls; and for each stream whose reader went away, how many parts it
        had got. `counting` may be switched off: then requests are not kept.
    """

    parameters: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, Script] = field(default_factory=dict)
    dialects: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    items: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    failures: dict[str, list[Failure]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    parts_sent: int = 0
    counting: bool = True

    def parameters_under(self, path: str, *, recursive: bool) -> list[dict[str, Any]]:
        """Return SSM's answer for a path."""
        prefix = path.rstrip("/") + "/"
        return [
            {"Name": name, "Type": "String", "Value": value, "Version": 1, "LastModifiedDate": 1.7e9}
            for name, value in sorted(self.parameters.items())
            if name.startswith(prefix) and (recursive or "/" not in name[len(prefix) :])
        ]


@functools.lru_cache(maxsize=64)
def _numbered_parts(dialect: str, tokens: int, shape: str) -> tuple[bytes, ...]:
    said = Numbered(tokens=tokens, pace=0, cut=None).said()
    return tuple(stream_parts(dialect, said, json.loads(shape)))


def _shape(body: Mapping[str, Any]) -> str:
    """Return what of a request decides how an answer looks, without its text."""
    kept: dict[str, Any] = {name: body[name] for name in ("logprobs", "top_logprobs", "stream_options") if name in body}
    kept |= {name: [] for name in ("messages", "prompt") if name in body}
    if isinstance(body.get("parameters"), dict):
        kept["parameters"] = {k: v for k, v in body["parameters"].items() if k in {"details", "top_n_tokens"}}
    return json.dumps(kept, sort_keys=True)


@dataclass(frozen=True)
class _Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection: requests one after the other, and at most one stream that is being written."""

    def __init__(self, aws: FakeAws, connected: set[_Connection]) -> None:
        self._aws = aws
        self._connected = connected
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._busy = False
        self._stream: _Stream | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._connected.add(self)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connected.discard(self)
        if self._stream is not None:
            self._stream.reader_gone()

    def pause_writing(self) -> None:
        if self._stream is not None:
            self._stream.paused = True

    def resume_writing(self) -> None:
        if self._stream is not None:
            self._stream.resume()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._next()

    def _next(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", "0"))
        if len(self._buffer) < end + 4 + size:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + size])
        del self._buffer[: end + 4 + size]
        method, target, _ = first.split(" ")
        self._busy = True
        self._route(_Request(method, target, headers, body))

    def done(self) -> None:
        """Go on with the next request."""
        self._stream = None
        self._busy = False
        if self._buffer:
            self._next()

    # -- answers

    def reply(self, status: int, body: bytes, *, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer in one piece."""
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n{more}content-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.done()

    def _fail(self, failure: Failure, *, content_type: str = "application/json") -> None:
        body = json.dumps({"__type": failure.code, **failure.detail}).encode()
        self.reply(failure.status, body, content_type=content_type, headers={"x-amzn-errortype": failure.code})

    # -- services

    def _route(self, request: _Request) -> None:
        target = request.headers.get("x-amz-target", "")
        path = unquote(urlsplit(request.target).path)
        if path in {"/ping", "/health"}:
            self.reply(200, b"", content_type="text/plain")
        elif path == "/invocations":
            self._invoke(next(iter(self._aws.scripts)), request, stream=None)
        elif not request.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 Credential="):
            self._fail(Failure(status=403, code="MissingAuthenticationTokenException"))
        elif target.startswith("AmazonSSM."):
            self._ssm(target, json.loads(request.body))
        elif target.startswith("DynamoDB_20120810."):
            self._dynamodb(target, json.loads(request.body))
        elif path.startswith("/endpoints/"):
            endpoint, _, operation = path.removeprefix("/endpoints/").partition("/")
            self._invoke(endpoint, request, stream=operation == "invocations-response-stream")
        else:
            self._s3(request.method, path.lstrip("/"))

    def _planned(self, service: str) -> Failure | None:
        waiting = self._aws.failures.get(service)
        return waiting.pop(0) if waiting else None

    def _ssm(self, target: str, asked: Mapping[str, Any]) -> None:
        self._aws.calls.append(target)
        if failure := self._planned("ssm"):
            self._fail(failure, content_type=_JSON_1_1)
            return
        found = self._aws.parameters_under(asked["Path"], recursive=asked.get("Recursive", False))
        # SSM answers ten at most.
        start, size = int(asked.get("NextToken") or 0), min(asked.get("MaxResults") or 10, 10)
        answer: dict[str, Any] = {"Parameters": found[start : start + size]}
        if start + size < len(found):
            answer["NextToken"] = str(start + size)
        self.reply(200, json.dumps(answer).encode(), content_type=_JSON_1_1)

    def _dynamodb(self, target: str, asked: Mapping[str, Any]) -> None:
        self._aws.calls.append(target)
        if failure := self._planned("dynamodb"):
            self._fail(failure, content_type=_JSON_1_0)
            return
        table = self._aws.items.setdefault(asked["TableName"], {})
        answer: dict[str, Any] = {}
        if target.endswith(".GetItem"):
            ((_, key),) = asked["Key"].items()
            if (item := table.get(key["S"])) is not None:
                answer = {"Item": item}
        elif target.endswith(".PutItem"):
            item = asked["Item"]
            for value in item.values():
                if "B" in value:
                    base64.b64decode(value["B"], validate=True)
            key = item.get("cache_key") or item["key_id"]
            table[key["S"]] = item
        else:
            self._fail(Failure(status=400, code="UnknownOperationException"), content_type=_JSON_1_0)
            return
        self.reply(200, json.dumps(answer).encode(), content_type=_JSON_1_0)

    def _s3(self, method: str, name: str) -> None:
        self._aws.calls.append(f"S3.{method}")
        failure = self._planned("s3")
        content = self._aws.objects.get(name)
        if failure is None and content is None:
            failure = Failure(status=404, code="NoSuchKey")
        if failure is not None:
            text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{failure.code}</Code></Error>'
            self.reply(failure.status, text.encode(), content_type="application/xml")
        elif content is not None:
            self.reply(200, content, content_type="binary/octet-stream", headers={"ETag": '"0"'})

    def _invoke(self, endpoint: str, request: _Request, *, stream: bool | None) -> None:
        container = stream is None
        body = json.loads(request.body) if request.body[:1] in b"{[" and request.body else {}
        if stream is None:
            stream = bool(body.get("stream"))
        if self._aws.counting:
            seen = Seen(endpoint=endpoint, stream=stream, headers=request.headers, raw=request.body)
            self._aws.seen.append(seen)
        script = self._aws.scripts.get(endpoint)
        if script is None:
            detail = {"message": f"Endpoint {endpoint} of account 123456789012 not found."}
            self._fail(Failure(status=400, code="ValidationError", detail=detail))
            return
        delay = script.next_delay()
        if (failure := script.failure()) is not None:
            self._later(delay, functools.partial(self._fail, failure))
            return
        dialect = self._aws.dialects.get(endpoint, "tgi-generate")
        wish = Numbered.find(request.body)
        if not stream:
            answer = self._whole(script, dialect, wish, body)
            reply = functools.partial(self.reply, 200, answer, content_type="application/json")
            self._later(delay, reply)
            return
        if wish is not None:
            parts: list[bytes] = list(_numbered_parts(dialect, wish.tokens, _shape(body)))
            plan = _Plan(parts, pace=wish.pace, cut=wish.cut, first_delay=script.first_delay, stamped=True)
        else:
            parts = list(script.parts) if script.parts is not None else stream_parts(dialect, script.next_said(), body)
            if script.split:
                whole = b"".join(parts)
                parts = [whole[at : at + script.split] for at in range(0, len(whole), script.split)]
            plan = _Plan(parts, pace=script.pace, cut=script.cut, first_delay=script.first_delay, stamped=False)
        self._stream = _Stream(self, self._aws, plan, framed=not container)
        self._later(delay, self._stream.start)

    @staticmethod
    def _whole(script: Script, dialect: str, wish: Numbered | None, body: Mapping[str, Any]) -> bytes:
        if script.answer is not None:
            return script.answer
        if script.embeds:
            return embeddings_answer(body)
        return whole_answer(dialect, wish.said() if wish else script.next_said(), body)

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        if delay:
            self._loop.call_later(delay, self._unless_gone, action)
        else:
            action()

    def _unless_gone(self, action: Callable[[], None]) -> None:
        if not self.transport.is_closing():
            action()


@dataclass(frozen=True)
class _Plan:
    parts: list[bytes]
    pace: float
    cut: Cut | None
    first_delay: float
    stamped: bool


class _Stream:
    """One streamed answer, written at its pace."""

    def __init__(self, connection: _Connection, aws: FakeAws, plan: _Plan, *, framed: bool) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._aws = aws
        self._plan = plan
        self._framed = framed
        self._loop = asyncio.get_running_loop()
        self._sent = 0
        self._due = 0.0
        self._waiting: asyncio.TimerHandle | None = None
        self._over = False
        self.paused = False

    def start(self) -> None:
        """Send the head, and then the parts when they are due."""
        self._transport.write(_STREAM_HEAD if self._framed else _CONTAINER_HEAD)
        self._due = self._loop.time() + self._plan.first_delay
        if self._plan.first_delay:
            self._waiting = self._loop.call_at(self._due, self._write)
        else:
            self._write()

    def resume(self) -> None:
        """Go on writing after the reader had fallen behind."""
        if self.paused:
            self.paused = False
            if self._waiting is None and not self._over:
                self._write()

    def reader_gone(self) -> None:
        """Note that the connection was closed by the other side before the end."""
        if self._waiting is not None:
            self._waiting.cancel()
        if not self._over:
            self._over = True
            self._aws.dropped.append(self._sent)

    def _write(self) -> None:
        self._waiting = None
        plan, cut = self._plan, self._plan.cut
        while not self.paused:
            if cut is not None and self._sent >= cut.after:
                self._break(cut)
                return
            if self._sent >= len(plan.parts):
                self._end()
                return
            part = plan.parts[self._sent]
            if plan.stamped:
                part = part.replace(PLACE, b"%019d" % time.monotonic_ns(), 1)
            self._chunk(event_stream.message(part) if self._framed else part)
            self._sent += 1
            self._aws.parts_sent += 1
            if plan.pace and (cut is not None or self._sent < len(plan.parts)):
                self._due += plan.pace
                self._waiting = self._loop.call_at(self._due, self._write)
                return

    def _chunk(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _end(self) -> None:
        self._over = True
        self._transport.write(b"0\r\n\r\n")
        self._connection.done()

    def _break(self, cut: Cut) -> None:
        self._over = True
        if cut.how == "reset":
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
            self._transport.abort()
        elif cut.how == "close":
            self._transport.close()
        else:
            if cut.how == "exception":
                self._chunk(event_stream.exception_message(cut.code, json.dumps(dict(cut.detail)).encode()))
            self._end()


@contextlib.asynccontextmanager
async def serve(aws: FakeAws, *, port: int = 0) -> AsyncIterator[int]:
    """Serve on this loop and yield the port; at the end all connections are dropped."""
    connected: set[_Connection] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(aws, connected), "127.0.0.1", port, backlog=1024, reuse_address=True
    )
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for connection in tuple(connected):
            connection.transport.abort()
        await asyncio.sleep(0)


@contextlib.contextmanager
def serving(aws: FakeAws) -> Iterator[str]:
    """Serve in a thread of this process and yield the URL."""
    with in_thread(serve(aws)) as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def in_thread(service: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
    """Run an asynchronous service on a loop in a thread, and yield what it yields."""
    loop = asyncio.new_event_loop()
    started: Future[_T] = Future()
    stop = asyncio.Event()

    async def run() -> None:
        try:
            async with service as value:
                started.set_result(value)
                await stop.wait()
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
            raise

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield started.result(10)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def main() -> None:
    """Serve the world of a file (`parameters`, and `dialects` by endpoint) until the standard input closes.

    With a model's folder it is a container, which serves until it is ended.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model-dir", help="what a model server is given; not read")
    parser.add_argument("--world", required=True, type=Path)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args()
    world = json.loads(options.world.read_text(encoding="utf-8"))
    aws = FakeAws(parameters=world["parameters"], dialects=world["dialects"], counting=False)
    aws.scripts = {endpoint: Script() for endpoint in world["dialects"]}

    async def run() -> None:
        async with serve(aws, port=options.port) as port:
            sys.stdout.write(f"{port}\n")
            sys.stdout.flush()
            await (asyncio.Event().wait() if options.model_dir else asyncio.to_thread(sys.stdin.read))

    asyncio.run(run())


if __name__ == "__main__":
    main()
