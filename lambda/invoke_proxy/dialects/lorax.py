"""The dialect `lorax`: LoRAX 0.12.1, behind `/invocations` or its root.

As TGI's, with adapters. Read from its router and server at v0.12.1: `return_k_alternatives` is accepted and never
filled, JSON mode is `response_format` with the schema beside the type, several adapters need weights.
"""

from __future__ import annotations

from typing import Any

from invoke_proxy.errors import bad_request
from invoke_proxy.generation import Answer, Generation
from invoke_proxy.registry import Deployment

from . import tgi
from .asking import TextDialect, check_range, check_room, prompt_of, refuse_unmapped
from .base import StreamParser

__all__ = ["Lorax"]

_FIELDS = frozenset(
    {"top_k", "repetition_penalty", "frequency_penalty", "presence_penalty", "stop", "seed", "logprobs"}
    | {"response_format", "adapters"}
)
_EXTRA = frozenset(
    {"typical_p", "truncate", "watermark", "best_of", "adapter_source", "api_token", "ignore_eos_token"}
    | {"merged_adapters"}
)


class Lorax(TextDialect):
    """TGI's `inputs` and `parameters`, with `adapter_id`."""

    name = "lorax"
    tokens_are_counted = True

    def body(self, generation: Generation, deployment: Deployment) -> dict[str, Any]:
        """Return the body for `/invocations`."""
        refuse_unmapped(generation, deployment, mapped=_FIELDS, extra=_EXTRA)
        check_room(generation, deployment)
        check_range("presence_penalty", generation.presence_penalty, least=-2, most=2)
        parameters = tgi.parameters(generation)
        if generation.presence_penalty:
            parameters["presence_penalty"] = generation.presence_penalty
        if generation.response_format is not None:
            parameters |= _json_mode(generation)
        if generation.adapters:
            parameters |= _adapters(generation.adapters)
        return {"inputs": prompt_of(generation, deployment), "parameters": parameters, "stream": generation.stream}

    def answer(self, payload: bytes) -> Answer:
        """Read an answer that came in one piece."""
        return tgi.whole_answer(payload)

    def parser(self) -> StreamParser:
        """Return a parser for one stream."""
        return tgi.TgiParser()


def _adapters(names: tuple[str, ...]) -> dict[str, Any]:
    if len(names) == 1:
        return {"adapter_id": names[0]}
    # Merging is a sum unless told otherwise; equal weights make it the mean.
    return {"merged_adapters": {"ids": list(names), "weights": [1 / len(names)] * len(names)}}


def _json_mode(generation: Generation) -> dict[str, Any]:
    """Return LoRAX's `response_format`: OpenAI's keeps the schema one level deeper."""
    asked = generation.response_format or {}
    kind = asked.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        # Without a schema LoRAX takes one for any object of plain values.
        return {"response_format": {"type": "json_object"}}
    schema = (asked.get("json_schema") or {}).get("schema")
    if kind != "json_schema" or not isinstance(schema, dict):
        raise bad_request(
            "response_format must have the type text, json_object or json_schema, the last with json_schema.schema.",
            param="response_format",
        )
    return {"response_format": {"type": "json_schema", "schema": schema}}
