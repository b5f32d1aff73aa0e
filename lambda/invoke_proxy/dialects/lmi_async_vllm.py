"""The dialect `lmi-async-vllm`: LMI's asynchronous handler with vLLM, from v17 on.

A deployment with `option.task=text-embedding` takes `inputs` and answers a list of vectors, nothing else.
"""

from __future__ import annotations

from typing import Any

from invoke_proxy.errors import bad_request
from invoke_proxy.generation import Answer, Generation
from invoke_proxy.registry import Deployment

from . import reading
from .base import Embeddings, StreamParser
from .lmi_async import AsyncParser, whole_answer
from .openai_asking import VLLM_FIELDS, VLLM_STOPPING, only_adapter, openai_body

__all__ = ["LmiAsyncVllm"]


class LmiAsyncVllm:
    """OpenAI's requests; its chunks, one a line."""

    name = "lmi-async-vllm"
    tokens_are_counted = False

    def body(self, generation: Generation, deployment: Deployment) -> dict[str, Any]:
        """Return the body for `/invocations`."""
        body = openai_body(
            generation, deployment, mapped=VLLM_FIELDS, greedy={"temperature": 0}, stopping=VLLM_STOPPING
        )
        adapter = only_adapter(generation)
        return body if adapter is None else {**body, "adapters": adapter}

    def answer(self, payload: bytes) -> Answer:
        """Read an answer that came in one piece."""
        return whole_answer(payload)

    def parser(self) -> StreamParser:
        """Return a parser for one stream."""
        return AsyncParser()

    def embeddings_body(self, inputs: tuple[str, ...], *, dimensions: int | None) -> dict[str, Any]:
        """Return the body that asks for embeddings."""
        if dimensions is not None:
            raise bad_request(
                "dimensions is not supported: this engine has no parameter for it. Leave it out.",
                param="dimensions",
                code="unsupported_parameter",
            )
        return {"inputs": list(inputs)}

    def embeddings(self, payload: bytes) -> Embeddings:
        """Read embeddings. The handler throws away how many tokens it read."""
        try:
            document = reading.load(payload)
            if isinstance(document, dict):
                reading.raise_failure(document)
            if not isinstance(document, list):
                raise reading.not_understood("DJL Serving")
            return Embeddings(vectors=tuple(tuple(map(float, vector)) for vector in document))
        except reading.MALFORMED as error:
            raise reading.not_understood("DJL Serving") from error
