"""The routes with engines behind them: what goes to the endpoint, what comes back, what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from unit.invoke_proxy_world import (
    FAKE_ENGINES,
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

from invoke_proxy import logs
from invoke_proxy.endpoints.runtime import MAX_BODY_BYTES
from invoke_proxy.errors import ApiError

PROMPT = "a very private prompt"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}]}
GENERATING = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": PROMPT},
    "/generate": {"inputs": PROMPT},
}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    yield gateway
    await gateway.http.aclose()


def text_of(path: str, document: Any) -> str:
    if path == "/generate":
        return str(document["generated_text"])
    choice = document["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def streamed_text(path: str, content: bytes) -> str:
    events = events_of(content)
    if path == "/generate":
        texts = [event["token"]["text"] for event in events if not event["token"]["special"]]
        assert "".join(texts) == events[-1]["generated_text"]
        return "".join(texts)
    assert events[-1] == "[DONE]"
    choices = [choice for event in events[:-1] for choice in event["choices"]]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)


async def test_health_needs_nothing(gateway: Gateway) -> None:
    gateway.gateway = []
    answer = await gateway.get("/health", headers={"x-amzn-request-context": ""})

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("dialect", FAKE_ENGINES)
@pytest.mark.parametrize("path", GENERATING)
async def test_every_route_over_every_dialect(gateway: Gateway, path: str, dialect: str) -> None:
    gateway.deployments = [deployment_entry(dialect=dialect)]
    gateway.runtime.engine = FAKE_ENGINES[dialect]
    body = GENERATING[path]

    whole = await gateway.post(path, body)
    stream = await gateway.post("/generate_stream" if path == "/generate" else path, {**body, "stream": True})

    assert (whole.status_code, stream.status_code) == (200, 200), (whole.text, stream.text)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert text_of(path, whole.json()) == " one two three."
    assert streamed_text(path, stream.content) == " one two three."
    for answer in (whole, stream):
        assert answer.headers["x-modelzone-deployment"] == "mixtral"
        assert answer.headers["x-request-id"] == "request-1"
        assert "x-modelzone-cache" not in answer.headers
    assert gateway.runtime.streams[0].closed


async def test_endpoint_is_told_of_the_request(gateway: Gateway) -> None:
    gateway.gateway = [settings_entry(hedge_after_seconds=1.5), tenant_entry()]
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    await gateway.post("/v1/chat/completions", CHAT, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})

    call = gateway.runtime.calls[0]
    assert (call.request_id, call.trace_id, call.wait_seconds) == ("request-1", trace, 0)
    assert call.hedge_after_seconds == 1.5
    assert gateway.runtime.endpoints == ["endpoint-mixtral"]


async def test_model_names_in_answers(gateway: Gateway) -> None:
    gateway.gateway = [settings_entry(aliases={"gpt-4o-mini": "mixtral"}), tenant_entry()]

    for asked, expected in ((None, "mixtral"), ("gpt-4o-mini", "gpt-4o-mini"), ("acme/model", "acme/model")):
        answer = await gateway.post("/v1/chat/completions", {**CHAT, "model": asked})
        assert answer.json()["model"] == expected
        assert answer.headers["x-modelzone-deployment"] == "mixtral"


# --- usage ---


async def test_usage_is_counted_where_the_engine_does_not(gateway: Gateway) -> None:
    gateway.deployments = [deployment_entry(tokenizer="s3://bucket/tokenizer.json")]

    whole = (await gateway.post("/v1/completions", {"prompt": "a b c"})).json()
    stream = await gateway.post(
        "/v1/completions", {"prompt": "a b c", "stream": True, "stream_options": {"include_usage": True}}
    )

    expected = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert whole["usage"] == expected
    assert events_of(stream.content)[-2]["usage"] == expected
    assert events_of(stream.content)[-2]["choices"] == []


async def test_usage_of_the_engine_is_not_counted_again(gateway: Gateway) -> None:
    gateway.deployments = [deployment_entry(dialect="vllm-openai", tokenizer="s3://bucket/tokenizer.json")]
    gateway.runtime.engine = openai(lines=False)

    answer = (await gateway.post("/v1/chat/completions", CHAT)).json()

    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    assert gateway.tokens.counted == []


async def test_unknown_usage_is_left_out(gateway: Gateway) -> None:
    answer = (await gateway.post("/v1/chat/completions", CHAT)).json()

    assert "usage" not in answer


async def test_an_answer_does_not_wait_long_for_a_count(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invoke_proxy.service._COUNT_SECONDS", 0.05)
    gateway.deployments = [deployment_entry(tokenizer="s3://bucket/tokenizer.json")]
    gateway.tokens.delay = 30

    answer = await gateway.post("/v1/chat/completions", CHAT)

    assert answer.status_code == 200
    assert "usage" not in answer.json()


# --- limits ---


async def test_too_long_a_prompt_never_reaches_the_endpoint(gateway: Gateway) -> None:
    gateway.deployments = [deployment_entry(tokenizer="s3://bucket/tokenizer.json")]
    content = "word " * 1100

    for path, body, param in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": content}]}, "messages"),
        ("/v1/completions", {"prompt": content}, "prompt"),
    ):
        error = (await gateway.post(path, body)).json()["error"]
        assert (error["code"], error["param"], error["type"]) == (
            "context_length_exceeded",
            param,
            "invalid_request_error",
        )
        assert "1023" in error["message"]
    refused = await gateway.post("/generate", {"inputs": content})
    assert (refused.status_code, refused.json()["error_type"]) == (400, "validation")
    assert "tokens" in refused.json()["error"]
    assert gateway.runtime.raw == []


async def test_number_of_messages_is_a_setting(gateway: Gateway) -> None:
    gateway.gateway = [settings_entry(max_messages=2), tenant_entry()]
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]

    answer = await gateway.post("/v1/chat/completions", {"messages": messages})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"


async def test_tenant_s_limit_reaches_the_engine(gateway: Gateway) -> None:
    gateway.gateway = [settings_entry(), tenant_entry(max_output_tokens=7)]

    for path, body in GENERATING.items():
        gateway.runtime.requests.clear()
        assert (await gateway.post(path, body)).status_code == 200
        assert gateway.runtime.requests[0]["parameters"]["max_new_tokens"] == 7, path
    for path, body in (
        ("/v1/chat/completions", {**CHAT, "max_tokens": 8}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 8}),
        ("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 8}}),
        ("/generate_stream", {"inputs": "x", "parameters": {"max_new_tokens": 8}}),
    ):
        assert (await gateway.post(path, body)).status_code == 400, path


async def test_tenant_s_limit_holds_over_continuations(gateway: Gateway) -> None:
    gateway.gateway = [settings_entry(), tenant_entry(max_output_tokens=7)]
    gateway.runtime.engine = tgi(reason="length")
    asked = {"prompt": "x", "max_tokens": 3, "continue_until_stop": True}

    for stream in (False, True):
        gateway.runtime.requests.clear()
        assert (await gateway.post("/v1/completions", {**asked, "stream": stream})).status_code == 200
        lengths = [request["parameters"]["max_new_tokens"] for request in gateway.runtime.requests]
        assert lengths == [3, 3, 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_refused_is_not_charged_to_the_tenant(gateway: Gateway, *, stream: bool) -> None:
    """The engine has no room for the second request's limit: it is asked once more without one, within the budget."""
    gateway.gateway = [settings_entry(), tenant_entry(max_output_tokens=10)]
    answers = [tgi((" one",), reason="length"), None, tgi((" two.",))]

    def engine(body: dict[str, Any]) -> list[Part]:
        found = answers.pop(0)
        if found is None:
            raise ApiError(status=422, message="too long", code="model_refused")
        return found(body)

    gateway.runtime.engine = engine
    asked = {"prompt": "x", "max_tokens": 4, "continue_until_stop": True, "stream": stream}

    answer = await gateway.post("/v1/completions", asked)

    assert [request["parameters"]["max_new_tokens"] for request in gateway.runtime.requests] == [4, 4, None]
    text = streamed_text("/v1/completions", answer.content) if stream else answer.json()["choices"][0]["text"]
    assert text == " one two."


@pytest.mark.parametrize("stream", [False, True])
async def test_the_budget_bounds_also_a_request_without_a_limit(gateway: Gateway, *, stream: bool) -> None:
    gateway.gateway = [settings_entry(), tenant_entry(max_output_tokens=6)]
    answers = [tgi((" one",), reason="length"), None, tgi((" two.",))]

    def engine(body: dict[str, Any]) -> list[Part]:
        found = answers.pop(0)
        if found is None:
            raise ApiError(status=422, message="too long", code="model_refused")
        return found(body)

    gateway.runtime.engine = engine
    asked = {"prompt": "x", "max_tokens": 4, "continue_until_stop": True, "stream": stream}

    await gateway.post("/v1/completions", asked)

    # 2 are left of 6: refused, they are more than what the context leaves.
    assert [request["parameters"]["max_new_tokens"] for request in gateway.runtime.requests] == [4, 2, None]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_later_request_that_fails_ends_the_answer_and_is_not_kept(gateway: Gateway, *, stream: bool) -> None:
    gateway.deployments = [deployment_entry(cache_ttl_seconds="60")]
    first = tgi((" one",), reason="length")

    def engine(body: dict[str, Any]) -> list[Part]:
        if len(gateway.runtime.requests) > 1:
            raise ApiError(status=503, message="busy", code="no_capacity", retry_after=1)
        return first(body)

    gateway.runtime.engine = engine
    asked = {"prompt": "x", "max_tokens": 1, "continue_until_stop": True, "temperature": 0, "stream": stream}

    answer = await gateway.post("/v1/completions", asked)

    assert answer.status_code == 200
    assert b'"finish_reason":"length"' in answer.content
    assert gateway.cache.kept == {}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("tokenizer", "expected"), [("s3://b/k", 3), ("", None)])
async def test_lines_of_several_tokens_are_not_counted_as_tokens(
    gateway: Gateway, tokenizer: str, expected: int | None, *, stream: bool
) -> None:
    """A line of lmi-jsonlines may stand for several: the tokenizer counts the text, or nobody."""
    gateway.deployments = [deployment_entry(dialect="lmi-jsonlines", tokenizer=tokenizer)]
    line = {"token": {"id": 1, "text": " one two three.", "log_prob": -0.5}}
    last = {**line, "generated_text": "x", "details": {"finish_reason": "eos_token"}}
    gateway.runtime.engine = lambda _: [json.dumps(last).encode() + b"\n"]
    asked = {"prompt": "x", "stream": stream, **({"stream_options": {"include_usage": True}} if stream else {})}

    answer = await gateway.post("/v1/completions", {**asked, "stop": ["\n"]})

    if stream:
        found = [event.get("usage") for event in events_of(answer.content) if event != "[DONE]"]
        usage = next((item for item in found if item), None)
    else:
        usage = answer.json().get("usage")
    assert (usage and usage["completion_tokens"]) == expected


# --- continuation and confidence ---


def length_then_stop() -> Callable[[dict[str, Any]], list[Part]]:
    """Ends the first answer at its limit and the second by itself."""
    answers = [tgi((" one", " two"), reason="length"), tgi((" three.",))]

    def engine(body: dict[str, Any]) -> list[Part]:
        return answers.pop(0)(body)

    return engine


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize("stream", [False, True])
async def test_answer_is_continued(
    gateway: Gateway, path: str, caplog: pytest.LogCaptureFixture, *, stream: bool
) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    gateway.runtime.engine = length_then_stop()
    extension = {"continue_until_stop": True}
    body = {**GENERATING[path], **({"parameters": extension} if path == "/generate" else extension)}
    if stream:
        content = (
            await gateway.post("/generate_stream" if path == "/generate" else path, {**body, "stream": True})
        ).content
        assert streamed_text(path, content) == " one two three."
    else:
        assert text_of(path, (await gateway.post(path, body)).json()) == " one two three."
    first, second = (request["inputs"] for request in gateway.runtime.requests)
    assert second == first + " one two"
    assert logged(caplog)["continuations"] == 1
    assert all(stream.closed for stream in gateway.runtime.streams)


@pytest.mark.parametrize("path", GENERATING)
async def test_confidence(gateway: Gateway, path: str) -> None:
    gateway.deployments = [deployment_entry(dialect="lorax")]
    extension: dict[str, Any] = {"confidence": True}
    body = {**GENERATING[path], **({"parameters": extension} if path == "/generate" else extension)}

    whole = (await gateway.post(path, body)).json()
    stream = events_of(
        (await gateway.post("/generate_stream" if path == "/generate" else path, {**body, "stream": True})).content
    )

    if path == "/generate":
        found = [whole["details"]["confidence"], stream[-1]["details"]["confidence"]]
    else:
        found = [whole["choices"][0]["confidence"], stream[-2]["choices"][0]["confidence"]]
    for document in found:
        assert document["score"] == pytest.approx(0.606531)
        assert (document["tokens"], len(document["sentences"])) == (3, 1)


async def test_confidence_needs_log_probabilities(gateway: Gateway) -> None:
    answer = await gateway.post("/v1/chat/completions", {**CHAT, "confidence": True})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_parameter"


@pytest.mark.parametrize("stream", [False, True])
async def test_engine_that_goes_on_after_a_stop_sequence_is_cut(gateway: Gateway, *, stream: bool) -> None:
    gateway.runtime.engine = tgi((" one", " STOP", *(" more",) * 50))

    answer = await gateway.post("/v1/completions", {"prompt": "x", "stop": "STOP", "stream": stream})

    if stream:
        assert streamed_text("/v1/completions", answer.content) == " one "
        assert gateway.runtime.streams[0].closed
        assert len(list(gateway.runtime.streams[0]._parts)) > 10, "read to the end all the same"
    else:
        assert text_of("/v1/completions", answer.json()) == " one "


# --- embeddings ---


@pytest.mark.parametrize("dialect", ["vllm-openai", "lmi-async-vllm"])
async def test_embeddings(gateway: Gateway, dialect: str) -> None:
    gateway.deployments = [deployment_entry(dialect=dialect, features="embeddings")]
    gateway.runtime.engine = FAKE_ENGINES[dialect]

    answer = await gateway.post("/v1/embeddings", {"input": ["a", "b"]})

    assert answer.status_code == 200, answer.text
    assert [item["embedding"] for item in answer.json()["data"]] == [[0.25, -0.5]] * 2
    assert answer.json()["model"] == "mixtral"


async def test_embeddings_of_a_model_that_makes_none(gateway: Gateway) -> None:
    answer = await gateway.post("/v1/embeddings", {"input": "a"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "embeddings_not_supported")


# --- what is refused ---


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/chat/completions", {"error"}),
        ("/v1/completions", {"error"}),
        ("/v1/embeddings", {"error"}),
        ("/generate", {"error", "error_type"}),
        ("/tokenize", {"error", "error_type"}),
    ],
)
async def test_bodies_that_are_no_requests(gateway: Gateway, path: str, shape: set[str]) -> None:
    for content in (b"", b"{", b"\xff", b"[]", b'"x"', b'{"a": NaN}', b"[" * 100_000, b"1" * 5000):
        answer = await gateway.post(path, content=content)
        assert answer.status_code == 400, content[:10]
        assert set(answer.json()) == shape
    assert gateway.runtime.raw == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate", "/invocations"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_too_large_a_body(gateway: Gateway, path: str, *, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(7):
            yield b" " * (MAX_BODY_BYTES // 6)

    answer = await gateway.post(path, content=pieces() if chunked else b" " * (MAX_BODY_BYTES + 1))

    assert answer.status_code == 413
    assert str(MAX_BODY_BYTES) in answer.text
    assert answer.headers["x-request-id"] == "request-1"


async def test_body_that_grows_beyond_the_limit(gateway: Gateway) -> None:
    gateway.deployments = [deployment_entry(dialect="lorax")]
    body = {"inputs": "x", "parameters": {"stop": ["\\" * (MAX_BODY_BYTES // 2)]}}

    assert (await gateway.post("/generate", body)).status_code == 413


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_values_that_the_endpoint_s_json_cannot_hold(gateway: Gateway, path: str) -> None:
    gateway.deployments = [deployment_entry(dialect="lorax")]
    name, outer = ("inputs", b'"parameters": {%s}') if path == "/generate" else ("prompt", b"%s")
    for value in (rb'"stop": ["\ud800"]', b'"temperature": 1e999', b'"repetition_penalty": 1e999'):
        content = b'{"%s": "x", %s}' % (name.encode(), outer % value)
        answer = await gateway.post(path, content=content)
        assert answer.status_code == 400, (value, answer.text)
    assert gateway.runtime.raw == []


@pytest.mark.parametrize("value", [rb'"\ud800"', b"1e999", b"-1e999"])
async def test_values_in_schemas_that_the_endpoint_s_json_cannot_hold(gateway: Gateway, value: bytes) -> None:
    """What is inside a JSON schema is the engine's to judge, but it has to get there."""
    gateway.deployments = [deployment_entry(dialect="vllm-openai", features="chat,tools,json")]
    schema = b'{"type": "json_schema", "json_schema": {"name": "n", "schema": {"default": %s}}}' % value
    content = b'{"messages": [{"role": "user", "content": "x"}], "response_format": %s}' % schema

    answer = await gateway.post("/v1/chat/completions", content=content)

    assert answer.status_code == 400, answer.text
    assert gateway.runtime.raw == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/generate", 405),
        ("POST", "/generate/", 404),
        ("DELETE", "/v1/models/mixtral", 405),
    ],
)
async def test_unknown_routes(gateway: Gateway, method: str, path: str, status: int) -> None:
    answer = await gateway.http.request(method, path)

    assert answer.status_code == status
    assert isinstance(answer.json()["error"], str) == (path == "/generate")
    assert answer.headers["x-request-id"]


async def test_deployment_without_chat(gateway: Gateway) -> None:
    gateway.deployments = [deployment_entry(chat_template="")]

    answer = await gateway.post("/v1/chat/completions", CHAT)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "chat_not_supported")


async def test_unknown_dialect(gateway: Gateway) -> None:
    gateway.deployments = [deployment_entry(dialect="new")]

    chat = await gateway.post("/v1/chat/completions", CHAT)
    generate = await gateway.post("/generate", {"inputs": "x"})

    assert (chat.status_code, generate.status_code) == (400, 400)
    assert "'new'" in chat.json()["error"]["message"]
    assert "'new'" in generate.json()["error"]


async def test_wrong_conversation_is_refused_before_the_endpoint(gateway: Gateway) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]

    answer = await gateway.post("/v1/chat/completions", {"messages": messages})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[1].role"
    assert gateway.runtime.raw == []


# --- failures ---


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize("stream", [False, True])
async def test_failure_of_the_endpoint_keeps_its_status(gateway: Gateway, path: str, *, stream: bool) -> None:
    gateway.runtime.errors = [ApiError(status=429, message="busy", code="model_overloaded", retry_after=1)]
    route = "/generate_stream" if stream and path == "/generate" else path

    answer = await gateway.post(route, {**GENERATING[path], "stream": stream})

    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/json"
    assert "busy" in answer.text


@pytest.mark.parametrize("path", GENERATING)
async def test_engine_that_refuses_inside_a_stream_is_an_http_error(gateway: Gateway, path: str) -> None:
    refusal = b'data:{"error":"Input validation error: too long","error_type":"validation"}\n\n'
    gateway.runtime.engine = lambda _: [b": \n\n"[:0], refusal[:20], refusal[20:]]
    route = "/generate_stream" if path == "/generate" else path

    answer = await gateway.post(route, {**GENERATING[path], "stream": True})

    assert answer.status_code == 422
    assert "too long" in answer.text
    assert gateway.runtime.streams[0].closed


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_tokens_that_come_together_with_a_failure_are_not_lost(gateway: Gateway, path: str) -> None:
    error = b'data:{"error":"Request failed during generation","error_type":"generation"}\n\n'
    first, second, *_ = (part for part in tgi()({"stream": True}) if isinstance(part, bytes))
    gateway.runtime.engine = lambda _: [first, second + error]

    answer = await gateway.post(path, {**GENERATING[path], "stream": True})

    assert b" one" in answer.content
    assert b" two" in answer.content
    assert events_of(answer.content)[-1]["error"]["message"] == "Request failed during generation"


@pytest.mark.parametrize("path", GENERATING)
async def test_stream_without_any_event_is_a_502(gateway: Gateway, path: str) -> None:
    gateway.runtime.engine = lambda _: []
    route = "/generate_stream" if path == "/generate" else path

    answer = await gateway.post(route, {**GENERATING[path], "stream": True})

    assert answer.status_code == 502
    assert gateway.runtime.streams[0].closed


async def test_answer_that_is_none(gateway: Gateway) -> None:
    gateway.runtime.engine = lambda _: [b"<html>"]

    for path, body in GENERATING.items():
        assert (await gateway.post(path, body)).status_code == 502, path


async def test_numbers_that_json_cannot_hold(gateway: Gateway) -> None:
    token = b'{"id": 1, "text": "x", "logprob": -1e999, "special": false}'
    details = b'{"finish_reason": "length", "generated_tokens": 1, "prefill": [], "tokens": [%s]}' % token
    gateway.runtime.engine = lambda _: [b'[{"generated_text": "x", "details": %s}]' % details]

    answer = await gateway.post("/generate", {"inputs": "x"})

    assert (answer.status_code, answer.json()["error_type"]) == (502, "engine_answer_not_understood")


async def test_our_own_failure_is_a_readable_500(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    gateway.runtime.errors = [RuntimeError(PROMPT)] * 2

    for stream in (False, True):
        answer = await gateway.post("/v1/chat/completions", {**CHAT, "stream": stream})
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
    formatted = [logs._JsonFormatter().format(record) for record in caplog.records]
    assert len(formatted) == 2
    assert all(PROMPT not in line and "request-1" in line for line in formatted)


async def test_half_a_surrogate_pair_in_an_engine_s_words(gateway: Gateway) -> None:
    gateway.runtime.errors = [ApiError(status=422, message="\ud800 is bad", code="model_refused")]

    answer = await gateway.post("/v1/chat/completions", CHAT)

    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "? is bad")


# --- what is logged ---


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = [record for record in caplog.records if record.message == "request"]
    fields: dict[str, Any] = record.__dict__["fields"]
    return fields


@pytest.mark.parametrize("stream", [False, True])
async def test_one_line_for_a_request(gateway: Gateway, caplog: pytest.LogCaptureFixture, *, stream: bool) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    gateway.gateway = [settings_entry(aliases={"gpt-4o-mini": "mixtral"}), tenant_entry("search")]
    gateway.deployments = [deployment_entry(tokenizer="s3://bucket/tokenizer.json")]
    body = {**CHAT, "model": "gpt-4o-mini", "stream": stream}

    await gateway.post("/v1/chat/completions", body, headers=identity_header("search"))

    line = logged(caplog)
    expected = {
        "request_id": "request-1",
        "tenant": "search",
        "key_id": "abcdefghij",
        "route": "/v1/chat/completions",
        "deployment": "mixtral",
        "alias": "gpt-4o-mini",
        "model_id": "acme/model",
        "stream": stream,
        "status": 200,
        "error": None,
        "prompt_tokens": 6,
        "completion_tokens": 4,
        "cache": None,
    }
    assert {name: line[name] for name in expected} == expected
    assert line["input_bytes"] > 50
    assert (line["time_to_first_token_ms"] is not None) == stream
    assert PROMPT not in str([record.__dict__ for record in caplog.records])


async def test_unknown_counts_are_not_logged_as_none_at_all(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    gateway.deployments = [deployment_entry(dialect="lmi-json")]
    gateway.runtime.engine = FAKE_ENGINES["lmi-json"]
    await gateway.post("/v1/chat/completions", {**CHAT, "stream": True})

    assert logged(caplog)["completion_tokens"] is None
    assert logged(caplog)["time_to_first_token_ms"] is not None


async def test_failures_are_logged_by_their_code(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    await gateway.post("/v1/chat/completions", {**CHAT, "model": "x"})

    assert (logged(caplog)["status"], logged(caplog)["error"]) == (404, "model_not_found")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", GENERATING)
async def test_content_is_logged_for_those_who_want_it(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, path: str, *, stream: bool
) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    gateway.gateway = [settings_entry(), tenant_entry(log_content=True)]
    route = "/generate_stream" if stream and path == "/generate" else path

    await gateway.post(route, {**GENERATING[path], "stream": stream})

    (content,) = [record.__dict__["fields"] for record in caplog.records if record.message == "content"]
    assert PROMPT in content["prompt"]
    assert content["answer"] == " one two three."


async def test_document_is_served(gateway: Gateway) -> None:
    answer = await gateway.get("/openapi.json")

    assert answer.status_code == 200
    assert answer.json()["openapi"] == "3.1.0"
    assert json.loads(answer.content) == answer.json()
