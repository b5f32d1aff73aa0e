"""Calls to endpoints against a server that speaks SageMaker's wire formats, and breaks them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from unit.upstream_server import (
    STREAM_HEAD,
    Peer,
    Upstream,
    always,
    answer,
    chunk,
    cut,
    event,
    message,
    nothing_left,
    serving,
)

from invoke_proxy.aws import AwsClient
from invoke_proxy.endpoints import runtime as runtime_module
from invoke_proxy.endpoints.call import Call
from invoke_proxy.endpoints.runtime import EndpointRuntime, EndpointStream
from invoke_proxy.errors import ApiError

CALL = Call(request_id="request-7", trace_id="Root=1-67891233-abcdef012345678912345678")
AT_ONCE = 3.0
END = b"0\r\n\r\n"


class Runtimes:
    """Makes runtimes, and closes them."""

    def __init__(self) -> None:
        self.made: list[EndpointRuntime] = []
        self.clients: list[AwsClient] = []

    def __call__(self, upstream: Upstream, *, pause: float = 5, **environ: str) -> EndpointRuntime:
        client = AwsClient(environ=upstream.environ(**environ))
        self.clients.append(client)
        self.made.append(EndpointRuntime(client=client, pause=pause))
        return self.made[-1]

    @property
    def open_connections(self) -> int:
        return sum(client.open_connections for client in self.clients)


@pytest.fixture
async def runtimes() -> AsyncIterator[Runtimes]:
    runtimes = Runtimes()
    yield runtimes
    for made in runtimes.made:
        await made.aclose()
    assert runtimes.open_connections == 0
    await nothing_left()


def error(status: int, code: str, **document: Any) -> bytes:
    headers = {"x-amzn-ErrorType": f"{code}:http://internal.amazon.com/coral/", "Content-Type": "application/json"}
    return answer(json.dumps(document).encode(), status=status, headers=headers)


NO_CAPACITY = error(400, "ValidationError", Message="Inference component c has no capacity to process this request")
NOT_READY = error(429, "ModelNotReadyException", Message="loading")


async def read(stream: EndpointStream) -> list[bytes]:
    return [part async for part in stream]


def streaming(*parts: bytes) -> Callable[[Peer], Awaitable[None]]:
    return always(STREAM_HEAD + b"".join(chunk(part) for part in parts) + END)


# ---- what is sent ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["endpoint-1", "with space/and%slash", "ü"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_requests_are_those_of_boto3(runtimes: Runtimes, name: str, *, streamed: bool) -> None:
    """Path, body and SageMaker's headers; each is signed, and the signature is checked by the contract test."""

    async def handler(peer: Peer) -> None:
        while True:
            asked = await peer.request()
            is_stream = asked.target.endswith("-stream")
            await peer.send(STREAM_HEAD + chunk(event(b"x")) + END if is_stream else answer(b"{}"))

    def by_boto3() -> None:
        client = boto3.session.Session(
            aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="secret", region_name="us-east-1"
        ).client("sagemaker-runtime", endpoint_url=upstream.url, config=Config(retries={"total_max_attempts": 1}))
        call: Any = client.invoke_endpoint_with_response_stream if streamed else client.invoke_endpoint
        found = call(
            EndpointName=name,
            Body=b'{"inputs": "x"}',
            ContentType="application/json",
            Accept="text/event-stream" if streamed else "application/json",
            InferenceId=CALL.request_id,
            CustomAttributes=f"trace_id={CALL.trace_id}",
        )
        assert list(found["Body"]) if streamed else found["Body"].read() == b"{}"
        client.close()

    async with serving(handler) as upstream:
        runtime = runtimes(upstream)
        if streamed:
            await read(await runtime.stream(name, b'{"inputs": "x"}', call=CALL))
        else:
            await runtime.invoke(name, b'{"inputs": "x"}', call=CALL)
        await asyncio.to_thread(by_boto3)
        ours, theirs = upstream.asked

        assert (ours.method, ours.target, ours.body) == (theirs.method, theirs.target, theirs.body)
        own_headers = {"authorization", "x-amz-date", "user-agent", "accept-encoding", "amz-sdk-invocation-id"}
        own_headers |= {"amz-sdk-request", "x-amz-user-agent", "host"}
        assert {name: value for name, value in ours.headers.items() if name not in own_headers} == {
            name: value for name, value in theirs.headers.items() if name not in own_headers
        }
        assert "/us-east-1/sagemaker/aws4_request" in ours.headers["authorization"]


@pytest.mark.parametrize(
    ("call", "inference_id", "attributes"),
    [
        (Call(request_id="r" * 100), "r" * 64, None),
        (Call(request_id=""), None, None),
        (Call(request_id="a b\r\nx-evil: 1ü"), "abx-evil:1", None),
        (Call(request_id="r", trace_id=""), "r", None),
        (Call(request_id="r", trace_id="t\n\x00ü" + "x" * 2000), "r", "trace_id=t" + "x" * 1014),
    ],
)
async def test_ids_are_made_fit_for_headers(
    runtimes: Runtimes, call: Call, inference_id: str | None, attributes: str | None
) -> None:
    async with serving(always(answer(b"{}"))) as upstream:
        await runtimes(upstream).invoke("e", b"{}", call=call)

        headers = upstream.asked[0].headers
        assert headers.get("x-amzn-sagemaker-inference-id") == inference_id
        assert headers.get("x-amzn-sagemaker-custom-attributes") == attributes
        assert "x-evil" not in headers


@pytest.mark.parametrize("value", ["a\r\nb: c", "ü", "\0"])
async def test_a_client_s_content_type_cannot_add_headers(runtimes: Runtimes, value: str) -> None:
    async with serving(always(answer(b"{}"))) as upstream:
        runtime = runtimes(upstream)
        for options in ({"content_type": value, "accept": "a"}, {"content_type": "a", "accept": value}):
            with pytest.raises(ApiError) as caught:
                await runtime.invoke_raw("e", b"", call=CALL, **options)
            assert caught.value.status == 400
            with pytest.raises(ApiError):
                await runtime.stream("e", b"", call=CALL, **options)
        assert upstream.connections == 0


# ---- whole answers --------------------------------------------------------------------------------------------------


async def test_a_whole_answer_and_its_type(runtimes: Runtimes) -> None:
    content = bytes(range(256))
    async with serving(always(answer(content, headers={"Content-Type": "image/png"}))) as upstream:
        runtime = runtimes(upstream)
        found = await runtime.invoke_raw("e", b"\xff", call=CALL, content_type="image/jpeg", accept="image/*")

        assert found == ("image/png", content)
        assert await runtime.invoke("e", b"{}", call=CALL) == content
        assert upstream.connections == 1
        headers = upstream.asked[0].headers
        assert (headers["content-type"], headers["accept"]) == ("image/jpeg", "image/*")


async def test_a_refusal_of_the_container(runtimes: Runtimes) -> None:
    words = json.dumps({"error": "Input validation error: too long", "error_type": "validation"})
    sent = error(424, "ModelError", OriginalStatusCode=422, OriginalMessage=words, Message="Received client error")
    async with serving(always(sent)) as upstream:
        runtime = runtimes(upstream)
        for call in (runtime.invoke, runtime.stream):
            with pytest.raises(ApiError) as caught:
                await call("e", b"{}", call=CALL)
            assert (caught.value.status, caught.value.error_type) == (422, "validation")
            assert caught.value.message == "Input validation error: too long"
        assert upstream.connections == 1


async def test_an_endpoint_that_is_not_there(runtimes: Runtimes) -> None:
    async with serving(always(error(400, "ValidationError", Message="Endpoint e not found."))) as upstream:
        runtime = runtimes(upstream)
        for call in (runtime.invoke, runtime.stream):
            with pytest.raises(ApiError, match="endpoint_not_found"):
                await call("e", b"{}", call=CALL)


async def test_nothing_is_retried_here(runtimes: Runtimes) -> None:
    for sent in (error(400, "ThrottlingException"), NOT_READY, NO_CAPACITY, error(503, "ServiceUnavailable")):
        async with serving(always(sent)) as upstream:
            with pytest.raises(ApiError):
                await runtimes(upstream).invoke("e", b"{}", call=CALL)
            assert len(upstream.asked) == 1


async def test_endpoints_that_do_not_answer(runtimes: Runtimes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "ATTEMPT_SECONDS", 0.05)
    monkeypatch.setattr(runtime_module, "STREAM_SECONDS", 0.05)

    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with serving(silent) as upstream:
        runtime = runtimes(upstream)
        for call in (runtime.invoke, runtime.stream):
            with pytest.raises(ApiError, match="timeout"):
                await call("e", b"{}", call=CALL)


async def test_endpoints_that_close_the_connection(runtimes: Runtimes) -> None:
    async def rude(peer: Peer) -> None:
        await peer.request()

    async with serving(rude) as upstream:
        runtime = runtimes(upstream)
        for call in (runtime.invoke, runtime.stream):
            with pytest.raises(ApiError, match="connection_failed"):
                await call("e", b"{}", call=CALL)


async def test_a_missing_variable_is_named_in_the_log(runtimes: Runtimes, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ApiError, match="endpoint_failed"):
        await runtimes(Upstream(port=1), AWS_ACCESS_KEY_ID="").invoke("e", b"{}", call=CALL)
    (record,) = caplog.records
    assert "AWS_ACCESS_KEY_ID" in vars(record)["fields"]["reason"]


async def test_waiting_for_capacity(runtimes: Runtimes) -> None:
    left = [NO_CAPACITY, NOT_READY, answer(b"at last")]

    async def handler(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(left.pop(0) if left else NO_CAPACITY)

    async with serving(handler) as upstream:
        runtime = runtimes(upstream, pause=0.01)
        assert await runtime.invoke("e", b"{}", call=Call(request_id="r", wait_seconds=5)) == b"at last"
        assert len(upstream.asked) == 3
        started = time.monotonic()
        with pytest.raises(ApiError, match="no_capacity"):
            await runtime.invoke("e", b"{}", call=Call(request_id="r", wait_seconds=0.1))
        assert 0.1 <= time.monotonic() - started < AT_ONCE + 0.1


# ---- streams --------------------------------------------------------------------------------------------------------


async def test_a_stream_in_any_pieces(runtimes: Runtimes) -> None:
    parts = [b"data: one\n\n", b"data: tw", "ö\n\n".encode(), bytes(1000)]
    messages = b"".join(event(part) for part in parts) + event(b"") + event(b"ignored", name="Later")
    framings = [
        [messages],
        [messages[at : at + 1] for at in range(0, len(messages), 1)],
        cut(messages, 5, 50, 51, 300),
    ]
    for framing in framings:
        data = STREAM_HEAD + b"".join(chunk(piece) for piece in framing) + END
        for sent in ([data], [data[at : at + 7] for at in range(0, len(data), 7)]):
            async with serving(always(*sent)) as upstream:
                runtime = runtimes(upstream)
                stream = await runtime.stream("e", b"{}", call=CALL)
                assert stream.content_type == "text/event-stream"
                assert await read(stream) == parts
                assert await anext(stream, None) is None
                assert await read(await runtime.stream("e", b"{}", call=CALL)) == parts
                together = await runtime.stream("e", b"{}", call=CALL)
                found: list[bytes] = []
                while pieces := await together.next_pieces():
                    found += pieces
                assert found == parts
                assert upstream.connections == 1


async def test_a_stream_begins_with_its_head_and_parts_come_at_once(runtimes: Runtimes) -> None:
    more = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD)
        for number in range(3):
            await more.wait()
            more.clear()
            await peer.send(chunk(event(b"%d" % number)))
        await peer.send(END)

    async with serving(handler) as upstream:
        stream = await runtimes(upstream).stream("e", b"{}", call=CALL)
        for number in range(3):
            more.set()
            assert await anext(stream) == b"%d" % number
        assert await anext(stream, None) is None


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (
            event(b'{"ErrorCode": "StreamBroken", "Message": "m"}', kind="exception", name="ModelStreamError"),
            "stream_failed",
        ),
        (event(b'{"Message": "m"}', kind="exception", name="InternalStreamFailure"), "stream_failed"),
        (event(b"", kind="exception", name="ThrottlingException"), "rate_limit_exceeded"),
        (event(b"", kind="error", name="InternalError"), "endpoint_failed"),
        (message({":message-type": "error", ":error-code": "X", ":error-message": "m"}, b""), "endpoint_failed"),
        (message({}, b"no type"), "endpoint_failed"),
        (event(b"x")[:-1] + b"?", "stream_failed"),
        (event(b"x")[:-1], "stream_failed"),
        (b"HTTP/1.1 500 in the middle of it", "stream_failed"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
async def test_streams_that_fail_give_what_came_before(
    runtimes: Runtimes, last: bytes, code: str, *, together: bool
) -> None:
    chunks = (
        chunk(event(b"one") + event(b"two") + last) if together else chunk(event(b"one") + event(b"two")) + chunk(last)
    )
    async with serving(always(STREAM_HEAD + chunks + END)) as upstream:
        stream = await runtimes(upstream).stream("e", b"{}", call=CALL)
        found = [await anext(stream), await anext(stream)]
        for _ in range(2):
            with pytest.raises(ApiError, match=code):
                await anext(stream)
        assert found == [b"one", b"two"]


async def test_a_broken_event_is_noticed_before_more_comes(runtimes: Runtimes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD + chunk(event(b"one") + event(b"x")[:-1] + b"?"))
        await peer.gone()

    async with serving(handler) as upstream:
        stream = await runtimes(upstream).stream("e", b"{}", call=CALL)
        assert await anext(stream) == b"one"
        with pytest.raises(ApiError, match="stream_failed"):
            await asyncio.wait_for(anext(stream), AT_ONCE)
        await upstream.all_gone()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("tail", [b"", b"5\r\nha", chunk(event(b"two")[:20])])
async def test_a_kill_in_the_middle_is_noticed_at_once(runtimes: Runtimes, tail: bytes, *, reset: bool) -> None:
    read_one = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD + chunk(event(b"one")) + tail)
        await read_one.wait()
        if reset:
            peer.reset()

    async with serving(handler) as upstream:
        stream = await runtimes(upstream).stream("e", b"{}", call=CALL)
        assert await anext(stream) == b"one"
        started = time.monotonic()
        read_one.set()
        with pytest.raises(ApiError, match="stream_failed"):
            await anext(stream)
        assert time.monotonic() - started < AT_ONCE


async def test_a_stream_that_takes_too_long(runtimes: Runtimes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "STREAM_SECONDS", 0.5)

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD)
        while True:
            await peer.send(chunk(event(b"x")))
            await asyncio.sleep(0.02)

    async with serving(handler) as upstream:
        stream = await runtimes(upstream).stream("e", b"{}", call=CALL)
        with pytest.raises(ApiError, match="timeout"):
            await read(stream)
        await upstream.all_gone()


@pytest.mark.parametrize("sent", [answer(b"{}"), answer(b"<html>", headers={"Content-Type": "text/html"})])
async def test_an_answer_that_is_no_stream(runtimes: Runtimes, sent: bytes) -> None:
    async with serving(always(sent)) as upstream:
        with pytest.raises(ApiError, match="endpoint_failed"):
            await runtimes(upstream).stream("e", b"{}", call=CALL)


async def endless(peer: Peer) -> None:
    await peer.request()
    await peer.send(STREAM_HEAD + chunk(event(b"one")))
    await peer.gone()


async def test_closing_drops_the_connection_at_once(runtimes: Runtimes) -> None:
    async with serving(endless) as upstream:
        stream = await runtimes(upstream).stream("e", b"{}", call=CALL)
        assert await anext(stream) == b"one"
        stream.close()
        stream.close()
        await upstream.all_gone(seconds=AT_ONCE)
        assert await anext(stream, None) is None
        assert runtimes.open_connections == 0


async def test_closing_a_stream_that_has_ended_keeps_its_connection(runtimes: Runtimes) -> None:
    async with serving(streaming(event(b"x"))) as upstream:
        runtime = runtimes(upstream)
        for _ in range(3):
            stream = await runtime.stream("e", b"{}", call=CALL)
            await read(stream)
            stream.close()
        assert upstream.connections == 1


@pytest.mark.parametrize("when", ["head", "part"])
async def test_cancelling_drops_the_connection_at_once(runtimes: Runtimes, when: str) -> None:
    reached = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        if when == "part":
            await peer.send(STREAM_HEAD)
        reached.set()
        await peer.gone()

    async def both(runtime: EndpointRuntime) -> None:
        await anext(await runtime.stream("e", b"{}", call=CALL))

    async with serving(handler) as upstream:
        task = asyncio.create_task(both(runtimes(upstream)))
        await reached.wait()
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.all_gone(seconds=AT_ONCE)
        assert runtimes.open_connections == 0


async def test_reading_ahead_takes_nothing_away(runtimes: Runtimes) -> None:
    async with serving(streaming(event(b"one"), event(b"two"))) as upstream:
        runtime = runtimes(upstream)
        stream = await runtime.stream("e", b"{}", call=CALL)
        await stream.read_ahead()
        await stream.read_ahead()
        assert await read(stream) == [b"one", b"two"]
    async with serving(streaming()) as upstream:
        stream = await runtimes(upstream).stream("e", b"{}", call=CALL)
        await stream.read_ahead()
        assert await read(stream) == []
    async with serving(streaming(event(b"", kind="exception", name="ModelStreamError"))) as upstream:
        stream = await runtimes(upstream).stream("e", b"{}", call=CALL)
        with pytest.raises(ApiError, match="stream_failed"):
            await stream.read_ahead()


async def test_two_hundred_streams_at_once(runtimes: Runtimes) -> None:
    async def handler(peer: Peer) -> None:
        while True:
            name = (await peer.request()).body
            await peer.send(STREAM_HEAD)
            for number in range(20):
                await peer.send(chunk(event(name + b" %d" % number)))
                await asyncio.sleep(0.001)
            await peer.send(END)

    async def one(runtime: EndpointRuntime, number: int) -> None:
        stream = await runtime.stream("e", b"%d" % number, call=CALL)
        if number % 10 == 3:
            await anext(stream)
            stream.close()
        else:
            assert await read(stream) == [b"%d %d" % (number, part) for part in range(20)]

    async with serving(handler) as upstream:
        runtime = runtimes(upstream)
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(one(runtime, number))
        assert len(upstream.asked) == 200


# ---- hedging --------------------------------------------------------------------------------------------------------

HEDGED = Call(request_id="r", hedge_after_seconds=0.05)


def first_is_slow(*, head: bytes, quick: bytes) -> Callable[[Peer], Awaitable[None]]:
    """The first request gets a head at most; any other the quick answer."""

    async def handler(peer: Peer) -> None:
        while True:
            await peer.request()
            if len(peer.upstream.asked) == 1:
                await peer.send(head)
                await peer.gone()
                return
            await peer.send(quick)

    return handler


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n"])
async def test_a_late_answer_is_asked_for_again(runtimes: Runtimes, head: bytes) -> None:
    async with serving(first_is_slow(head=head, quick=answer(b"quick"))) as upstream:
        assert await runtimes(upstream).invoke("e", b"{}", call=HEDGED) == b"quick"
        assert len(upstream.asked) == 2
        assert upstream.asked[0].body == upstream.asked[1].body
        assert upstream.asked[0].target == upstream.asked[1].target
        async with asyncio.timeout(AT_ONCE):
            while upstream.open > 1:
                await asyncio.sleep(0.002)


@pytest.mark.parametrize("head", [b"", STREAM_HEAD])
async def test_a_late_stream_is_asked_for_again(runtimes: Runtimes, head: bytes) -> None:
    quick = STREAM_HEAD + chunk(event(b"quick")) + END
    async with serving(first_is_slow(head=head, quick=quick)) as upstream:
        stream = await runtimes(upstream).stream("e", b"{}", call=HEDGED)
        assert await read(stream) == [b"quick"]
        assert len(upstream.asked) == 2
        async with asyncio.timeout(AT_ONCE):
            while upstream.open > 1:
                await asyncio.sleep(0.002)


async def test_an_answer_in_time_is_asked_for_once(runtimes: Runtimes) -> None:
    patient = Call(request_id="r", hedge_after_seconds=5)
    async with serving(always(answer(b"{}"))) as upstream:
        assert await runtimes(upstream).invoke("e", b"{}", call=patient) == b"{}"
        assert len(upstream.asked) == 1
    async with serving(streaming(event(b"x"))) as upstream:
        assert await read(await runtimes(upstream).stream("e", b"{}", call=patient)) == [b"x"]
        assert len(upstream.asked) == 1
    async with serving(always(error(400, "ThrottlingException"))) as upstream:
        for call in (runtimes(upstream).invoke, runtimes(upstream).stream):
            with pytest.raises(ApiError, match="rate_limit_exceeded"):
                await call("e", b"{}", call=patient)
        assert len(upstream.asked) == 2


@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelling_drops_both_connections(runtimes: Runtimes, *, streamed: bool) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with serving(handler) as upstream:
        runtime = runtimes(upstream)
        call = runtime.stream if streamed else runtime.invoke
        task: asyncio.Task[Any] = asyncio.ensure_future(call("e", b"{}", call=HEDGED))
        async with asyncio.timeout(5):
            while len(upstream.asked) < 2:
                await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.all_gone(seconds=AT_ONCE)
        assert runtimes.open_connections == 0
