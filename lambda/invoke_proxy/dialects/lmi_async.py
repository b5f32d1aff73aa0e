"""What LMI's asynchronous handlers share: OpenAI's requests, and OpenAI's chunks one a line, without `[DONE]`.

Read from deepjavalibrary/djl-serving@d21927c (`lmi_vllm`) and @8b3b685 (0.33.0-dlc, `lmi_trtllm`):
request_response_utils.py, async_utils.py, Request.java, AsyncRequestManager.java. They take three requests: `messages`,
`prompt` and `inputs`. The third is TGI's, poorly: a whole answer has the stop reason where the finish reason should be
(null when the limit was reached), `generated_tokens` of a stream is one too many, and `top_n_tokens` asks for several
answers. So the gateway asks with the first two; lines of the third are understood all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from invoke_proxy.generation import Answer, Finish, Piece, StreamEvent, Token

from . import reading
from .json_lines import JsonLinesParser
from .openai_reading import ChunkReader, read_answer

__all__ = ["AsyncParser", "whole_answer"]

_ENGINE = "DJL Serving"


def whole_answer(payload: bytes) -> Answer:
    """Read an answer that came in one piece.

    Raises
    ------
    ApiError
        The engine's failure, or 502 when it is not one of the handlers' answers.
    """
    try:
        document = reading.load(payload)
        reading.raise_failure(document)
        if "choices" in document:
            return read_answer(document)
        details = document.get("details") or {}
        reason = details.get("finish_reason")
        return Answer(
            text=reading.text(document["generated_text"]),
            tokens=tuple(map(_token, details.get("tokens") or ())),
            finish=Finish(
                # The stop sequence or the stopping token's id, or null whatever the reason was.
                reason="stop",
                engine_reason=None if reason is None else str(reason),
                completion_tokens=reading.count(details.get("generated_tokens")),
                prompt_tokens=len(details.get("prefill") or ()) or None,
                seed=reading.whole_number(details.get("seed")),
            ),
        )
    except reading.MALFORMED as error:
        raise reading.not_understood(_ENGINE) from error


class AsyncParser(JsonLinesParser):
    """Reads OpenAI's chunks, or TGI's events, one a line."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks = ChunkReader()

    def read(self, document: dict[str, Any]) -> Iterable[StreamEvent]:
        """Return what one line says."""
        if "choices" in document:
            return self._chunks.read(document)
        return _tgi_line(document)

    def at_end(self) -> Iterable[StreamEvent]:
        """Return the finish, if only the usage is missing."""
        return (self._chunks.finish(),) if self._chunks.has_reason else ()


def _tgi_line(document: Mapping[str, Any]) -> Iterator[StreamEvent]:
    token = _token(document["token"])
    # TensorRT-LLM's have no id and no log probability: they are parts of the text, not tokens.
    yield Piece(text=token.text, tokens=() if token.id is None else (token,))
    if document.get("generated_text") is not None:
        details = document.get("details") or {}
        reason = details.get("finish_reason")
        reported = reading.count(details.get("generated_tokens"))
        yield Finish(
            reason=reading.finish_reason(reason),
            engine_reason=reason,
            completion_tokens=None if reported is None else max(0, reported - 1),
            prompt_tokens=reading.count(details.get("input_length")),
            seed=reading.whole_number(details.get("seed")),
        )


def _token(item: Mapping[str, Any]) -> Token:
    return Token(
        text=reading.text(item["text"]),
        id=reading.whole_number(item.get("id")),
        logprob=reading.number(item.get("logprob")),
    )
