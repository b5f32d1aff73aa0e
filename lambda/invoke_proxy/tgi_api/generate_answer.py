"""Answers of TGI's `/generate` and `/generate_stream` from any engine's events, in TGI's exact shape.

TGI writes one event for each token, special ones too, and the last has the whole text. Its clients need numbers: a
token whose id is unknown has the id 0, and a log probability that the engine does not report is null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from invoke_proxy.confidence import Confidence
from invoke_proxy.generation import Alternative, Answer, Finish, Piece, Token
from invoke_proxy.openai_api.visible_text import valid_unicode
from invoke_proxy.openai_api.writing import finite, number, token_json
from invoke_proxy.stop_filter import StopFilter
from invoke_proxy.token_offsets import TokenOffsets

from .generate_request import GenerateRequest

__all__ = ["GenerateAnswer"]

_REASONS = frozenset({"length", "eos_token", "stop_sequence"})


class GenerateAnswer:
    """Build the one answer, or the events of the stream, to one of TGI's requests.

    As TGI's own, the text ends with the stop sequence, where the engine leaves it in.

    Parameters
    ----------
    request
        The request that is answered.
    """

    def __init__(self, *, request: GenerateRequest) -> None:
        self._request = request
        self._stop = StopFilter(request.stop)
        self._confidence = Confidence() if request.confidence else None
        self._texts: list[str] = []
        self._index = 0
        self._tokens = 0
        self._special: list[Token] = []

    def whole(self, answer: Answer, *, confidence: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer to `/generate`; details only if the request asks for them."""
        text = self._cut(valid_unicode(answer.text))
        tokens = self._of_text(answer, len(text)) if self._request.stop else list(answer.tokens)
        if self._confidence is not None:
            self._confidence.add(tokens, text=text)
        document: dict[str, Any] = {"generated_text": self._prompt() + text}
        if not self._request.details and not self._request.confidence and confidence is None:
            return document
        details = self._details(answer.finish, seen=len(tokens))
        details["prefill"] = []
        details["tokens"] = [_token(token) for token in tokens]
        if self._request.top_n_tokens:
            details["top_tokens"] = [self._top(token) for token in tokens]
        self._add_confidence(details, confidence)
        return {**document, "details": details}

    def piece_events(self, piece: Piece) -> list[dict[str, Any]]:
        """Return one event for each token of the piece, or one for its text when the engine names no tokens.

        A special token is kept for the last event, as it is the last of an answer.
        """
        if self._stop.stopped:
            return []
        return [self._event(token) for token in self._ready(piece)]

    def piece_bytes(self, piece: Piece) -> bytes:
        """Return `piece_events` as server-sent events, much faster."""
        if self._stop.stopped:
            return b""
        return "".join([self._event_json(token) for token in self._ready(piece)]).encode()

    def last_events(self, finish: Finish, *, confidence: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the event with the whole text and, if they are asked for, the details.

        Its token is the special one that ended the answer. Where there is none it is an empty one: the last token has
        been sent when nobody knew yet that it was the last.
        """
        token = self._special.pop() if self._special and not self._stop.stopped else Token(text="", special=True)
        event = self._event(token)
        event["generated_text"] = self._prompt() + "".join(self._texts)
        if self._request.details or self._request.confidence or confidence is not None:
            details = self._details(finish, seen=self._tokens)
            if finish.prompt_tokens is not None:
                details["input_length"] = finish.prompt_tokens
            self._add_confidence(details, confidence)
            event["details"] = details
        yield event

    def _cut(self, text: str) -> str:
        """Return the text up to the end of the stop sequence that it completes; note that it ends there."""
        before = self._stop.fed
        self._stop.feed(text)
        return text if self._stop.end is None else text[: self._stop.end - before]

    def _prompt(self) -> str:
        return self._request.inputs if self._request.return_full_text else ""

    def _of_text(self, answer: Answer, length: int) -> list[Token]:
        """Return the tokens that begin in the text; an engine that leaves a stop sequence out has its tokens still."""
        offsets = TokenOffsets()
        placed = [*offsets.feed(valid_unicode(answer.text), answer.tokens), *offsets.flush()]
        return [
            token
            for start, token in placed
            if start < length or (not self._stop.stopped and (token.special or not token.text.strip("\ufffd")))
        ]

    def _within(self, tokens: Sequence[Token], length: int) -> list[Token]:
        """Return the tokens that make the first characters of the text; all of them unless it was cut."""
        if not self._stop.stopped:
            return list(tokens)
        kept: list[Token] = []
        start = 0
        for token in tokens:
            if start >= length:
                break
            kept.append(token)
            start += 0 if token.special else len(token.text)
        return kept

    def _ready(self, piece: Piece) -> list[Token]:
        """Return the tokens that can be sent now."""
        text = self._cut(valid_unicode(piece.text))
        ready: list[Token] = []
        for token in self._spread(text, piece):
            if self._special:
                ready.append(self._special.pop())
            if token.special:
                self._special.append(token)
            else:
                ready.append(token)
        return ready

    def _spread(self, text: str, piece: Piece) -> list[Token]:
        """Return tokens whose texts together are the text."""
        tokens = self._within(piece.tokens, len(text))
        self._tokens += len(tokens)
        self._texts.append(text)
        if self._confidence is not None:
            self._confidence.add(tokens, text=text)
        plain = [token for token in tokens if not token.special]
        if "".join(token.text for token in plain) == text:
            return tokens
        if not plain:
            return [Token(text=text), *tokens]
        # Parts of characters: the text of all comes with the last.
        last = plain[-1]
        return [
            token
            if token.special
            else Token(
                text=text if token is last else "",
                id=token.id,
                logprob=token.logprob,
                alternatives=token.alternatives,
            )
            for token in tokens
        ]

    def _event(self, token: Token) -> dict[str, Any]:
        self._index += 1
        event: dict[str, Any] = {"index": self._index, "token": _token(token)}
        if self._request.top_n_tokens:
            event["top_tokens"] = self._top(token)
        return {**event, "generated_text": None, "details": None}

    def _event_json(self, token: Token) -> str:
        """Return `_event` as a server-sent event."""
        self._index += 1
        top = ""
        if self._request.top_n_tokens:
            others = token.alternatives[: self._request.top_n_tokens]
            top = f',"top_tokens":[{",".join([_token_json(other) for other in others])}]'
        return (
            f'data:{{"index":{self._index},"token":{_token_json(token)}{top},"generated_text":null,"details":null}}\n\n'
        )

    def _top(self, token: Token) -> list[dict[str, Any]]:
        return [_token(other) for other in token.alternatives[: self._request.top_n_tokens]]

    def _details(self, finish: Finish, *, seen: int) -> dict[str, Any]:
        reason = finish.engine_reason if finish.engine_reason in _REASONS else None
        if self._stop.stopped:
            reason = "stop_sequence"
        elif reason is None or (reason == "length") != (finish.reason == "length"):
            reason = "length" if finish.reason == "length" else "eos_token"
        return {
            "finish_reason": reason,
            "generated_tokens": seen if finish.completion_tokens is None else finish.completion_tokens,
            "seed": finish.seed,
        }

    def _add_confidence(self, details: dict[str, Any], confidence: Mapping[str, Any] | None) -> None:
        document = confidence if self._confidence is None else self._confidence.document()
        if document is not None:
            details["confidence"] = dict(document)


def _token(token: Token | Alternative) -> dict[str, Any]:
    return {
        "id": token.id or 0,
        "text": valid_unicode(token.text),
        "logprob": None if token.logprob is None else finite(token.logprob),
        "special": isinstance(token, Token) and token.special,
    }


def _token_json(token: Token | Alternative) -> str:
    """Return `_token` as JSON."""
    logprob = "null" if token.logprob is None else number(token.logprob)
    special = "true" if isinstance(token, Token) and token.special else "false"
    return f'{{"id":{token.id or 0},"text":{token_json(token.text)[0]},"logprob":{logprob},"special":{special}}}'
