"""Answers in OpenAI's own format, from vLLM and TensorRT-LLM: chats and completions, chunks and whole.

Read from vLLM's `serving_chat.py` and `serving_completion.py` (0.11.0 and today's) and TensorRT-LLM's
`postprocess_handlers.py`. The finish reason comes in a chunk before the one with the usage, so the finish waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from invoke_proxy.generation import (
    Alternative,
    Answer,
    Finish,
    FinishReason,
    Heartbeat,
    Piece,
    StreamEvent,
    Token,
    ToolCall,
)

from . import reading
from .base import Embeddings

__all__ = ["ChunkReader", "read_answer", "read_embeddings"]


# The model itself ended the answer, or the calls that are the answer.
_ENDED_BY_MODEL = ("stop", "tool_calls")


class ChunkReader:
    """Reads the objects of one stream, however they were packed."""

    def __init__(self) -> None:
        self._reason: FinishReason | None = None
        self._engine_reason: str | None = None
        self._usage: Mapping[str, Any] = {}

    def read(self, document: Mapping[str, Any]) -> Sequence[StreamEvent]:
        """Return what one object says; the finish when its usage is there."""
        usage = document.get("usage")
        if usage:
            self._usage = usage
        choices = document["choices"]
        if not choices:
            return (self.finish(),) if usage and self._reason is not None else ()
        choice = choices[0]
        word = choice.get("finish_reason")
        if word is not None:
            self._reason = reading.finish_reason(word)
            self._engine_reason = word
        delta = choice.get("delta")
        if delta is None:
            words, tokens, calls = reading.text(choice["text"]), _completion_tokens(choice), None
        else:
            words, tokens, calls = (
                reading.text(delta.get("content") or ""),
                _chat_tokens(choice),
                delta.get("tool_calls"),
            )
        if words or tokens or calls:
            return (Piece(text=words, tokens=tokens, tool_calls=tuple(map(_tool_call, calls)) if calls else ()),)
        # A model that thinks says nothing for a while.
        thinks = delta is not None and (delta.get("reasoning_content") or delta.get("reasoning"))
        return (Heartbeat(),) if thinks else ()

    @property
    def has_reason(self) -> bool:
        """Whether the finish reason has come."""
        return self._reason is not None

    def finish(self) -> Finish:
        """Return the end with what is known of it."""
        return _finish(self._reason or "stop", self._engine_reason, self._usage)


def read_answer(document: Mapping[str, Any]) -> Answer:
    """Read a whole answer. What is malformed raises one of `reading.MALFORMED`."""
    choice = document["choices"][0]
    message = choice.get("message")
    word = choice.get("finish_reason")
    finish = _finish(reading.finish_reason(word), word, document.get("usage") or {})
    if message is None:
        return Answer(text=reading.text(choice["text"]), tokens=_completion_tokens(choice), finish=finish)
    calls = message.get("tool_calls") or ()
    return Answer(
        text=reading.text(message.get("content") or ""),
        tokens=_chat_tokens(choice),
        # Whole answers do not number the calls.
        tool_calls=tuple(_tool_call({"index": index, **call}) for index, call in enumerate(calls)),
        finish=finish,
    )


def read_embeddings(document: Mapping[str, Any]) -> Embeddings:
    """Read embeddings. What is malformed raises one of `reading.MALFORMED`."""
    items = sorted(document["data"], key=lambda item: int(item["index"]))
    return Embeddings(
        vectors=tuple(tuple(map(float, item["embedding"])) for item in items),
        prompt_tokens=reading.count((document.get("usage") or {}).get("prompt_tokens")),
    )


def _finish(reason: FinishReason, engine_reason: str | None, usage: Mapping[str, Any]) -> Finish:
    return Finish(
        reason=reason,
        engine_reason=engine_reason,
        completion_tokens=reading.count(usage.get("completion_tokens")),
        prompt_tokens=reading.count(usage.get("prompt_tokens")),
    )


def _ends_with_special(choice: Mapping[str, Any]) -> bool:
    """Whether the last token is the one that ended the answer; a stop sequence is named in `stop_reason` instead."""
    return choice.get("finish_reason") in _ENDED_BY_MODEL and not isinstance(choice.get("stop_reason"), str)


def _chat_tokens(choice: Mapping[str, Any]) -> tuple[Token, ...]:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if logprobs else None
    if not content:
        return ()
    last = len(content) - 1 if _ends_with_special(choice) else -1
    return tuple([_chat_token(item, special=index == last) for index, item in enumerate(content)])


def _chat_token(item: Mapping[str, Any], *, special: bool) -> Token:
    others = item.get("top_logprobs")
    return Token(
        text=reading.text(item["token"]),
        logprob=reading.number(item.get("logprob")),
        special=special,
        alternatives=_alternatives([(other["token"], other["logprob"]) for other in others]) if others else (),
    )


def _completion_tokens(choice: Mapping[str, Any]) -> tuple[Token, ...]:
    logprobs = choice.get("logprobs") or {}
    texts = logprobs.get("tokens")
    if not texts:
        return ()
    values = logprobs["token_logprobs"]
    others = logprobs.get("top_logprobs") or ()
    last = len(texts) - 1 if _ends_with_special(choice) else -1
    return tuple(
        Token(
            text=reading.text(text),
            logprob=reading.number(values[index]),
            special=index == last,
            alternatives=_alternatives(others[index].items()) if index < len(others) and others[index] else (),
        )
        for index, text in enumerate(texts)
    )


def _alternatives(pairs: Any) -> tuple[Alternative, ...]:
    return tuple(
        [
            Alternative(text=reading.text(text), logprob=value)
            for text, logprob in pairs
            if (value := reading.number(logprob)) is not None
        ]
    )


def _tool_call(item: Mapping[str, Any]) -> ToolCall:
    function = item.get("function") or {}
    name, identifier = function.get("name"), item.get("id")
    return ToolCall(
        index=reading.count(item.get("index")) or 0,
        id=None if identifier is None else reading.text(identifier),
        name=None if name is None else reading.text(name),
        arguments=reading.text(function.get("arguments") or ""),
    )
