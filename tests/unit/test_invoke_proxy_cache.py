"""Answers that are kept: by which key, in which form, and that no failure of the table is one of the gateway."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
from dataclasses import replace
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from invoke_proxy import cache as module
from invoke_proxy.cache import MAX_ITEM_BYTES, PAUSE_SECONDS, PUT_SECONDS, CachedAnswer, ResponseCache
from invoke_proxy.generation import Alternative, Answer, Finish, Generation, Token, ToolCall
from invoke_proxy.registry import Deployment

GENERATION = Generation(stream=False, prompt="a private prompt", temperature=0.0, max_tokens=5)
ANSWER = Answer(
    text="a text",
    finish=Finish(reason="stop", engine_reason="eos_token", completion_tokens=2, prompt_tokens=0, seed=3),
    tokens=(
        Token(text="a", id=0, logprob=0.0, alternatives=(Alternative(text="b", logprob=-1.5),)),
        Token(text="</s>", special=True),
    ),
    tool_calls=(ToolCall(index=0, id="c", name="f", arguments="{}"),),
)
DEPLOYMENT = Deployment(
    deployment="mixtral",
    model_id="acme/model",
    endpoint_name="endpoint",
    engine="tgi-neuronx",
    engine_version="0.0.25",
    dialect="tgi-generate",
    chat_template="",
    max_input_tokens=10,
    max_total_tokens=20,
    registered=1,
    cache_ttl_seconds=60,
    artifact="s3://models/a/",
)


class Table:
    """DynamoDB, from memory; requests are checked against the API's own description."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.error: Exception | None = None
        self.delay = 0.0
        self.calls: list[str] = []
        self._model = botocore.session.get_session().get_service_model("dynamodb")

    async def json(self, service: str, target: str, document: dict[str, Any]) -> dict[str, Any]:
        prefix, _, operation = target.partition(".")
        assert (service, prefix) == ("dynamodb", self._model.metadata["targetPrefix"])
        shape = self._model.operation_model(operation).input_shape
        given = json.loads(json.dumps(document))
        if "Item" in given:
            given["Item"]["answer"]["B"] = base64.b64decode(given["Item"]["answer"]["B"], validate=True)
        report = ParamValidator().validate(given, shape)
        assert not report.has_errors(), report.generate_report()
        assert document["TableName"] == "answers"
        self.calls.append(operation)
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        if operation == "PutItem":
            self.items[document["Item"]["cache_key"]["S"]] = document["Item"]
            return {}
        item = self.items.get(document["Key"]["cache_key"]["S"])
        return {"Item": item} if item else {}


class Clock:
    now = 1000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(table: Table, clock: Clock) -> ResponseCache:
    return ResponseCache(table, "answers", clock=clock)


def key(
    cache: ResponseCache, body: Any = GENERATION, *, tenant: str = "blue", route: str = "chat", **changed: Any
) -> Any:
    return cache.key(tenant, replace(DEPLOYMENT, **changed), route, body)


async def test_an_answer_comes_back_until_it_expires(cache: ResponseCache, clock: Clock) -> None:
    name = key(cache)
    assert await cache.get(name) is None
    await cache.put(name, CachedAnswer(answer=ANSWER, requests=2), 60)

    assert await cache.get(name) == CachedAnswer(answer=ANSWER, requests=2)
    clock.now += 59
    assert await cache.get(name) is not None
    clock.now += 1
    assert await cache.get(name) is None, "expired, though DynamoDB has not deleted it yet"


async def test_the_table_has_no_prompt(cache: ResponseCache, table: Table) -> None:
    name = key(cache)
    await cache.put(name, CachedAnswer(answer=ANSWER), 60)

    assert len(name) == 64
    assert "private" not in json.dumps(table.items)


def test_only_deterministic_requests_have_a_key(cache: ResponseCache) -> None:
    assert key(cache, {"temperature": 0}) is not None
    assert key(cache, {"temperature": 0.0, "seed": None}) is not None
    assert key(cache, {"temperature": 1.0, "seed": 0}) is not None
    assert key(cache, {"temperature": 1.0}) is None
    assert key(cache, {"temperature": None}) is None, "what the engine does by itself is not known"
    assert key(cache, {}) is None


def test_only_deployments_that_ask_for_it_are_cached(cache: ResponseCache, table: Table) -> None:
    assert key(cache, cache_ttl_seconds=0) is None
    assert key(ResponseCache(table, None)) is None
    assert key(ResponseCache(table, "")) is None


def test_a_key_is_the_tenant_s_the_deployment_s_and_the_request_s(cache: ResponseCache) -> None:
    """Whatever could change the answer changes the key; each variation differs from all others."""
    keys = [
        key(cache),
        key(cache, tenant="red"),
        key(cache, route="completions"),
        key(cache, deployment="other"),
        key(cache, model_id="other/model"),
        key(cache, artifact="s3://models/b/"),
        key(cache, engine_version="0.0.26"),
        key(cache, replace(GENERATION, prompt="another prompt")),
        key(cache, replace(GENERATION, prompt=None, messages=({"role": "user", "content": "a private prompt"},))),
        key(cache, replace(GENERATION, max_tokens=6)),
        key(cache, replace(GENERATION, seed=1)),
        key(cache, replace(GENERATION, stop=("x",))),
        key(cache, replace(GENERATION, logprobs=True)),
        key(cache, {**vars(GENERATION), "max_continuations": 2}),
    ]

    assert len(set(keys)) == len(keys)
    assert None not in keys


def test_a_key_does_not_depend_on_delivery_or_order(cache: ResponseCache) -> None:
    same = [
        key(cache),
        key(cache, replace(GENERATION, stream=True, max_tokens_param="max_completion_tokens")),
        key(cache, dict(reversed(vars(GENERATION).items()))),
        key(cache, endpoint_name="moved", registered=9, cache_ttl_seconds=9),
    ]

    assert len(set(same)) == 1


@given(
    text=st.text(),
    logprob=st.none() | st.floats(max_value=0, allow_nan=False, allow_infinity=False),
    special=st.booleans(),
    number=st.none() | st.integers(min_value=0, max_value=200_000),
    count=st.none() | st.integers(min_value=0),
)
def test_every_answer_survives(
    text: str, logprob: float | None, special: bool, number: int | None, count: int | None
) -> None:
    kept = CachedAnswer(
        answer=Answer(
            text=text,
            finish=Finish(reason="length", completion_tokens=count),
            tokens=(Token(text=text, id=number, logprob=logprob, special=special),),
        )
    )

    assert CachedAnswer.from_bytes(kept.to_bytes()) == kept


async def test_what_dynamodb_would_refuse_is_not_sent(cache: ResponseCache, table: Table) -> None:
    noise = base64.b64encode(os.urandom(MAX_ITEM_BYTES)).decode()
    await cache.put(key(cache), CachedAnswer(answer=replace(ANSWER, text=noise)), 60)
    assert table.calls == []
    await cache.put(key(cache), CachedAnswer(answer=replace(ANSWER, text="a" * 10_000_000)), 60)
    assert table.calls == ["PutItem"], "it counts what it takes when compressed"


async def test_no_failure_reaches_the_request(
    cache: ResponseCache, table: Table, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    table.error = OSError("a private prompt")
    with caplog.at_level(logging.WARNING, logger="invoke_proxy"):
        await cache.put(key(cache), CachedAnswer(answer=ANSWER), 60)
        clock.now += PAUSE_SECONDS
        assert await cache.get(key(cache)) is None
    assert [record.message for record in caplog.records] == ["cache not writable", "cache not readable"]
    assert [vars(record)["fields"] for record in caplog.records] == [{"error": "OSError"}] * 2


async def test_a_slow_table_is_not_waited_for(
    cache: ResponseCache, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GET_SECONDS", 0.01)
    table.delay = 60

    assert await cache.get(key(cache)) is None


async def test_a_table_that_failed_is_left_alone_for_a_while(
    cache: ResponseCache, table: Table, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every request waits for it, twice."""
    monkeypatch.setattr(module, "GET_SECONDS", 0.01)
    table.delay = 60
    for _ in range(3):
        assert await cache.get(key(cache)) is None
        await cache.put(key(cache), CachedAnswer(answer=ANSWER), 60)
    assert table.calls == ["GetItem"]
    table.delay = 0
    clock.now += PAUSE_SECONDS
    await cache.put(key(cache), CachedAnswer(answer=ANSWER), 60)
    assert await cache.get(key(cache)) is not None


async def test_a_clock_that_is_set_back_ends_the_pause(cache: ResponseCache, table: Table, clock: Clock) -> None:
    table.error = OSError()
    assert await cache.get(key(cache)) is None
    clock.now -= 1000
    assert await cache.get(key(cache)) is None
    assert len(table.calls) == 2


async def test_an_answer_waits_for_the_table_a_moment_only(
    cache: ResponseCache, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PUT_SECONDS <= 1
    monkeypatch.setattr(module, "PUT_SECONDS", 0.01)
    table.delay = 60
    async with asyncio.timeout(5):
        await cache.put(key(cache), CachedAnswer(answer=ANSWER), 60)
    assert table.calls == ["PutItem"]


async def test_one_broken_answer_is_no_failure_of_the_table(cache: ResponseCache, table: Table, clock: Clock) -> None:
    table.items["a"] = {"cache_key": {"S": "a"}, "expires": {"N": str(clock.now + 60)}, "answer": {"B": ""}}
    assert await cache.get("a") is None
    await cache.put("b", CachedAnswer(answer=ANSWER), 60)
    assert await cache.get("b") is not None


@pytest.mark.parametrize("data", [b"", b"nonsense", CachedAnswer(answer=ANSWER).to_bytes()[:-5]])
async def test_what_is_no_answer_is_none(cache: ResponseCache, table: Table, clock: Clock, data: bytes) -> None:
    name = key(cache)
    table.items[name] = {
        "cache_key": {"S": name},
        "expires": {"N": str(clock.now + 60)},
        "answer": {"B": base64.b64encode(data).decode()},
    }

    assert await cache.get(name) is None


async def test_without_a_table_nothing_is_asked(table: Table) -> None:
    cache = ResponseCache(table, None)
    await cache.put("x", CachedAnswer(answer=ANSWER), 60)

    assert await cache.get("x") is None
    assert table.calls == []
