"""From the gateway's JSON to `Answer`. What an answer lacks is left out, what is wrong in it is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modelzone.client.answers import Alternative, Answer, Model, Sentence, TextToken, Token, ToolCall, Usage
from modelzone.client.errors import ApiError

__all__ = [
    "chat_answer",
    "chat_tokens",
    "completion_answer",
    "confidence_of",
    "first_choice",
    "generate_answer",
    "models",
    "text_of",
    "text_tokens",
    "usage_of",
    "vectors",
]

Document = Mapping[str, Any]


def chat_answer(document: Document, facts: Document) -> Answer:
    """Of ``POST /v1/chat/completions``. `facts` are fields of the answer that its HTTP headers tell."""
    choice = first_choice(document)
    message = _mapping(choice.get("message"))
    score, sentences = confidence_of(choice.get("confidence"))
    return Answer(
        text=text_of(message.get("content")),
        finish_reason=choice.get("finish_reason"),
        tokens=chat_tokens(choice.get("logprobs")),
        confidence=score,
        sentences=sentences,
        usage=usage_of(document.get("usage")),
        tool_calls=tuple(_tool_call(call) for call in message.get("tool_calls") or ()),
        model=document.get("model"),
        **facts,
    )


def completion_answer(document: Document, facts: Document) -> Answer:
    """Of ``POST /v1/completions``."""
    choice = first_choice(document)
    score, sentences = confidence_of(choice.get("confidence"))
    return Answer(
        text=text_of(choice.get("text")),
        finish_reason=choice.get("finish_reason"),
        tokens=_completion_tokens(choice.get("logprobs")),
        confidence=score,
        sentences=sentences,
        usage=usage_of(document.get("usage")),
        model=document.get("model"),
        **facts,
    )


def generate_answer(document: Any, facts: Document) -> Answer:
    """Of ``POST /generate``, with ``details``. Text Generation Inference itself may wrap it in a list of one."""
    whole = document[0] if isinstance(document, list) and document else document
    if not isinstance(whole, Mapping) or not isinstance(whole.get("generated_text"), str):
        raise _invalid("it has no generated_text")
    details = _mapping(whole.get("details"))
    score, sentences = confidence_of(details.get("confidence"))
    beside = list(details.get("top_tokens") or ())
    tokens = [
        _tgi_token(token, beside[index] if index < len(beside) else ())
        for index, token in enumerate(details.get("tokens") or ())
    ]
    count = details.get("generated_tokens")
    return Answer(
        text=whole["generated_text"],
        finish_reason=details.get("finish_reason"),
        tokens=tuple(tokens),
        confidence=score,
        sentences=sentences,
        usage=None if count is None else Usage(completion_tokens=count, prompt_tokens=len(_prefill(details)) or None),
        **facts,
    )


def first_choice(document: Document) -> Document:
    """The answer in an OpenAI document; the gateway gives one."""
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise _invalid("it has no choices")
    choice: Document = choices[0]
    return choice


def chat_tokens(logprobs: Any) -> tuple[Token, ...]:
    """Tokens of a chat, from ``logprobs`` of a choice."""
    return tuple(
        Token(
            text=entry["token"],
            logprob=entry.get("logprob"),
            alternatives=tuple(
                Alternative(text=other["token"], logprob=other.get("logprob"))
                for other in entry.get("top_logprobs") or ()
            ),
        )
        for entry in _mapping(logprobs).get("content") or ()
    )


def _completion_tokens(logprobs: Any) -> tuple[Token, ...]:
    given = _mapping(logprobs)
    texts = given.get("tokens") or ()
    own, beside = given.get("token_logprobs") or (), given.get("top_logprobs") or ()
    return tuple(
        Token(
            text=text,
            logprob=own[index] if index < len(own) else None,
            alternatives=tuple(
                Alternative(text=other, logprob=value)
                for other, value in _mapping(beside[index] if index < len(beside) else None).items()
            ),
        )
        for index, text in enumerate(texts)
    )


def _tgi_token(token: Document, beside: Iterable[Document]) -> Token:
    return Token(
        text=token["text"],
        logprob=token.get("logprob"),
        id=token.get("id"),
        special=bool(token.get("special")),
        alternatives=tuple(Alternative(text=other["text"], logprob=other.get("logprob")) for other in beside),
    )


def _prefill(details: Document) -> list[Any]:
    found = details.get("prefill")
    return found if isinstance(found, list) else []


def confidence_of(document: Any) -> tuple[float | None, tuple[Sentence, ...]]:
    """Score and sentences of an answer's ``confidence``."""
    given = _mapping(document)
    sentences = tuple(
        Sentence(text=entry["text"], score=entry["score"], tokens=entry["tokens"])
        for entry in given.get("sentences") or ()
    )
    return given.get("score"), sentences


def usage_of(document: Any) -> Usage | None:
    """Numbers of tokens, where they are told."""
    given = _mapping(document)
    if not given:
        return None
    return Usage(prompt_tokens=given.get("prompt_tokens"), completion_tokens=given.get("completion_tokens"))


def models(document: Document) -> tuple[Model, ...]:
    """Of ``GET /v1/models``."""
    entries = document.get("data")
    if not isinstance(entries, list):
        raise _invalid("it has no data")
    return tuple(
        Model(
            id=entry["id"],
            owned_by=entry.get("owned_by") or "",
            created=entry.get("created") or 0,
        )
        for entry in entries
    )


def vectors(document: Document) -> tuple[tuple[float, ...], ...]:
    """Of ``POST /v1/embeddings``, in the order of the inputs."""
    entries = document.get("data")
    if not isinstance(entries, list):
        raise _invalid("it has no data")
    return tuple(tuple(entry["embedding"]) for entry in sorted(entries, key=lambda entry: entry.get("index", 0)))


def text_tokens(document: Any) -> tuple[TextToken, ...]:
    """Of ``POST /tokenize``."""
    entries = document.get("tokens") if isinstance(document, Mapping) else document
    if not isinstance(entries, list):
        raise _invalid("it has no list of tokens")
    return tuple(TextToken(id=e["id"], text=e["text"], start=e["start"], stop=e["stop"]) for e in entries)


def text_of(value: Any) -> str:
    """A text that may be null."""
    if value is not None and not isinstance(value, str):
        raise _invalid("its text is no text")
    return value or ""


def _tool_call(call: Document) -> ToolCall:
    function = _mapping(call.get("function"))
    return ToolCall(
        id=text_of(call.get("id")),
        name=text_of(function.get("name")),
        arguments=text_of(function.get("arguments")),
    )


def _mapping(value: Any) -> Document:
    return value if isinstance(value, Mapping) else {}


def _invalid(what: str) -> ApiError:
    return ApiError(f"the answer is not what the gateway sends: {what}", code="invalid_answer")
