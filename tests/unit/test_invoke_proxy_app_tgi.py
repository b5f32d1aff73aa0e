"""TGI's routes: passed through where the engine is TGI, made from its events where it is not."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from unit.invoke_proxy_world import (
    FAKE_ENGINES,
    Gateway,
    Part,
    deployment_entry,
    events_of,
    settings_entry,
    tenant_entry,
    tgi,
)

from invoke_proxy.errors import ApiError

BODY: dict[str, Any] = {"inputs": "Hi", "parameters": {"max_new_tokens": 3}}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    yield gateway
    await gateway.http.aclose()


def engine_bytes(body: dict[str, Any]) -> bytes:
    return b"".join(part for part in tgi()(body) if isinstance(part, bytes))


async def test_generate_is_the_engine_s_own_answer(gateway: Gateway) -> None:
    answer = await gateway.post("/generate", BODY)

    assert answer.status_code == 200
    assert answer.json() == json.loads(engine_bytes({}))[0]
    assert gateway.runtime.requests == [
        {"inputs": "Hi", "parameters": {"max_new_tokens": 3, "return_full_text": False}, "stream": False}
    ]


async def test_generate_stream_passes_bytes_through(gateway: Gateway) -> None:
    whole = b":\n\n" + engine_bytes({"stream": True})
    pieces: list[Part] = [whole[at : at + 37] for at in range(0, len(whole), 37)]
    gateway.runtime.engine = lambda _: pieces

    answer = await gateway.post("/generate_stream", BODY)

    assert answer.content == whole
    assert gateway.runtime.requests[0]["stream"] is True
    assert gateway.runtime.streams[0].closed


async def test_what_passes_through_is_counted(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")

    await gateway.post("/generate", BODY)
    await gateway.post("/generate_stream", BODY)

    lines = [record.__dict__["fields"] for record in caplog.records if record.message == "request"]
    assert [line["completion_tokens"] for line in lines] == [4, 4]
    assert lines[1]["time_to_first_token_ms"] is not None


async def test_parameters_of_ours_do_not_reach_the_engine(gateway: Gateway) -> None:
    parameters = {"max_new_tokens": 3, "confidence": False, "continue_until_stop": None, "max_continuations": 2}

    await gateway.post("/generate", {**BODY, "parameters": parameters, "model": "mixtral"})

    assert gateway.runtime.requests[0] == {
        "inputs": "Hi",
        "parameters": {"max_new_tokens": 3, "return_full_text": False},
        "stream": False,
    }


async def test_without_parameters_the_engine_samples(gateway: Gateway) -> None:
    await gateway.post("/generate", {"inputs": "Hi"})

    assert gateway.runtime.requests[0]["parameters"] == {
        "do_sample": True,
        "return_full_text": False,
        # What the gateway says where the client says nothing, of every engine.
        "max_new_tokens": 100,
        "top_k": 256,
    }


async def test_prompt_s_tokens_are_in_the_engine_s_own_answer(gateway: Gateway) -> None:
    gateway.runtime.engine = tgi(prompt_tokens=2)
    gateway.deployments = [deployment_entry(cache_ttl_seconds="60")]
    parameters = {"decoder_input_details": True, "details": True, "max_new_tokens": 3}

    answer = await gateway.post("/generate", {"inputs": "Hi", "parameters": parameters})

    assert len(answer.json()["details"]["prefill"]) == 2
    assert "x-modelzone-cache" not in answer.headers


@pytest.mark.parametrize("values", [{"log_content": True}, {"max_output_tokens": 50}, {}])
async def test_what_only_the_engine_s_own_answer_has_comes_whoever_asks(
    gateway: Gateway, values: dict[str, Any]
) -> None:
    """Neither a log of contents nor a limit changes what an answer has."""
    gateway.gateway = [settings_entry(), tenant_entry(**values)]
    gateway.deployments = [deployment_entry(dialect="lorax", cache_ttl_seconds="60")]
    own = json.loads(engine_bytes({}))[0]
    own["details"] |= {"best_of_sequences": [{"generated_text": "x"}], "prefill": [{"id": 1, "text": "x"}]}
    gateway.runtime.engine = lambda _: [json.dumps([own]).encode()]
    parameters = {"decoder_input_details": True, "best_of": 2, "do_sample": True, "details": True}

    answer = await gateway.post("/generate", {"inputs": "Hi", "parameters": parameters})

    assert answer.json() == own
    assert gateway.runtime.requests[0]["parameters"]["max_new_tokens"] == values.get("max_output_tokens", 100)


async def test_an_answer_that_passes_through_is_logged_for_those_who_want_it(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    gateway.gateway = [settings_entry(), tenant_entry(log_content=True)]

    await gateway.post("/generate", BODY)

    contents = [record.__dict__["fields"] for record in caplog.records if record.message == "content"]
    assert [content["answer"] for content in contents] == [" one two three."]


@pytest.mark.parametrize("logged", [False, True])
@pytest.mark.parametrize("parameters", [None, {}, {"do_sample": True}, {"max_new_tokens": None}, {"top_p": 0.5}])
async def test_the_engine_is_asked_the_same_whether_contents_are_logged(
    gateway: Gateway, parameters: Any, *, logged: bool
) -> None:
    gateway.gateway = [settings_entry(), tenant_entry(log_content=logged)]
    body = {"inputs": "Hi"} if parameters is None else {"inputs": "Hi", "parameters": parameters}

    await gateway.post("/generate_stream", body)

    asked = gateway.runtime.requests[0]["parameters"]
    unlimited = parameters is None or "do_sample" in parameters
    assert asked.get("max_new_tokens") == (None if parameters == {"max_new_tokens": None} else 100)
    assert asked.get("top_k") == (256 if unlimited else None)
    assert asked.get("top_p") == (parameters or {}).get("top_p")


async def test_lorax_s_own_parameters_reach_it_and_no_log(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    gateway.gateway = [settings_entry(), tenant_entry(log_content=True)]
    gateway.deployments = [deployment_entry(dialect="lorax")]
    own = {"adapter_id": "a/b", "adapter_source": "hub", "api_token": "s3cr3t-token", "ignore_eos_token": True}
    own |= {"presence_penalty": 0.5, "response_format": {"type": "json_object"}}

    for path in ("/generate", "/generate_stream"):
        answer = await gateway.post(path, {"inputs": "Hi", "parameters": {**own, "max_new_tokens": 3}})

        assert answer.status_code == 200
        asked = gateway.runtime.requests[-1]["parameters"]
        assert {name: asked[name] for name in own} == own, path
    assert all("s3cr3t" not in repr(record.__dict__) for record in caplog.records)


async def test_a_schema_goes_by_the_engine_s_own_name(gateway: Gateway) -> None:
    """LoRAX would ignore TGI's name in silence."""
    gateway.deployments = [deployment_entry(dialect="lorax")]
    parameters = {"max_new_tokens": 3, "grammar": {"type": "json", "value": {"type": "object"}}}

    await gateway.post("/generate", {"inputs": "Hi", "parameters": parameters})

    asked = gateway.runtime.requests[0]["parameters"]
    assert asked["response_format"] == {"type": "json_schema", "schema": {"type": "object"}}
    assert "grammar" not in asked


async def test_clients_of_tgi_post_to_the_root(gateway: Gateway) -> None:
    whole = await gateway.post("/", BODY)
    stream = await gateway.post("/", {**BODY, "stream": True})
    wrong = await gateway.post("/", {**BODY, "stream": "yes"})

    assert whole.json() == json.loads(engine_bytes({}))
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert events_of(stream.content)[-1]["generated_text"] == " one two three."
    assert [request["stream"] for request in gateway.runtime.requests] == [False, True]
    assert (wrong.status_code, wrong.json()["error_type"]) == (400, "validation")


@pytest.mark.parametrize("dialect", ["tgi-generate", "vllm-openai"])
async def test_the_model_of_the_root_is_named_beside_the_body(gateway: Gateway, dialect: str) -> None:
    gateway.deployments = [deployment_entry(name, dialect=dialect) for name in ("one", "two", "three", "four")]
    gateway.gateway[0] = settings_entry(default_model="four")
    gateway.runtime.engine = FAKE_ENGINES[dialect]

    for expected, options in (
        ("four", {}),
        ("one", {"params": {"model": "one"}}),
        ("two", {"params": {"model": "one"}, "headers": {"x-modelzone-model": "two"}}),
    ):
        answer = await gateway.post("/", BODY, **options)
        assert answer.headers["x-modelzone-deployment"] == expected
        assert [item["generated_text"] for item in answer.json()] == [" one two three."]
    named = await gateway.post("/", {**BODY, "model": "three"})
    assert named.headers["x-modelzone-deployment"] == "three"
    assert (await gateway.post("/", BODY, headers={"x-modelzone-model": "nobody"})).status_code == 404


async def test_strangers_learn_nothing_of_the_body_at_the_root(gateway: Gateway) -> None:
    answer = await gateway.http.post("/", content=b"{", headers={"x-amzn-request-context": "{}"})

    assert answer.status_code == 401


async def test_what_the_engine_ignores_is_refused_also_here(gateway: Gateway) -> None:
    answer = await gateway.post("/generate", {"inputs": "Hi", "parameters": {"watermark": True}})

    assert answer.status_code == 400
    assert "watermark" in answer.json()["error"]
    assert gateway.runtime.raw == []


async def test_stream_that_fails_says_so_behind_whole_events(gateway: Gateway) -> None:
    first = tgi()({"stream": True})[0]
    failure = ApiError(status=502, message="m", code="stream_failed")
    gateway.runtime.engine = lambda _: [first, b'data:{"half', failure]

    answer = await gateway.post("/generate_stream", BODY)

    assert answer.status_code == 200
    first_event, last = events_of(answer.content)
    assert first_event["index"] == 1
    assert last == {"error": "m", "error_type": "stream_failed"}


async def test_stream_without_an_end_is_incomplete(gateway: Gateway) -> None:
    gateway.runtime.engine = lambda body: tgi()(body)[:-1]

    answer = await gateway.post("/generate_stream", BODY)

    assert events_of(answer.content)[-1]["error_type"] == "incomplete_answer"


async def test_error_of_the_engine_in_its_stream_is_passed_on(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    error = b'data:{"error":"Request failed during generation","error_type":"generation"}\n\n'
    gateway.runtime.engine = lambda body: [tgi()(body)[0], error]

    answer = await gateway.post("/generate_stream", BODY)

    assert answer.content.endswith(error)
    assert len(events_of(answer.content)) == 2
    lines = [record.__dict__["fields"] for record in caplog.records if record.message == "request"]
    assert lines[0]["error"] == "model_error_event"


async def test_text_that_looks_like_events_is_not_counted(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "invoke_proxy")
    gateway.runtime.engine = tgi(('\ndata: {"error": 1}', '"generated_text": "x"'))

    answer = await gateway.post("/generate_stream", BODY)

    lines = [record.__dict__["fields"] for record in caplog.records if record.message == "request"]
    assert (lines[0]["completion_tokens"], lines[0]["error"]) == (3, None)
    assert len(events_of(answer.content)) == 3


@pytest.mark.parametrize("dialect", [name for name in FAKE_ENGINES if name not in {"tgi-generate", "lorax"}])
async def test_other_engines_answer_in_tgi_s_format(gateway: Gateway, dialect: str) -> None:
    gateway.deployments = [deployment_entry(dialect=dialect)]
    gateway.runtime.engine = FAKE_ENGINES[dialect]
    body = {"inputs": "Hi", "parameters": {"max_new_tokens": 3, "details": True}}

    whole = (await gateway.post("/generate", body)).json()
    events = events_of((await gateway.post("/generate_stream", body)).content)

    assert whole["generated_text"] == events[-1]["generated_text"] == " one two three."
    assert whole["details"]["finish_reason"] == events[-1]["details"]["finish_reason"] == "eos_token"
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    assert all(set(event) == {"index", "token", "generated_text", "details"} for event in events)


async def test_tenant_s_limit_is_not_passed_by(gateway: Gateway) -> None:
    gateway.gateway = [settings_entry(), tenant_entry(max_output_tokens=50)]

    for parameters, expected in (({}, 50), ({"max_new_tokens": None}, 50), ({"max_new_tokens": 20}, 20)):
        await gateway.post("/generate", {"inputs": "Hi", "parameters": parameters})
        assert gateway.runtime.requests[-1]["parameters"]["max_new_tokens"] == expected


async def test_tokenize(gateway: Gateway) -> None:
    gateway.deployments = [deployment_entry(tokenizer="s3://bucket/tokenizer.json"), deployment_entry("other")]

    known = await gateway.post("/tokenize", {"inputs": "Grüße", "model": "mixtral", "parameters": {"x": 1}})
    unknown = await gateway.post("/tokenize", {"inputs": "x", "model": "other"})

    assert known.json() == [{"id": 1, "text": "Grüße", "start": 0, "stop": 7}]
    assert (unknown.status_code, unknown.json()["error_type"]) == (404, "no fast tokenizer")


async def test_info(gateway: Gateway) -> None:
    found = (await gateway.get("/info", params={"model": "acme/model"})).json()

    assert (found["model_id"], found["max_input_tokens"], found["max_total_tokens"]) == ("acme/model", 1023, 1024)
    assert (found["environment"], found["deployment"]) == ("test", "mixtral")
