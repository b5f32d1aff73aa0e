"""A streamed chat answer: server-sent events in, pieces out, the whole answer in the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from modelzone.client.answers import Answer, Piece, Sentence, Token, ToolCall, Usage
from modelzone.client.errors import ApiError, error_of
from modelzone.client.reading import chat_tokens, confidence_of, text_of, usage_of
from modelzone.client.transport import Response

__all__ = ["AnswerStream", "event_data"]

_DONE = "[DONE]"


def event_data(lines: Iterable[bytes], *, request_id: str | None = None) -> Iterator[str]:
    """The data of each event; comments, by which the gateway says that it still waits, are left out.

    Raises
    ------
    ApiError
        The lines end inside an event: an empty line is the end of one.
    """
    data: list[bytes] = []
    inside = False
    for line in lines:
        if not line:
            if data:
                yield b"\n".join(data).decode(errors="replace")
            data, inside = [], False
        elif not line.startswith(b":"):
            inside = True
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
    if inside:
        raise ApiError("the stream ended inside an event", code="incomplete_answer", request_id=request_id)


class AnswerStream:
    """Pieces of an answer as they come. A context manager: leaving it early stops the model.

    Attributes
    ----------
    answer
        All that has come so far; after the last piece the whole answer.
    """

    def __init__(self, response: Response) -> None:
        self._response = response
        self._text: list[str] = []
        self._tokens: list[Token] = []
        self._calls: dict[int, list[str]] = {}
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._score: float | None = None
        self._sentences: tuple[Sentence, ...] = ()
        self._model: str | None = None
        self._pieces = self._read()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Piece]:
        return self._pieces

    def close(self) -> None:
        """Stop the answer; safe twice, and after its end."""
        self._response.close()

    @property
    def answer(self) -> Answer:
        """What has come so far."""
        return Answer(
            text="".join(self._text),
            finish_reason=self._finish_reason,
            tokens=tuple(self._tokens),
            confidence=self._score,
            sentences=self._sentences,
            usage=self._usage,
            tool_calls=tuple(
                ToolCall(id=id_, name=name, arguments=arguments)
                for _, (id_, name, arguments) in sorted(self._calls.items())
            ),
            model=self._model,
            **self._response.facts,
        )

    def _read(self) -> Iterator[Piece]:
        request_id = self._response.facts["request_id"]
        try:
            for data in event_data(self._response.lines(), request_id=request_id):
                if data == _DONE:
                    break
                yield from self._pieces_of(_document(data, request_id))
            if self._finish_reason is None:
                raise ApiError(
                    "the stream ended before the answer did", code="incomplete_answer", request_id=request_id
                )
        finally:
            # Also at the end: what follows [DONE] is not waited for.
            self.close()

    def _pieces_of(self, chunk: Mapping[str, Any]) -> list[Piece]:
        try:
            return list(self._take(chunk))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ApiError(
                f"the stream is not what the gateway sends: {type(error).__name__}: {error}",
                code="invalid_answer",
                request_id=self._response.facts["request_id"],
            ) from None

    def _take(self, chunk: Mapping[str, Any]) -> Iterator[Piece]:
        if "error" in chunk:
            raise error_of(chunk, status=None, request_id=self._response.facts["request_id"], retry_after=None)
        self._model = chunk.get("model") or self._model
        self._usage = usage_of(chunk.get("usage")) or self._usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            piece = Piece(text=text_of(delta.get("content")), tokens=chat_tokens(choice.get("logprobs")))
            self._text.append(piece.text)
            self._tokens += piece.tokens
            for part in delta.get("tool_calls") or ():
                self._add_call(part)
            if choice.get("confidence"):
                self._score, self._sentences = confidence_of(choice["confidence"])
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            if piece.text or piece.tokens or delta.get("tool_calls"):
                yield piece

    def _add_call(self, part: Mapping[str, Any]) -> None:
        call = self._calls.setdefault(part.get("index", 0), ["", "", ""])
        function = part.get("function") or {}
        for place, text in enumerate((part.get("id"), function.get("name"), function.get("arguments"))):
            call[place] += text_of(text)


def _document(data: str, request_id: str | None) -> Mapping[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ApiError("an event of the stream is no JSON object", code="invalid_answer", request_id=request_id)
    return document
