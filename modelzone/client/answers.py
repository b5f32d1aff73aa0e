"""What the gateway answers, in one shape for chat, completions and TGI's routes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Alternative",
    "Answer",
    "Model",
    "Piece",
    "Sentence",
    "TextToken",
    "Token",
    "ToolCall",
    "Usage",
]


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A token that could have stood in a token's place, with its log probability (natural logarithm)."""

    text: str
    logprob: float | None


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token of an answer. `special` ones (end of sequence) are no part of the text.

    Attributes
    ----------
    logprob
        Natural logarithm of its probability; None where the engine tells none.
    alternatives
        The likeliest tokens in its place, where they were asked for; the token itself may be one of them.
    id
        Its number in the model's vocabulary, where the route tells it.
    """

    text: str
    logprob: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    id: int | None = None
    special: bool = False


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence of an answer with its number of tokens.

    Attributes
    ----------
    score
        Its confidence, between 0 and 1; None where no token of it has a log probability.
    """

    text: str
    score: float | None
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Numbers of tokens. Engines that do not count the prompt leave the first one unknown."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A function that the model wants called; `arguments` is JSON, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a streamed answer, as it comes. Its text may be empty: a tool's part, tokens that come apart."""

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, or as much of a streamed one as there is.

    Attributes
    ----------
    finish_reason
        In the words of the route: ``stop``, ``length``, ``tool_calls``; TGI's ``eos_token``, ``stop_sequence``. None
        when a stream was stopped before its end.
    confidence
        The geometric mean of the tokens' probabilities, where it was asked for: between 0 and 1. It says how sure the
        model was of its words, not whether they are true.
    sentences
        The same of each sentence.
    deployment
        Which deployment answered.
    cached
        Whether the gateway had the answer already.
    """

    text: str
    finish_reason: str | None
    tokens: tuple[Token, ...] = ()
    confidence: float | None = None
    sentences: tuple[Sentence, ...] = ()
    usage: Usage | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    model: str | None = None
    deployment: str | None = None
    cached: bool = False
    request_id: str | None = None

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of the answer, as the gateway counted them or as they came; None when neither is known."""
        if self.usage is not None and self.usage.completion_tokens is not None:
            return self.usage.completion_tokens
        return len(self.tokens) or None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that the key may ask."""

    id: str
    owned_by: str = ""
    created: int = 0


@dataclass(frozen=True, kw_only=True)
class TextToken:
    """A token of a text that was given, and where it stands in it: characters from `start` up to `stop`."""

    id: int
    text: str
    start: int
    stop: int
