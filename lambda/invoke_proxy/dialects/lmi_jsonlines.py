"""The dialect `lmi-jsonlines`: LMI 0.26.0 with `output_formatter=jsonlines`, whichever backend is inside.

Read from deepjavalibrary/djl-serving@1635512: rolling_batch.py (`_jsonlines_output_formatter`, `Token.as_dict`), the
backends beside it, and RollingBatch.java. The same lines come whether the client streams or not. The last has
`generated_text`; its `details` has the finish reason only. Tokens are not counted, and cannot be here: a line of vLLM
may stand for several. Nor has it a log probability for tokens that are only a part of a character: they have no line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from invoke_proxy.generation import Answer, Finish, Generation, Heartbeat, Piece, StreamEvent
from invoke_proxy.registry import Deployment

from . import reading
from .asking import TextDialect
from .base import StreamParser
from .json_lines import JsonLinesParser, gathered
from .lmi import Backend, is_filler, parameters, read_token

__all__ = ["LmiJsonLines"]

_CHOOSER = Backend(
    # lmi_dist_rolling_batch.py and deepspeed_rolling_batch.py read the same parameters.
    fields=frozenset({"top_k", "repetition_penalty", "stop", "seed", "logprobs"}),
    greedy={"do_sample": False},
    samples={"do_sample": True},
)
_BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "lmi-vllm": Backend(
            # What SamplingParams of vLLM 0.2.7 takes; `seed` and `do_sample` are thrown away before.
            fields=frozenset(
                {"top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "stop", "logprobs"}
            ),
            stop_name="stop",
            greedy={"temperature": 0.0},
            shares_context=True,
            most_repetition_penalty=2,
        ),
        "lmi-dist": _CHOOSER,
        "lmi-deepspeed": _CHOOSER,
        "lmi-trtllm": Backend(
            # NOT VERIFIED: what else tensorrt_llm_toolkit takes; its source is not public.
            fields=frozenset({"top_k", "seed"}),
            greedy={"top_k": 1},
            samples={"do_sample": True},
            fixed_answer=True,
        ),
    }
)


class LmiJsonLines(TextDialect):
    """One JSON object a line; `token` with `log_prob`."""

    name = "lmi-jsonlines"
    tokens_are_counted = False

    def body(self, generation: Generation, deployment: Deployment) -> dict[str, Any]:
        """Return the body for `/invocations`. 0.26.0 has no switch for streams: it always sends lines."""
        prompt, asked = parameters(generation, deployment, _BACKENDS.get(deployment.engine))
        return {"inputs": prompt, "parameters": asked}

    def answer(self, payload: bytes) -> Answer:
        """Read an answer that came in one piece."""
        return gathered(self.parser(), payload)

    def parser(self) -> StreamParser:
        """Return a parser for one stream."""
        return _Parser()


class _Parser(JsonLinesParser):
    def read(self, document: dict[str, Any]) -> Iterator[StreamEvent]:
        item = document["token"]
        if is_filler(item):
            yield Heartbeat()
        else:
            # The backends always have a log probability: one that is left out is 0.
            token = read_token(item, missing_log_prob=0.0)
            yield Piece(text="" if token.special else token.text, tokens=(token,))
        if "generated_text" in document:
            reason = (document.get("details") or {}).get("finish_reason")
            yield Finish(reason=reading.finish_reason(reason), engine_reason=reason)
