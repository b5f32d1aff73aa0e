"""What is asked of an engine and what it answers, in words that no API and no engine owns.

The routes turn OpenAI's and TGI's requests into a `Generation`; a dialect turns that into the engine's body and the
engine's bytes into `StreamEvent`s or an `Answer`; the routes write those in the API's format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "Alternative",
    "Answer",
    "Finish",
    "FinishReason",
    "Generation",
    "Heartbeat",
    "Piece",
    "StreamEvent",
    "Token",
    "ToolCall",
]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A checked request for one answer. None means: the client left it to the engine.

    Exactly one of `prompt` and `messages` is given.

    Attributes
    ----------
    prompt
        Text to go on with, without a begin-of-sequence token: a completion, or a chat that is rendered already.
    messages
        A conversation as OpenAI's message objects, for engines with the feature ``chat``.
    max_tokens
        The most tokens of the answer. `max_tokens_param` is the name under which the client sent it.
    stop
        The answer ends before the first of these; `StopFilter` cuts it, whatever the engine does.
    logprobs, top_logprobs
        Whether each token comes with its log probability (natural logarithm), and how many likelier ones beside it.
    tools, tool_choice, response_format
        OpenAI's objects, checked; for engines with the features ``tools`` and ``json``.
    adapters
        LoRA adapters to apply, for engines with the feature ``adapters``.
    continue_final
        Whether the last message of `messages` is the beginning of the answer, for engines with the feature
        ``continue``.
    extra
        TGI's parameters that have no word here (``typical_p``, ``watermark``, ``truncate``, ``best_of``), by TGI's
        names; only the dialects of TGI take them.
    """

    stream: bool
    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    max_tokens: int | None = None
    max_tokens_param: str = "max_tokens"
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: Mapping[str, Any] | None = None
    adapters: tuple[str, ...] = ()
    continue_final: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A token that could have stood in a token's place."""

    text: str
    logprob: float
    id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Token:
    """One generated token. `special` tokens (end of sequence) are not part of the text.

    `logprob` is None where the engine reports none.
    """

    text: str
    id: int | None = None
    logprob: float | None = None
    special: bool = False
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A function that the model wants called; in a stream, a part of it: later parts have the arguments' next text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a streamed answer: text with its tokens, or tool calls.

    `text` has no special tokens. `tokens` may be empty (an engine that streams text only) or cover the text later.
    """

    text: str = ""
    tokens: tuple[Token, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The end of an answer. Counts that the engine does not report are None, never guessed.

    `engine_reason` is the engine's own word: TGI's ``eos_token``, ``stop_sequence``, ``length``.
    """

    reason: FinishReason
    engine_reason: str | None = None
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The engine says that it is alive and has nothing else to say."""


StreamEvent = Piece | Finish | Heartbeat
"""A stream is any number of pieces and heartbeats and then one finish, which is the last."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer that came in one piece; `text` has no special tokens."""

    text: str
    finish: Finish
    tokens: tuple[Token, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
