"""Answers that are kept: for the same tenant and request only, in whatever form they are asked for again."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from unit.invoke_proxy_world import (
    FAKE_ENGINES,
    Gateway,
    deployment_entry,
    events_of,
    identity_header,
    settings_entry,
    tenant_entry,
    tgi,
)

from invoke_proxy.errors import ApiError

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    gateway.deployments = [deployment_entry(cache_ttl_seconds="60")]
    gateway.gateway = [
        settings_entry(),
        tenant_entry("default"),
        tenant_entry("other"),
        tenant_entry("none", models=["q"]),
    ]
    yield gateway
    await gateway.http.aclose()


def text_of(answer: Any) -> str:
    if answer.headers["content-type"].startswith("application/json"):
        return str(answer.json()["choices"][0]["message"]["content"])
    chunks = [event for event in events_of(answer.content) if event != "[DONE]"]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("dialect", FAKE_ENGINES)
async def test_hit_is_the_same_answer_in_either_form(
    gateway: Gateway, dialect: str, *, first: bool, second: bool
) -> None:
    gateway.deployments = [deployment_entry(dialect=dialect, cache_ttl_seconds="60")]
    gateway.runtime.engine = FAKE_ENGINES[dialect]

    miss = await gateway.post("/v1/chat/completions", {**CHAT, "stream": first})
    hit = await gateway.post("/v1/chat/completions", {**CHAT, "stream": second})

    assert (miss.headers["x-modelzone-cache"], hit.headers["x-modelzone-cache"]) == ("miss", "hit")
    assert text_of(miss) == text_of(hit) == " one two three."
    assert len(gateway.runtime.raw) == 1
    assert gateway.cache.ttls == [60]
    if second:
        assert events_of(hit.content)[-1] == "[DONE]"


async def test_hit_costs_no_tokens_twice_in_the_log(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    for _ in range(2):
        await gateway.post("/v1/chat/completions", CHAT)

    lines = [record.__dict__["fields"] for record in caplog.records if record.message == "request"]
    assert [line["cache"] for line in lines] == ["miss", "hit"]
    assert [line["completion_tokens"] for line in lines] == [4, 4]


async def test_tgi_routes_share_it(gateway: Gateway) -> None:
    body = {"inputs": "x", "parameters": {"details": True, "max_new_tokens": 9}}

    first = await gateway.post("/generate", body)
    second = await gateway.post("/generate_stream", body)

    assert (first.headers["x-modelzone-cache"], second.headers["x-modelzone-cache"]) == ("miss", "hit")
    assert events_of(second.content)[-1]["generated_text"] == first.json()["generated_text"]
    assert len(gateway.runtime.raw) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "Ho"}]},
        {"max_tokens": 5},
        {"seed": 1},
        {"stop": "x"},
        {"continue_until_stop": True},
    ],
)
async def test_another_request_is_no_hit(gateway: Gateway, change: dict[str, Any]) -> None:
    gateway.deployments = [deployment_entry(dialect="lorax", cache_ttl_seconds="60")]
    await gateway.post("/v1/chat/completions", CHAT)
    other = await gateway.post("/v1/chat/completions", {**CHAT, **change})

    assert other.headers["x-modelzone-cache"] == "miss"


async def test_another_tenant_is_no_hit(gateway: Gateway) -> None:
    await gateway.post("/v1/chat/completions", CHAT)
    other = await gateway.post("/v1/chat/completions", CHAT, headers=identity_header("other"))

    assert other.headers["x-modelzone-cache"] == "miss"


async def test_checks_come_before_the_cache(gateway: Gateway) -> None:
    """What is kept is not given to those who may not ask."""
    await gateway.post("/v1/chat/completions", CHAT)

    assert (await gateway.post("/v1/chat/completions", CHAT, headers=identity_header("none"))).status_code == 404
    assert (await gateway.post("/v1/chat/completions", CHAT, headers=identity_header("stranger"))).status_code == 403
    gateway.gateway[1] = tenant_entry("default", max_output_tokens=3)
    limited = await gateway.post("/v1/chat/completions", CHAT)
    assert limited.headers["x-modelzone-cache"] == "miss"


async def test_what_is_random_is_not_kept(gateway: Gateway) -> None:
    answer = await gateway.post("/v1/chat/completions", {**CHAT, "temperature": 0.5})

    assert "x-modelzone-cache" not in answer.headers
    assert gateway.cache.kept == {}


@pytest.mark.parametrize("stream", [False, True])
async def test_what_broke_off_is_not_kept(gateway: Gateway, *, stream: bool) -> None:
    failure = ApiError(status=502, message="m", code="stream_failed")
    gateway.runtime.engine = lambda body: [*tgi()(body)[: 1 if stream else 0], failure]

    await gateway.post("/v1/chat/completions", {**CHAT, "stream": stream})

    assert gateway.cache.kept == {}


async def test_tool_calls_are_kept_whole(gateway: Gateway) -> None:
    gateway.deployments = [deployment_entry(dialect="vllm-openai", features="chat,tools,usage", cache_ttl_seconds="60")]
    deltas: list[Any] = [
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    ]

    def engine(_: dict[str, Any]) -> list[bytes]:
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
        return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]

    gateway.runtime.engine = engine
    tools = [{"type": "function", "function": {"name": "f"}}]

    await gateway.post("/v1/chat/completions", {**CHAT, "tools": tools, "stream": True})
    hit = (await gateway.post("/v1/chat/completions", {**CHAT, "tools": tools})).json()

    again = await gateway.post("/v1/chat/completions", {**CHAT, "tools": tools, "stream": True})
    parts = [event["choices"][0]["delta"] for event in events_of(again.content)[:-1]]
    assert [part["tool_calls"][0]["function"]["arguments"] for part in parts if "tool_calls" in part] == ['{"a": 1}']
    (call,) = hit["choices"][0]["message"]["tool_calls"]
    assert call == {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert hit["choices"][0]["finish_reason"] == "tool_calls"
