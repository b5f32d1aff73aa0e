"""The dialect `lmi-async-trtllm`: LMI's asynchronous handler with TensorRT-LLM 0.21, in LMI 0.33.0.

Read from deepjavalibrary/djl-serving@8b3b685: trtllm_async_service.py. Its requests refuse fields that they do not
know. Without `max_tokens` the runtime's default is a few tokens, and prompt and answer together must fit the engine.
NOT VERIFIED at 0.21: min_p, logit_bias, JSON mode (needs `guided_decoding_backend`), log probabilities of chats (need
an engine that gathers logits). They are refused.
"""

from __future__ import annotations

from typing import Any

from invoke_proxy.generation import Answer, Generation
from invoke_proxy.registry import Deployment

from .asking import TextDialect
from .base import StreamParser
from .lmi_async import AsyncParser, whole_answer
from .openai_asking import openai_body

__all__ = ["LmiAsyncTrtLlm"]

_FIELDS = frozenset({"top_k", "repetition_penalty", "frequency_penalty", "presence_penalty", "stop", "seed"})


class LmiAsyncTrtLlm(TextDialect):
    """OpenAI's requests; its chunks, one a line."""

    name = "lmi-async-trtllm"
    tokens_are_counted = False

    def body(self, generation: Generation, deployment: Deployment) -> dict[str, Any]:
        """Return the body for `/invocations`."""
        body = openai_body(generation, deployment, mapped=_FIELDS, greedy={"top_k": 1})
        if generation.max_tokens is None:
            # What fits beside the longest prompt: how long this one is, only the engine knows.
            body["max_tokens"] = max(1, deployment.max_total_tokens - deployment.max_input_tokens)
        return body

    def answer(self, payload: bytes) -> Answer:
        """Read an answer that came in one piece."""
        return whole_answer(payload)

    def parser(self) -> StreamParser:
        """Return a parser for one stream."""
        return AsyncParser()
