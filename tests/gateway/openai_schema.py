"""OpenAI's answers, and whether what the gateway says is one.

The types of the `openai` package are generated from OpenAI's API description. They are read strictly here, which the
client itself does not do: every field's type without coercion, every word, everything that is required; and nothing may
be there that they do not have, except what is this gateway's own. The package makes optional what may be null; which
fields OpenAI's description demands all the same, and where null may stand, is said below.

In two places OpenAI's API is not what its description says, and the clients are made for the API: a streamed
completion's ``finish_reason`` is null until the last chunk, and embeddings may be asked for as base64.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

from openai.types import Completion, CompletionChoice, CreateEmbeddingResponse, ErrorObject, Model
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionTokenLogprob,
    chat_completion,
    chat_completion_chunk,
)
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from pydantic import BaseModel, ConfigDict, ValidationError

from tests.gateway.api_gateway import Exchange

__all__ = ["ErrorAnswer", "ModelList", "check", "check_exchange", "problems"]


class ErrorAnswer(BaseModel):
    """The body of a refusal, for which the package has no type."""

    model_config = ConfigDict(extra="forbid")
    error: ErrorObject


class ModelList(BaseModel):
    """The list of models, which the package reads as a page."""

    model_config = ConfigDict(extra="forbid")
    object: Literal["list"]
    data: list[Model]


Names = frozenset[str]
_NONE: Names = frozenset()
# Required, and may be null: the package has them as optional.
_ALWAYS: Mapping[type, Names] = {
    chat_completion.Choice: frozenset({"logprobs"}),
    chat_completion.ChoiceLogprobs: frozenset({"content", "refusal"}),
    chat_completion_chunk.Choice: frozenset({"finish_reason"}),
    chat_completion_chunk.ChoiceLogprobs: frozenset({"content", "refusal"}),
    ChatCompletionMessage: frozenset({"content", "refusal"}),
    ChatCompletionTokenLogprob: frozenset({"bytes"}),
    TopLogprob: frozenset({"bytes"}),
    CompletionChoice: frozenset({"logprobs"}),
    ErrorObject: frozenset({"code", "param"}),
}
# May be left out or null.
_NULLABLE: Mapping[type, Names] = {
    ChatCompletionChunk: frozenset({"usage"}),
    chat_completion_chunk.Choice: frozenset({"logprobs"}),
    chat_completion_chunk.ChoiceDelta: frozenset({"content", "refusal"}),
}
_NULLABLE_IN_STREAMS: Mapping[type, Names] = {Completion: frozenset({"usage"})}
# What this gateway adds, docs/gateway.md.
_OWN: Mapping[type, Names] = {
    chat_completion.Choice: frozenset({"confidence"}),
    chat_completion_chunk.Choice: frozenset({"confidence"}),
    CompletionChoice: frozenset({"confidence"}),
    Model: frozenset({"root"}),
}

_WHOLE: Mapping[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletion,
    "/v1/completions": Completion,
    "/v1/embeddings": CreateEmbeddingResponse,
    "/v1/models": ModelList,
}
_STREAMED: Mapping[str, type[BaseModel]] = {"/v1/chat/completions": ChatCompletionChunk, "/v1/completions": Completion}
_DONE = "[DONE]"
_FIRST_ERROR = 400


def problems(kind: type[BaseModel], document: Any, *, streamed: bool = False) -> list[str]:
    """Return what is wrong with a document for one of OpenAI's types, in words; nothing when it is right."""
    text = json.dumps(document, allow_nan=False)
    if streamed and kind is Completion:
        text = json.dumps(_with_reasons(json.loads(text)))
    try:
        read = kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        return [f"{'.'.join(map(str, item['loc'])) or kind.__name__}: {item['msg']}" for item in error.errors()]
    return list(_beyond_types(read, kind.__name__, streamed=streamed))


def _beyond_types(value: Any, place: str, *, streamed: bool) -> Iterator[str]:
    """Yield what the types let pass, anywhere in the value."""
    if isinstance(value, BaseModel):
        kind = type(value)
        for name in sorted(set(value.model_extra or ()) - _OWN.get(kind, _NONE)):
            yield f"{place}.{name}: OpenAI has no such field"
        always = _ALWAYS.get(kind, _NONE)
        for name in sorted(always - value.model_fields_set):
            yield f"{place}.{name}: it is missing"
        nullable = always | _NULLABLE.get(kind, _NONE)
        if streamed:
            nullable |= _NULLABLE_IN_STREAMS.get(kind, _NONE)
        for name in sorted(value.model_fields_set & set(kind.model_fields)):
            inner = getattr(value, name)
            if inner is None and name not in nullable:
                yield f"{place}.{name}: it is null"
            yield from _beyond_types(inner, f"{place}.{name}", streamed=streamed)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _beyond_types(item, f"{place}[{index}]", streamed=streamed)


def check(kind: type[BaseModel], document: Any, *, streamed: bool = False) -> None:
    """Hold a document against one of OpenAI's types.

    Raises
    ------
    AssertionError
        With everything that is wrong.
    """
    found = problems(kind, document, streamed=streamed)
    if found:
        text = json.dumps(document, ensure_ascii=False)[:1500]
        raise AssertionError(f"this is not OpenAI's {kind.__name__}: {'; '.join(found[:5])}\n{text}")


def check_exchange(exchange: Exchange) -> bool:
    """Hold what a client got against OpenAI's types; return False for what is not OpenAI's.

    Raises
    ------
    AssertionError
        With everything that is wrong.
    """
    path = exchange.path.partition("?")[0]
    if not path.startswith("/v1/"):
        return False
    if exchange.status >= _FIRST_ERROR:
        check(ErrorAnswer, _parsed(exchange.body.decode()))
    elif exchange.headers.get("content-type", "").startswith("text/event-stream"):
        _check_stream(_STREAMED[path], _events(exchange.body))
    else:
        value = _parsed(exchange.body.decode())
        if path == "/v1/embeddings":
            _decode_vectors(value)
        check(_WHOLE.get(path, Model), value)
    return True


def _check_stream(kind: type[BaseModel], events: list[str]) -> None:
    failed = False
    for data in events:
        if data == _DONE:
            continue
        value = _parsed(data)
        failed = isinstance(value, dict) and "error" in value
        check(ErrorAnswer if failed else kind, value, streamed=True)
    # Clients read up to there; nothing may follow it or an error.
    ends = [index for index, data in enumerate(events) if data == _DONE]
    if ends not in ([len(events) - 1], [] if failed else None):
        raise AssertionError(f"this is not the end of OpenAI's stream: {events[-3:]}")


def _parsed(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"JSON has no {word}: {text[:1500]}")

    return json.loads(text, parse_constant=refuse)


def _with_reasons(chunk: Any) -> Any:
    for choice in chunk.get("choices", ()) if isinstance(chunk, dict) else ():
        if isinstance(choice, dict) and choice.get("finish_reason", "") is None:
            choice["finish_reason"] = "stop"
    return chunk


def _decode_vectors(answer: dict[str, Any]) -> None:
    for item in answer["data"]:
        if isinstance(item["embedding"], str):
            raw = base64.b64decode(item["embedding"], validate=True)
            item["embedding"] = list(struct.unpack(f"<{len(raw) // 4}f", raw))


def _events(body: bytes) -> list[str]:
    return [line.removeprefix("data:").strip() for line in body.decode().split("\n") if line.startswith("data:")]
