"""Answers of `POST /v1/chat/completions`: from an engine's events to OpenAI's objects."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from invoke_proxy.generation import Alternative, Answer, Finish, Piece, Token, ToolCall

from .chat_request import ChatRequest
from .visible_text import PlacedToken, VisibleText
from .writing import encode, encode_text, event, finite, head, number, token_bytes, token_json, usage

__all__ = ["ChatAnswer"]


class ChatAnswer:
    """Build the one answer, or the chunks of the stream, to one chat request.

    Parameters
    ----------
    request
        The request that is answered.
    fingerprint
        Engine and version, as OpenAI's `system_fingerprint`.
    model
        The model's name in the answer, when the request names none.
    answer_id
        The answer's id; a new one by default.
    """

    def __init__(
        self, *, request: ChatRequest, fingerprint: str, model: str | None = None, answer_id: str | None = None
    ) -> None:
        self._request = request
        self._wants_logprobs = request.logprobs
        self._visible = VisibleText(stop=request.stop, tokens=request.logprobs, confidence=request.confidence)
        self._call_ids: dict[int, str] = {}
        self._head = head(
            prefix="chatcmpl",
            kind="chat.completion.chunk" if request.stream else "chat.completion",
            model=request.model or model or "",
            fingerprint=fingerprint,
            answer_id=answer_id,
        )
        # Nearly all chunks differ in their text only: what is around it is written once.
        self._before_text = f'data: {encode(self._head)[:-1]},"choices":[{{"index":0,"delta":{{"content":'
        self._after_logprobs = ',"finish_reason":null}]' + (',"usage":null' if request.include_usage else "") + "}\n\n"
        self._after_text = '},"logprobs":null' + self._after_logprobs

    def complete(self, answer: Answer, *, confidence: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the object for an answer that arrived as a whole.

        `usage` is left out when the engine does not count the prompt's tokens. `confidence` is for an answer to a
        request that does not ask for it itself: what such a request wants is counted here.
        """
        seen, tokens = self._visible.feed(answer.text, answer.tokens)
        rest, more = self._visible.flush()
        content: str | None = seen + rest
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if answer.tool_calls and not self._visible.stopped:
            message["content"] = content or None
            message["tool_calls"] = [self._whole_call(call) for call in answer.tool_calls]
        logprobs = self._logprobs([*tokens, *more]) if self._wants_logprobs else None
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self._reason(answer.finish, called="tool_calls" in message),
        }
        self._add_confidence(choice, confidence)
        document = {**self._head, "choices": [choice]}
        counts = usage(answer.finish)
        return document if counts is None else {**document, "usage": counts}

    def first_chunk(self) -> dict[str, Any]:
        """Return the chunk that opens a stream with the role."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def piece_chunks(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Yield the chunks for a piece of the answer: none while its text is held back."""
        if self._visible.stopped:
            return
        text, tokens = self._visible.feed(piece.text, piece.tokens)
        if piece.tool_calls:
            # No stop sequence reaches over a call: what was held back is text.
            rest, more = self._visible.flush()
            text, tokens = text + rest, [*tokens, *more]
        if text:
            yield self._chunk({"content": text}, logprobs=self._logprobs(tokens) if tokens else None)
        if piece.tool_calls and not self._visible.stopped:
            yield self._chunk({"tool_calls": [self._call_part(call) for call in piece.tool_calls]})

    def piece_bytes(self, piece: Piece) -> bytes:
        """Return `piece_chunks` as server-sent events, much faster."""
        if piece.tool_calls or self._visible.stopped:
            return b"".join(map(event, self.piece_chunks(piece)))
        text, tokens = self._visible.feed(piece.text, piece.tokens)
        if not text:
            return b""
        if not tokens:
            return f"{self._before_text}{encode_text(text)}{self._after_text}".encode()
        logprobs = self._logprobs_json(tokens)
        return f'{self._before_text}{encode_text(text)}}},"logprobs":{logprobs}{self._after_logprobs}'.encode()

    def last_chunks(self, finish: Finish, *, confidence: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Yield what was held back, the finish reason and, if it is asked for and known, the usage."""
        text, tokens = self._visible.flush()
        if text:
            yield self._chunk({"content": text}, logprobs=self._logprobs(tokens) if tokens else None)
            tokens = []
        last = self._chunk(
            {},
            logprobs=self._logprobs(tokens) if tokens else None,
            finish_reason=self._reason(finish, called=bool(self._call_ids)),
        )
        self._add_confidence(last["choices"][0], confidence)
        yield last
        counts = usage(finish)
        if self._request.include_usage and counts is not None:
            yield {**self._head, "choices": [], "usage": counts}

    def _reason(self, finish: Finish, *, called: bool) -> str:
        # Engines report a stop sequence as `length` (optimum-neuron 0.0.25) or not at all, and calls as `stop`.
        if self._visible.stopped:
            return "stop"
        if isinstance(self._request.tool_choice, Mapping) and finish.reason in ("stop", "tool_calls"):
            return "stop"  # as OpenAI has it where the client named the function
        return "tool_calls" if called and finish.reason == "stop" else finish.reason

    def _add_confidence(self, choice: dict[str, Any], confidence: Mapping[str, Any] | None) -> None:
        # The own count ends where the text ends, at a stop sequence.
        document = self._visible.confidence() or confidence
        if document is not None:
            choice["confidence"] = dict(document)

    def _chunk(
        self, delta: dict[str, Any], *, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk = {**self._head, "choices": [choice]}
        return {**chunk, "usage": None} if self._request.include_usage else chunk

    def _logprobs(self, tokens: Iterable[PlacedToken]) -> dict[str, Any]:
        most = self._request.top_logprobs
        # A token without a log probability has no entry: OpenAI's needs a number, and there is none.
        content = [_logprob(token, most) for _, token in tokens if token.logprob is not None]
        return {"content": content, "refusal": None}

    def _logprobs_json(self, tokens: Iterable[PlacedToken]) -> str:
        """Return `_logprobs` as JSON: building the objects first takes three times as long."""
        most = self._request.top_logprobs
        content = ",".join([_logprob_json(token, most) for _, token in tokens if token.logprob is not None])
        return f'{{"content":[{content}],"refusal":null}}'

    def _call_id(self, call: ToolCall) -> tuple[str, bool]:
        """Return the call's id and whether this is the first part of the call."""
        known = self._call_ids.get(call.index)
        if known is not None:
            return known, False
        return self._call_ids.setdefault(call.index, call.id or f"call_{uuid.uuid4().hex[:24]}"), True

    def _whole_call(self, call: ToolCall) -> dict[str, Any]:
        call_id, _ = self._call_id(call)
        return {"id": call_id, "type": "function", "function": {"name": call.name or "", "arguments": call.arguments}}

    def _call_part(self, call: ToolCall) -> dict[str, Any]:
        call_id, first = self._call_id(call)
        if not first:
            return {"index": call.index, "function": {"arguments": call.arguments}}
        return {
            "index": call.index,
            "id": call_id,
            "type": "function",
            "function": {"name": call.name or "", "arguments": call.arguments},
        }


def _logprob(token: Token, most: int) -> dict[str, Any]:
    entry = _entry(token, token.logprob)
    entry["top_logprobs"] = [_entry(other, other.logprob) for other in token.alternatives[:most]]
    return entry


def _entry(token: Token | Alternative, logprob: float | None) -> dict[str, Any]:
    text, raw = token_bytes(token.text)
    return {"token": text, "logprob": finite(logprob or 0.0), "bytes": raw}


def _logprob_json(token: Token, most: int) -> str:
    top = ",".join([f"{_entry_json(other, other.logprob)}}}" for other in token.alternatives[:most]])
    return f'{_entry_json(token, token.logprob)},"top_logprobs":[{top}]}}'


def _entry_json(token: Token | Alternative, logprob: float | None) -> str:
    """Return `_entry` as JSON, without the brace that ends it."""
    text, raw = token_json(token.text)
    return f'{{"token":{text},"logprob":{number(logprob or 0.0)},"bytes":{raw}'
