"""The dialect `lmi-rolling-batch`: LMI 0.29.0 and 0.30.0 with transformers-neuronx.

Read from deepjavalibrary/djl-serving@58eb48b and @fefd40e: output_formatter.py, neuron_rolling_batch.py, slot.py.
Lines when streamed, one document otherwise. `generated_tokens` also counts the steps in which other requests' prompts
were read: they are subtracted. A failure in the middle is HTTP 200 with finish reason `error`, or a line
`{"code": 424, "error": "…"}`.

Chats are rendered here and not by the engine: its own chat route turns a `presence_penalty` of 0, which it fills in
itself, into a `repetition_penalty` of 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invoke_proxy.generation import Answer, Finish, Generation, Heartbeat, Piece, StreamEvent
from invoke_proxy.registry import Deployment

from . import reading
from .asking import TextDialect
from .base import StreamParser
from .json_lines import JsonLinesParser
from .lmi import Backend, is_filler, parameters, read_token

__all__ = ["LmiRollingBatch"]

_ENGINE = "DJL Serving"
_BACKEND = Backend(
    fields=frozenset({"top_k", "repetition_penalty", "seed", "logprobs"}),
    greedy={"do_sample": False},
    samples={"do_sample": True},
    shares_context=True,
    needs_warper=True,
)


class LmiRollingBatch(TextDialect):
    """`inputs` and `parameters` with `stream`; `token` with `log_prob`."""

    name = "lmi-rolling-batch"
    tokens_are_counted = True

    def body(self, generation: Generation, deployment: Deployment) -> dict[str, Any]:
        """Return the body for `/invocations`."""
        prompt, asked = parameters(generation, deployment, _BACKEND)
        return {"inputs": prompt, "parameters": asked, "stream": generation.stream}

    def answer(self, payload: bytes) -> Answer:
        """Read an answer that came in one piece."""
        try:
            document = reading.load(payload)
            details = document.get("details") or {}
            if details.get("finish_reason") == "error":
                # The document says 400, the HTTP status 424: the request is not at fault.
                reading.finish_reason("error", words=reading.text(document.get("error") or ""))
            reading.raise_failure(document)
            items = [item for item in details["tokens"] if not is_filler(item)]
            words = reading.text(document["generated_text"])
            finish = _finish(details, fillers=len(details["tokens"]) - len(items))
            return Answer(text=words, tokens=tuple(map(read_token, items)), finish=finish)
        except reading.MALFORMED as error:
            raise reading.not_understood(_ENGINE) from error

    def parser(self) -> StreamParser:
        """Return a parser for one stream."""
        return _Parser()


class _Parser(JsonLinesParser):
    def __init__(self) -> None:
        super().__init__()
        self._fillers = 0

    def read(self, document: dict[str, Any]) -> Iterator[StreamEvent]:
        item = document["token"]
        last = "generated_text" in document
        details = (document.get("details") or {}) if last else {}
        if details.get("finish_reason") == "error":
            reading.finish_reason("error", words=reading.text(item.get("error_msg", "")))
        if is_filler(item):
            self._fillers += 1
            yield Heartbeat()
        else:
            token = read_token(item)
            yield Piece(text="" if token.special else token.text, tokens=(token,))
        if last:
            yield _finish(details, fillers=self._fillers)


def _finish(details: Mapping[str, Any], *, fillers: int) -> Finish:
    reason = details.get("finish_reason")
    reported = reading.count(details.get("generated_tokens"))
    return Finish(
        reason=reading.finish_reason(reason),
        engine_reason=reason,
        completion_tokens=None if reported is None else max(0, reported - fillers),
    )
