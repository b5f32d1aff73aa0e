"""Answers of `POST /v1/chat/completions`: from an engine's tokens to OpenAI's objects."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .chat_request import ChatRequest

__all__ = ["ChatAnswer", "Finish", "StopFilter", "Token"]


@dataclass(frozen=True, kw_only=True)
class Token:
    """One generated token. `special` tokens (end of sequence) are not part of the text."""

    text: str
    logprob: float | None = None
    special: bool = False
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The end of an answer. Counts that the engine does not report are None, never guessed.

    `reason` is OpenAI's: stop or length.
    """

    reason: str
    completion_tokens: int | None = None
    prompt_tokens: int | None = None


@dataclass
class StopFilter:
    """Cut an answer at the first stop sequence, which OpenAI leaves out of the text and engines leave in.

    Text that may be the beginning of a stop sequence is held back until the next token decides.
    """

    sequences: tuple[str, ...]
    stopped: bool = field(default=False, init=False)
    _held: str = field(default="", init=False)

    def feed(self, text: str) -> str:
        """Return the text that is certainly part of the answer."""
        if self.stopped:
            return ""
        if not self.sequences:
            return text
        text = self._held + text
        found = [at for at in (text.find(sequence) for sequence in self.sequences) if at >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = max(_overlap(text, sequence) for sequence in self.sequences)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back, once no more text will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, sequence: str) -> int:
    """Return how many characters at the end of the text begin the sequence."""
    for size in range(min(len(sequence) - 1, len(text)), 0, -1):
        if text.endswith(sequence[:size]):
            return size
    return 0


class ChatAnswer:
    """Build the one answer, or the chunks of the stream, to one chat request.

    Parameters
    ----------
    request
        The request that is answered; its `model` is echoed.
    fingerprint
        Engine and version, as OpenAI's `system_fingerprint`.
    """

    def __init__(self, *, request: ChatRequest, fingerprint: str) -> None:
        self._request = request
        self._stop = StopFilter(request.stop)
        self._pending_logprobs: list[dict[str, Any]] = []
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": fingerprint,
        }

    def complete(self, *, text: str, tokens: Iterable[Token], finish: Finish) -> dict[str, Any]:
        """Return the object for an answer that arrived as a whole.

        `usage` is left out when the engine does not count the prompt's tokens.
        """
        content = self._stop.feed(text)
        if not self._stop.stopped:
            content += self._stop.flush()
        logprobs = None
        if self._request.logprobs:
            logprobs = {"content": list(_covering(tokens, len(content))), "refusal": None}
        answer = {
            **self._head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content, "refusal": None},
                    "logprobs": logprobs,
                    "finish_reason": self._reason(finish),
                }
            ],
        }
        usage = _usage(finish)
        return answer if usage is None else {**answer, "usage": usage}

    def first_chunk(self) -> dict[str, Any]:
        """Return the chunk that opens a stream with the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def token_chunks(self, token: Token) -> Iterator[dict[str, Any]]:
        """Yield the chunk for a token, or nothing while its text is held back."""
        if token.special or self._stop.stopped:
            return
        if self._request.logprobs:
            self._pending_logprobs.append(_logprob(token))
        if text := self._stop.feed(token.text):
            yield self._text_chunk(text)

    def last_chunks(self, finish: Finish) -> Iterator[dict[str, Any]]:
        """Yield what was held back, the finish reason and, if it is asked for and known, the usage."""
        if held := self._stop.flush():
            yield self._text_chunk(held)
        yield self._chunk({}, finish_reason=self._reason(finish))
        usage = _usage(finish)
        if self._request.include_usage and usage is not None:
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def _reason(self, finish: Finish) -> str:
        # Engines report a stop sequence as `length` (optimum-neuron 0.0.25) or not at all.
        return "stop" if self._stop.stopped else finish.reason

    def _text_chunk(self, text: str) -> dict[str, Any]:
        pending, self._pending_logprobs = self._pending_logprobs, []
        return self._chunk({"content": text}, logprobs={"content": pending, "refusal": None} if pending else None)

    def _chunk(
        self, delta: dict[str, Any], *, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, "usage": None} if self._request.include_usage else chunk


def _covering(tokens: Iterable[Token], length: int) -> Iterator[dict[str, Any]]:
    """Yield the log probabilities of the tokens that begin within the first `length` characters."""
    start = 0
    for token in tokens:
        if token.special:
            continue
        if start >= length:
            return
        start += len(token.text)
        yield _logprob(token)


def _logprob(token: Token) -> dict[str, Any]:
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": _bytes(token.text),
        "top_logprobs": [
            {"token": text, "logprob": logprob, "bytes": _bytes(text)} for text, logprob in token.alternatives
        ],
    }


def _bytes(text: str) -> list[int] | None:
    """Return the text's bytes; None when the token is only a part of a character."""
    return None if "\ufffd" in text else list(text.encode())


def _usage(finish: Finish) -> dict[str, int] | None:
    if finish.prompt_tokens is None or finish.completion_tokens is None:
        return None
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }
