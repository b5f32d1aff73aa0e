"""Answers of `POST /v1/completions`: from an engine's events to OpenAI's text completions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from invoke_proxy.generation import Answer, Finish, Piece

from .completion_request import CompletionRequest
from .visible_text import PlacedToken, VisibleText, valid_unicode
from .writing import encode, encode_text, finite, head, usage

__all__ = ["CompletionAnswer"]


class CompletionAnswer:
    """Build the one answer, or the chunks of the stream, to one completion request.

    Chunks and whole answers have the same form. ``logprobs.text_offset`` counts characters from the beginning of the
    answer's text, as vLLM does, so that a token is found at its offset in what the client has.

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
        self, *, request: CompletionRequest, fingerprint: str, model: str | None = None, answer_id: str | None = None
    ) -> None:
        self._request = request
        self._visible = VisibleText(
            stop=request.stop, tokens=request.logprobs is not None, confidence=request.confidence
        )
        self._head = head(
            prefix="cmpl",
            kind="text_completion",
            model=request.model or model or "",
            fingerprint=fingerprint,
            answer_id=answer_id,
        )
        self._before_text = f'data: {encode(self._head)[:-1]},"choices":[{{"index":0,"text":'
        self._after_logprobs = ',"finish_reason":null}]' + (',"usage":null' if request.include_usage else "") + "}\n\n"

    def complete(self, answer: Answer, *, confidence: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the object for an answer that arrived as a whole.

        `usage` is left out when the engine does not count the prompt's tokens. `confidence` is for an answer to a
        request that does not ask for it itself: what such a request wants is counted here.
        """
        seen, tokens = self._visible.feed(answer.text, answer.tokens)
        rest, more = self._visible.flush()
        choice = self._choice(
            seen + rest,
            logprobs=self._logprobs([*tokens, *more]) if self._request.logprobs is not None else None,
            finish_reason=self._reason(answer.finish),
        )
        self._add_confidence(choice, confidence)
        document = {**self._head, "choices": [choice]}
        counts = usage(answer.finish)
        return document if counts is None else {**document, "usage": counts}

    def first_chunk(self) -> dict[str, Any]:
        """Return a chunk without text, which opens the stream before the first token is there."""
        return self._chunk(self._choice(""))

    def piece_chunks(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Yield the chunk for a piece of the answer, or nothing while its text is held back."""
        text, tokens = self._visible.feed(piece.text, piece.tokens)
        if text:
            yield self._chunk(self._choice(text, logprobs=self._logprobs(tokens) if tokens else None))

    def piece_bytes(self, piece: Piece) -> bytes:
        """Return `piece_chunks` as server-sent events, much faster."""
        text, tokens = self._visible.feed(piece.text, piece.tokens)
        if not text:
            return b""
        logprobs = encode(self._logprobs(tokens)) if tokens else "null"
        return f'{self._before_text}{encode_text(text)},"logprobs":{logprobs}{self._after_logprobs}'.encode()

    def last_chunks(self, finish: Finish, *, confidence: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Yield what was held back with the finish reason and, if it is asked for and known, the usage."""
        text, tokens = self._visible.flush()
        choice = self._choice(
            text, logprobs=self._logprobs(tokens) if tokens else None, finish_reason=self._reason(finish)
        )
        self._add_confidence(choice, confidence)
        yield self._chunk(choice)
        counts = usage(finish)
        if self._request.include_usage and counts is not None:
            yield {**self._head, "choices": [], "usage": counts}

    def _reason(self, finish: Finish) -> str:
        # This API has no word for calls.
        return "stop" if self._visible.stopped or finish.reason == "tool_calls" else finish.reason

    def _add_confidence(self, choice: dict[str, Any], confidence: Mapping[str, Any] | None) -> None:
        # The own count ends where the text ends, at a stop sequence.
        document = self._visible.confidence() or confidence
        if document is not None:
            choice["confidence"] = dict(document)

    def _choice(
        self, text: str, *, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._head, "choices": [choice]}
        return {**chunk, "usage": None} if self._request.include_usage else chunk

    def _logprobs(self, tokens: Iterable[PlacedToken]) -> dict[str, Any]:
        known = [
            (start, token, finite(token.logprob), valid_unicode(token.text))
            for start, token in tokens
            if token.logprob is not None
        ]
        most = self._request.logprobs or 0
        top = [
            # The chosen token is always among them, also alone, as OpenAI has it.
            {valid_unicode(other.text): finite(other.logprob) for other in token.alternatives[:most]} | {text: logprob}
            for _, token, logprob, text in known
        ]
        return {
            "tokens": [text for _, _, _, text in known],
            "token_logprobs": [logprob for _, _, logprob, _ in known],
            "top_logprobs": top,
            "text_offset": [start for start, _, _, _ in known],
        }
