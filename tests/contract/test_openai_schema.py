"""The gateway's requests and answers against OpenAI's own types.

What is built is held against them by `tests.gateway.openai_schema`, which the other contract tests use on what is on
the wire.
"""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionParams
from openai.types.embedding_create_params import EmbeddingCreateParams
from pydantic import BaseModel
from unit.invoke_proxy_formats import deployment

from invoke_proxy.dialects.base import Embeddings
from invoke_proxy.errors import ApiError
from invoke_proxy.generation import Alternative, Answer, Finish, FinishReason, Piece, Token, ToolCall
from invoke_proxy.openai_api import chat_request, completion_request, embedding_request
from invoke_proxy.openai_api.chat_answer import ChatAnswer
from invoke_proxy.openai_api.chat_request import parse_chat_request
from invoke_proxy.openai_api.completion_answer import CompletionAnswer
from invoke_proxy.openai_api.completion_request import parse_completion_request
from invoke_proxy.openai_api.embedding_answer import embedding_answer
from invoke_proxy.openai_api.embedding_request import parse_embedding_request
from invoke_proxy.openai_api.models import model_object
from tests.gateway.api_gateway import Exchange
from tests.gateway.openai_schema import ErrorAnswer, ModelList, check, check_exchange, problems

HELLO = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}

TOKENS = (
    Token(text="One", logprob=-0.5, alternatives=(Alternative(text="Two", logprob=-1.5),)),
    Token(text=" \ufffd", logprob=-float("inf"), alternatives=(Alternative(text="\ufffd", logprob=-2.0),)),
    Token(text=".", logprob=0),
    Token(text="</s>", logprob=-0.1, special=True),
)
CALLS = (ToolCall(index=0, id="c1", name="weather", arguments="{"), ToolCall(index=0, arguments="}"))
REASONS: tuple[FinishReason, ...] = ("stop", "length", "tool_calls", "content_filter")
COUNTED = {"completion_tokens": 4, "prompt_tokens": 9}


def chat(**overrides: Any) -> ChatAnswer:
    request = parse_chat_request({"model": "m", "messages": HELLO, **overrides}, max_messages=9)
    return ChatAnswer(request=request, fingerprint="tgi-1")


def completion(**overrides: Any) -> CompletionAnswer:
    return CompletionAnswer(
        request=parse_completion_request({"model": "m", "prompt": "Hi", **overrides}), fingerprint="tgi-1"
    )


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("counts", [{}, COUNTED])
@pytest.mark.parametrize(
    "options", [{}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 2}, {"confidence": True}, {"stop": "."}]
)
def test_chat_completions(reason: FinishReason, counts: dict[str, int], options: dict[str, Any]) -> None:
    finish = Finish(reason=reason, **counts)
    check(ChatCompletion, chat(**options).complete(Answer(text="One \ufffd.", tokens=TOKENS, finish=finish)))
    called = Answer(text="", tool_calls=(ToolCall(index=0, name="weather", arguments="{}"),), finish=finish)
    check(ChatCompletion, chat(tools=[TOOL], **options).complete(called))


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("counts", [{}, COUNTED])
@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 2}, {"confidence": True}, {"stop": "e ."}]
)
def test_chat_chunks(
    reason: FinishReason, counts: dict[str, int], options: dict[str, Any], *, include_usage: bool
) -> None:
    built = chat(stream=True, stream_options={"include_usage": include_usage}, **options)
    pieces = [
        *(Piece(text="" if token.special else token.text, tokens=(token,)) for token in TOKENS),
        *(Piece(tool_calls=(call,)) for call in CALLS),
    ]
    chunks = [built.first_chunk(), *(chunk for piece in pieces for chunk in built.piece_chunks(piece))]
    chunks += built.last_chunks(Finish(reason=reason, **counts))

    assert len(chunks) > len(pieces)
    for chunk in chunks:
        check(ChatCompletionChunk, chunk, streamed=True)
    assert sum(not chunk["choices"] for chunk in chunks) == (include_usage and bool(counts))


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("counts", [{}, COUNTED])
@pytest.mark.parametrize("options", [{}, {"logprobs": 0}, {"logprobs": 2}, {"confidence": True}, {"stop": "."}])
def test_completions_and_their_chunks(reason: FinishReason, counts: dict[str, int], options: dict[str, Any]) -> None:
    finish = Finish(reason=reason, **counts)
    check(Completion, completion(**options).complete(Answer(text="One \ufffd.", tokens=TOKENS, finish=finish)))

    built = completion(stream=True, stream_options={"include_usage": True}, **options)
    pieces = [Piece(text="" if token.special else token.text, tokens=(token,)) for token in TOKENS]
    chunks = [built.first_chunk(), *(chunk for piece in pieces for chunk in built.piece_chunks(piece))]
    chunks += built.last_chunks(finish)
    for chunk in chunks:
        check(Completion, chunk, streamed=True)


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_embeddings(encoding_format: str) -> None:
    request = parse_embedding_request({"model": "m", "input": "x", "encoding_format": encoding_format})
    document = embedding_answer(request, Embeddings(vectors=((0.5, 1.0),), prompt_tokens=1))
    if encoding_format == "base64":
        # The package's type knows numbers only: its client decodes the text before.
        assert isinstance(document["data"][0]["embedding"], str)
        document["data"][0]["embedding"] = [0.5]

    check(CreateEmbeddingResponse, document)


def test_models() -> None:
    check(Model, model_object("m", deployment()))


def chunk(**changed: Any) -> dict[str, Any]:
    """A chunk as the gateway sends it, with something in it that is not right."""
    return {**chat(stream=True).first_chunk(), **changed}


def choice(**changed: Any) -> dict[str, Any]:
    return chunk(choices=[{"index": 0, "delta": {"content": "a"}, "logprobs": None, "finish_reason": None, **changed}])


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


LOGPROB = {"token": "a", "logprob": -1, "bytes": [97], "top_logprobs": []}


def logprobs(**changed: Any) -> dict[str, Any]:
    return choice(logprobs={"content": [{**LOGPROB, **changed}], "refusal": None})


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (choice(finish_reason="eos_token"), "choices.0.finish_reason: Input should be 'stop', 'length'"),
        (chunk(choices=[{"index": 0, "delta": {}}]), "choices[0].finish_reason: it is missing"),
        (chunk(choices=[{"index": 0, "finish_reason": None}]), "choices.0.delta: Field required"),
        (choice(index="0"), "choices.0.index: Input should be a valid integer"),
        (choice(index=False), "choices.0.index: Input should be a valid integer"),
        (choice(index=None), "choices.0.index: Input should be a valid integer"),
        (choice(delta={"content": 1}), "choices.0.delta.content: Input should be a valid string"),
        (choice(delta={"role": "model"}), "choices.0.delta.role: Input should be"),
        (choice(delta={"tool_calls": None}), "choices[0].delta.tool_calls: it is null"),
        (choice(delta={"tool_calls": [{"index": 0, "type": "tool"}]}), "tool_calls.0.type: Input should be 'function'"),
        (choice(delta={"reasoning": ""}), "choices[0].delta.reasoning: OpenAI has no such field"),
        (choice(delta={"confidence": 1}), "choices[0].delta.confidence: OpenAI has no such field"),
        (choice(logprobs={"content": []}), "choices[0].logprobs.refusal: it is missing"),
        (logprobs(logprob=None), "content.0.logprob: Input should be a valid number"),
        (logprobs(logprob="-1"), "content.0.logprob: Input should be a valid number"),
        (logprobs(bytes=["a"]), "content.0.bytes.0: Input should be a valid integer"),
        (logprobs(id=7), "content[0].id: OpenAI has no such field"),
        (chunk(id=None), "id: Input should be a valid string"),
        (without(chunk(), "id"), "id: Field required"),
        (chunk(created=None), "created: Input should be a valid integer"),
        (chunk(created=1.5), "created: Input should be a valid integer"),
        (chunk(object="chat.completion"), "object: Input should be 'chat.completion.chunk'"),
        (chunk(system_fingerprint=None), "system_fingerprint: it is null"),
        (chunk(usage={"prompt_tokens": 1}), "usage.completion_tokens: Field required"),
        (chunk(choices={}), "choices: Input should be a valid array"),
        (chunk(surprise=1), "surprise: OpenAI has no such field"),
        ([], "Input should be an object"),
    ],
)
def test_broken_chunks_are_seen(broken: Any, says: str) -> None:
    found = problems(ChatCompletionChunk, broken, streamed=True)
    assert [words for words in found if says in words], found
    with pytest.raises(AssertionError, match="this is not OpenAI's ChatCompletionChunk"):
        check(ChatCompletionChunk, broken, streamed=True)


def test_what_is_right_has_no_problems() -> None:
    for right in (chunk(), choice(), logprobs(), choice(confidence={"score": 1}), chunk(usage=None)):
        assert problems(ChatCompletionChunk, right, streamed=True) == []


@pytest.mark.parametrize(
    ("kind", "broken", "says"),
    [
        (ChatCompletion, {"choices": [{"message": {"role": "assistant", "content": ""}}]}, "finish_reason: Field req"),
        (Completion, {"usage": None}, "Completion.usage: it is null"),
        (Completion, {"choices": [{"index": 0, "text": "", "finish_reason": None}]}, "finish_reason: Input should be"),
        (Completion, {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}, "logprobs: it is missing"),
        (Model, {"object": "modal"}, "object: Input should be 'model'"),
        (Model, {"features": []}, "Model.features: OpenAI has no such field"),
        (ModelList, {"object": "list", "data": [{}]}, "data.0.id: Field required"),
        (ErrorAnswer, {"error": {"message": "no", "type": "t", "code": None}}, "error.param: it is missing"),
        (ErrorAnswer, {"error": {"message": None, "type": "t", "code": None, "param": None}}, "message: Input should"),
        (ErrorAnswer, {"error": {"message": "", "type": "t", "code": None, "param": None}, "a": 1}, "a: Extra inputs"),
    ],
)
def test_broken_whole_answers_are_seen(kind: type[BaseModel], broken: dict[str, Any], says: str) -> None:
    finish = Finish(reason="stop", **COUNTED)
    right: dict[Any, dict[str, Any]] = {
        ChatCompletion: chat().complete(Answer(text="One", tokens=(), finish=finish)),
        Completion: completion().complete(Answer(text="One", tokens=(), finish=finish)),
        Model: model_object("m", deployment()),
    }
    assert problems(kind, right[kind]) == [] if kind in right else True
    found = problems(kind, {**right.get(kind, {}), **broken})
    assert [words for words in found if says in words], found


def exchange(*events: str, path: str = "/v1/chat/completions") -> Exchange:
    body = "".join(f"data: {event}\n\n" for event in events).encode()
    return Exchange(method="POST", path=path, status=200, headers={"content-type": "text/event-stream"}, body=body)


ERROR = json.dumps({"error": {"message": "m", "type": "t", "param": None, "code": None}})
CHUNK = json.dumps(choice())


def test_streams_on_the_wire_are_read_to_their_end() -> None:
    for events in ([CHUNK, "[DONE]"], [CHUNK, ERROR], [CHUNK, ERROR, "[DONE]"]):
        assert check_exchange(exchange(*events))
    for events, says in (
        ([CHUNK, json.dumps(choice(index="0")), "[DONE]"], "choices.0.index"),
        ([CHUNK.replace("null", "NaN"), "[DONE]"], "JSON has no NaN"),
        ([CHUNK], "not the end"),
        ([CHUNK, "[DONE]", CHUNK], "not the end"),
        ([ERROR, CHUNK], "not the end"),
        ([], "not the end"),
    ):
        with pytest.raises(AssertionError, match=says):
            check_exchange(exchange(*events))
    with pytest.raises(AssertionError, match="ErrorAnswer"):
        check_exchange(Exchange(method="GET", path="/v1/models", status=404, headers={}, body=b'{"message": "no"}'))
    assert not check_exchange(exchange(path="/generate_stream"))


@pytest.mark.parametrize(
    ("params", "own"),
    [(ChatParams, chat_request), (CompletionParams, completion_request), (EmbeddingCreateParams, embedding_request)],
)
def test_every_parameter_of_today_is_known(params: type, own: Any) -> None:
    """Mapped, ignored knowingly, or refused as unsupported; never unknown."""
    names = set(get_type_hints(params)) | {"stream"} - ({"stream"} if own is embedding_request else set())
    assert len(names) > 4
    for name in names:
        code = _refusal(own, name)
        assert code != "unknown_parameter", name


def _refusal(own: Any, name: str) -> str | None:
    """The code with which a parameter of an impossible value is refused; None when nobody looks at it."""
    base: dict[str, Any] = {"model": "m", "messages": HELLO}
    parse: Any = lambda body: parse_chat_request(body, max_messages=9)  # noqa: E731
    if own is completion_request:
        base, parse = {"model": "m", "prompt": "x"}, parse_completion_request
    elif own is embedding_request:
        base, parse = {"model": "m", "input": "x"}, parse_embedding_request
    try:
        parse({**base, name: object()})
    except ApiError as error:
        return error.code
    assert name in own.IGNORED
    return None
