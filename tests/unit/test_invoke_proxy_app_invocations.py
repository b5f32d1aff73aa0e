"""SageMaker's route: bytes both ways."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from unit.invoke_proxy_world import Gateway, Part, deployment_entry, events_of, settings_entry, tenant_entry

from invoke_proxy.errors import ApiError


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    gateway.deployments = [deployment_entry("a"), deployment_entry("b")]
    gateway.gateway = [settings_entry(aliases={"x": "b"}, default_model="a"), tenant_entry()]
    gateway.runtime.engine = lambda _: [b"\x00\xffanswer"]
    yield gateway
    await gateway.http.aclose()


async def test_bytes_pass_both_ways(gateway: Gateway) -> None:
    gateway.runtime.kind = "image/png"
    body = b"\xff\x00 not JSON"

    answer = await gateway.post("/invocations", content=body, headers={"content-type": "x/y", "accept": "image/*"})

    assert (answer.status_code, answer.content) == (200, b"\x00\xffanswer")
    assert answer.headers["content-type"] == "image/png"
    assert gateway.runtime.raw == [body]
    assert gateway.runtime.headers == {"content-type": "x/y", "accept": "image/*"}
    assert answer.headers["x-modelzone-deployment"] == "a"


async def test_json_is_the_default(gateway: Gateway) -> None:
    await gateway.post("/invocations", content=b"{}")

    assert gateway.runtime.headers == {"content-type": "application/json", "accept": "application/json"}


@pytest.mark.parametrize(
    ("query", "header", "expected"),
    [("?model=x", None, "b"), ("", "x", "b"), ("?model=a", "b", "b"), ("", None, "a")],
)
async def test_model_comes_from_header_query_or_default(
    gateway: Gateway, query: str, header: str | None, expected: str
) -> None:
    headers = {} if header is None else {"x-modelzone-model": header}

    answer = await gateway.post(f"/invocations{query}", content=b'{"model": "nothing"}', headers=headers)

    assert answer.headers["x-modelzone-deployment"] == expected
    assert gateway.runtime.endpoints == [f"endpoint-{expected}"]


async def test_streams_pass_as_they_come(gateway: Gateway) -> None:
    gateway.runtime.engine = lambda _: [b"1", b"2", b"3"]

    answer = await gateway.post("/invocations", {"stream": True, "model": "ignored"})

    assert answer.content == b"123"
    assert answer.headers["content-type"] == "text/event-stream"
    assert gateway.runtime.headers["accept"] == "text/event-stream"
    assert gateway.runtime.streams[0].closed


@pytest.mark.parametrize("body", [b'{"stream": false}', b'{"stream": "true"}', b'["stream", true]', b'"stream": true'])
async def test_only_true_is_a_stream(gateway: Gateway, body: bytes) -> None:
    await gateway.post("/invocations", content=body)

    assert gateway.runtime.streams == []
    assert gateway.runtime.raw == [body]


async def test_failure_before_the_first_byte_is_an_http_error(gateway: Gateway) -> None:
    failure = ApiError(status=503, message="m", code="no_capacity", retry_after=30)
    gateway.runtime.engine = lambda _: [failure]

    answer = await gateway.post("/invocations", {"stream": True})

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_capacity")
    assert gateway.runtime.streams[0].closed


@pytest.mark.parametrize("kind", ["text/event-stream", "application/jsonlines"])
async def test_failure_in_the_middle_is_told_in_the_stream_s_form(
    gateway: Gateway, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unit.invoke_proxy_world.FakeStream.content_type", kind)
    parts: list[Part] = [b'{"a": 1}\n{"b"', ApiError(status=502, message="m", code="stream_failed")]
    gateway.runtime.engine = lambda _: parts

    answer = await gateway.post("/invocations", {"stream": True})

    assert answer.status_code == 200
    last = events_of(answer.content)[-1] if kind == "text/event-stream" else json.loads(answer.text.splitlines()[-1])
    assert last["error"]["code"] == "stream_failed"
    assert gateway.runtime.streams[0].closed


async def test_limit_that_cannot_be_kept_closes_the_route(gateway: Gateway) -> None:
    gateway.gateway[1] = tenant_entry(max_output_tokens=10)

    answer = await gateway.post("/invocations", {"x": 1})

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "route_not_allowed")
    assert gateway.runtime.raw == []


async def test_failure_of_our_own_in_the_middle_ends_the_stream(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.runtime.engine = lambda _: [b"data: 1\n\n", RuntimeError("private")]

    answer = await gateway.post("/invocations", {"stream": True})

    assert events_of(answer.content)[-1]["error"]["code"] == "internal_error"
    assert "private" not in answer.text
    assert "stream failed" in caplog.text
