"""The official OpenAI client's chat against the proxy as shipped, over real HTTP and every dialect of engines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.gateway.engines import DIALECTS, Said
from tests.gateway.stack import NARROW_KEY, Gateway
from tests.gateway.world import DEPLOYMENTS, Served, endpoint_of

MODEL_ID = "mistralai/Mixtral-8x7B-Instruct-v0.1"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
CHATTING = [item for item in DEPLOYMENTS if not item.embeds]
WITH_LOGPROBS = [item for item in CHATTING if "logprobs" in item.features.split(",")]


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        yield client


def texts(chunks: list[openai.types.chat.ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_the_world_has_a_deployment_of_every_dialect() -> None:
    assert {item.dialect for item in DEPLOYMENTS} == set(DIALECTS)


def test_models_are_listed_and_found_by_name_alias_and_model_id(client: openai.OpenAI) -> None:
    listed = {model.id for model in client.models.list()}

    assert {item.name for item in DEPLOYMENTS} <= listed
    assert client.models.retrieve("mixtral").created == 1_700_000_000
    assert client.models.retrieve(MODEL_ID).object == "model"
    assert client.models.retrieve("gpt-4o-mini").owned_by
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("missing")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("served", CHATTING, ids=lambda item: item.dialect + "-" + item.name)
def test_whole_answer_of_every_dialect(gateway: Gateway, client: openai.OpenAI, served: Served) -> None:
    gateway.script(served.name).said = Said(tokens=("Grüß", " dich", ' "🙂"\n'), reason="stop")

    answer = client.chat.completions.create(model=served.name, messages=HELLO, temperature=0, max_tokens=5)

    assert answer.choices[0].message.content == 'Grüß dich "🙂"\n'
    assert answer.choices[0].message.role == "assistant"
    # TensorRT-LLM's and vLLM's asynchronous handlers leave the reason out of whole answers.
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == served.name
    assert answer._request_id
    assert [seen.endpoint for seen in gateway.seen] == [endpoint_of(served.name)]
    if answer.usage is not None:
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("split", [0, 7])
@pytest.mark.parametrize("served", CHATTING, ids=lambda item: item.dialect + "-" + item.name)
def test_stream_of_every_dialect(gateway: Gateway, client: openai.OpenAI, served: Served, split: int) -> None:
    script = gateway.script(served.name)
    script.said = Said(tokens=("Grüß", " dich", ' "🙂"\n'), reason="length")
    script.split = split  # bytes of a PayloadPart: characters and events are cut anywhere

    chunks = list(client.chat.completions.create(model=served.name, messages=HELLO, stream=True, max_tokens=3))

    assert texts(chunks) == 'Grüß dich "🙂"\n'
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert gateway.seen[0].stream


@pytest.mark.parametrize("served", WITH_LOGPROBS, ids=lambda item: item.dialect + "-" + item.name)
@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_every_dialect_that_has_them(
    gateway: Gateway, client: openai.OpenAI, served: Served, stream: bool
) -> None:
    gateway.script(served.name).said = Said(tokens=("a", "ß"), reason="length", logprob=-0.25)

    if stream:
        chunks = client.chat.completions.create(model=served.name, messages=HELLO, logprobs=True, stream=True)
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
        found = [item for choice in choices if choice.logprobs for item in choice.logprobs.content or []]
    else:
        whole = client.chat.completions.create(model=served.name, messages=HELLO, logprobs=True)
        assert whole.choices[0].logprobs is not None
        found = whole.choices[0].logprobs.content or []

    assert [(item.token, item.logprob, item.bytes) for item in found] == [
        ("a", -0.25, [97]),
        ("ß", -0.25, [195, 159]),
    ]


@pytest.mark.parametrize("name", ["gpu", "vllm"])
def test_likelier_tokens_stand_beside_each(gateway: Gateway, client: openai.OpenAI, name: str) -> None:
    gateway.script(name).said = Said(tokens=("a", "b"))

    answer = client.chat.completions.create(model=name, messages=HELLO, logprobs=True, top_logprobs=3)

    assert answer.choices[0].logprobs is not None
    first = (answer.choices[0].logprobs.content or [])[0]
    assert [item.token for item in first.top_logprobs] == ["a", "~1", "~2"]


def test_usage_is_left_out_when_the_engine_counts_no_prompt_tokens(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="mixtral", messages=HELLO).usage is None


def test_usage_is_the_engines(gateway: Gateway, client: openai.OpenAI) -> None:
    gateway.script("gpu").said = Said(tokens=("Good", " day"), prompt_tokens=6)

    usage = client.chat.completions.create(model="gpu", messages=HELLO).usage

    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (6, 2, 8)


def test_usage_is_counted_with_the_models_tokenizer_where_the_engine_is_silent(client: openai.OpenAI) -> None:
    usage = client.chat.completions.create(model="counted", messages=HELLO).usage

    assert usage is not None
    # <s> [INST] Hello [/INST]
    assert (usage.prompt_tokens, usage.completion_tokens) == (4, 2)


def test_a_stream_ends_with_its_usage_when_asked(gateway: Gateway, client: openai.OpenAI) -> None:
    gateway.script("vllm").said = Said(tokens=("Good", " day"), prompt_tokens=6)

    chunks = list(
        client.chat.completions.create(
            model="vllm", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )

    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (6, 2)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_tokens_arrive_as_they_are_made(gateway: Gateway, client: openai.OpenAI) -> None:
    script = gateway.script("mixtral")
    script.said = Said(tokens=("Grüß", " dich", " 🙂"))
    script.pace = 0.2

    with client.chat.completions.create(model="mixtral", messages=HELLO, stream=True) as stream:
        sent = [gateway.aws.parts_sent for chunk in stream if chunk.choices and chunk.choices[0].delta.content]

    assert sent[0] == 1, "the first token was held back until more had come"
    assert sent == sorted(sent)


def test_stream_ends_with_done_on_the_wire(gateway: Gateway) -> None:
    body = {"model": "gpu", "messages": HELLO, "stream": True}
    answer = httpx.post(
        f"{gateway.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {gateway.key}"}
    )

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-modelzone-deployment"] == "gpu"
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("name", ["gpu", "vllm", "jsonlines", "async-trtllm", "lorax"])
def test_stop_sequence_is_cut_off_across_tokens(gateway: Gateway, client: openai.OpenAI, name: str) -> None:
    gateway.script(name).said = Said(tokens=("one", " EN", "D", "!", " more"))

    chunks = list(client.chat.completions.create(model=name, messages=HELLO, stream=True, stop=["END!"]))

    assert texts(chunks) == "one "
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_the_prompt_is_rendered_with_the_models_template(gateway: Gateway, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="mixtral", messages=HELLO, temperature=0, max_tokens=5)

    sent = gateway.seen[0].body
    assert sent["inputs"] == "[INST] Hello [/INST]"
    assert sent["parameters"]["max_new_tokens"] == 5
    assert sent["parameters"]["do_sample"] is False


def test_messages_go_to_engines_that_have_the_template(gateway: Gateway, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="vllm", messages=HELLO)

    assert gateway.seen[0].body["messages"] == HELLO


def test_requests_carry_an_id_that_the_endpoint_gets(gateway: Gateway, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpu", messages=HELLO)

    assert gateway.seen[0].headers["x-amzn-sagemaker-inference-id"] == answer._request_id


def test_tools_are_called_whole_and_streamed(gateway: Gateway, client: openai.OpenAI) -> None:
    arguments = '{"city": "Köln", "days": 3}'
    gateway.script("vllm").said = Said(tokens=(), tool_calls=[("weather", arguments), ("clock", "{}")])
    tools: list[openai.types.chat.ChatCompletionToolParam] = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
        for name in ("weather", "clock")
    ]

    whole = client.chat.completions.create(model="vllm", messages=HELLO, tools=tools).choices[0]
    pieces: dict[int, list[str]] = {}
    names: list[str] = []
    reasons = []
    for chunk in client.chat.completions.create(model="vllm", messages=HELLO, tools=tools, stream=True):
        reasons += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
        for call in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            assert call.function is not None
            pieces.setdefault(call.index, []).append(call.function.arguments or "")
            names += [call.function.name] if call.function.name else []

    assert whole.finish_reason == "tool_calls"
    calls = whole.message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls if call.type == "function"] == [
        ("weather", arguments),
        ("clock", "{}"),
    ]
    assert names == ["weather", "clock"]
    assert ["".join(pieces[index]) for index in (0, 1)] == [arguments, "{}"]
    assert reasons == ["tool_calls"]


def test_the_clients_own_accumulator_takes_the_streams(gateway: Gateway, client: openai.OpenAI) -> None:
    gateway.script("vllm").said = Said(tokens=('{"city":', ' "Köln"}'), reason="stop")

    with client.chat.completions.stream(model="vllm", messages=HELLO) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()

    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == '{"city": "Köln"}'


def test_unsupported_parameter_is_refused_by_name(gateway: Gateway, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="mixtral",
            messages=HELLO,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )

    assert caught.value.param == "tools"
    assert caught.value.type == "invalid_request_error"
    assert gateway.seen == []


def test_an_answer_is_kept_and_given_again(gateway: Gateway, client: openai.OpenAI) -> None:
    gateway.script("kept").said = Said(tokens=("only", " once"))

    raw = client.chat.completions.with_raw_response
    answers = [raw.create(model="kept", messages=HELLO, temperature=0, max_tokens=4) for _ in range(2)]

    assert [answer.headers["x-modelzone-cache"] for answer in answers] == ["miss", "hit"]
    assert {answer.parse().choices[0].message.content for answer in answers} == {"only once"}
    assert len(gateway.seen) == 1
    assert "only once" not in json.dumps(gateway.aws.items), "answers are kept compressed"


def test_a_narrow_tenant_sees_only_its_models(gateway: Gateway) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=NARROW_KEY, max_retries=0) as narrow:
        listed = {model.id for model in narrow.models.list()}
        with pytest.raises(openai.NotFoundError) as hidden:
            narrow.chat.completions.create(model="vllm", messages=HELLO)
        with pytest.raises(openai.NotFoundError) as missing:
            narrow.chat.completions.create(model="none", messages=HELLO)

    assert "gpu" in listed
    assert "vllm" not in listed
    assert hidden.value.message.replace("vllm", "none") == missing.value.message


def test_answers_go_on_until_the_model_stops(gateway: Gateway, client: openai.OpenAI) -> None:
    script = gateway.script("gpu")
    script.said = Said(tokens=("one", " two"), reason="length")
    script.more = [Said(tokens=(" three",), reason="length"), Said(tokens=(" four",), reason="stop")]

    answer = client.chat.completions.create(
        model="gpu", messages=HELLO, max_tokens=2, extra_body={"continue_until_stop": True}
    )

    assert answer.choices[0].message.content == "one two three four"
    assert answer.choices[0].finish_reason == "stop"
    assert len(gateway.seen) == 3
    assert gateway.seen[1].body["inputs"].endswith("one two")


def test_confidence_is_told_when_asked(gateway: Gateway, client: openai.OpenAI) -> None:
    gateway.script("gpu").said = Said(tokens=("Good", " day."), logprob=-0.5)

    answer = client.chat.completions.create(model="gpu", messages=HELLO, extra_body={"confidence": True})

    confidence = answer.choices[0].model_extra["confidence"]  # type: ignore[index]
    assert confidence["score"] == pytest.approx(0.6065, abs=1e-3)
    assert confidence["tokens"] == 2


def test_a_client_that_leaves_ends_the_reading(gateway: Gateway) -> None:
    script = gateway.script("gpu")
    script.said = Said(tokens=["x"] * 400)
    script.pace = 0.02
    body = {"model": "gpu", "messages": HELLO, "stream": True}

    headers = {"authorization": f"Bearer {gateway.key}"}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as answer:
        next(answer.iter_raw())

    deadline = time.monotonic() + 5
    while not gateway.aws.dropped and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gateway.aws.dropped, "the proxy went on reading the endpoint's stream"
    assert gateway.aws.dropped[0] < 300


async def test_the_asynchronous_client_chats(gateway: Gateway) -> None:
    gateway.script("gpu").said = Said(tokens=("Good", " day"))

    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        whole = await client.chat.completions.create(model="gpu", messages=HELLO)
        stream = await client.chat.completions.create(model="gpu", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
        listed = [model.id async for model in client.models.list()]

    assert whole.choices[0].message.content == texts(chunks) == "Good day"
    assert "gpu" in listed
