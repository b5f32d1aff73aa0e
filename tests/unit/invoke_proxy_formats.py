"""What the tests of the gateway's formats share: a deployment, and engines that are plain functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from invoke_proxy.generation import Token
from invoke_proxy.registry import Deployment

__all__ = ["ALL_FEATURES", "deployment", "tokens_of"]

ALL_FEATURES = frozenset(
    {
        "adapters",
        "chat",
        "continue",
        "embeddings",
        "json",
        "logit_bias",
        "logprobs",
        "min_p",
        "penalties",
        "repetition_penalty",
        "seed",
        "stop",
        "tools",
        "top_k",
        "top_logprobs",
        "usage",
    }
)


def deployment(*features: str, **overrides: Any) -> Deployment:
    """A deployment with these features and the template of Mistral."""
    values: dict[str, Any] = {
        "deployment": "mixtral",
        "model_id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "endpoint_name": "endpoint",
        "engine": "tgi-neuronx",
        "engine_version": "0.0.25",
        "dialect": "tgi-generate",
        "chat_template": "mistral-instruct",
        "max_input_tokens": 512,
        "max_total_tokens": 1024,
        "registered": 1_700_000_000,
        "features": frozenset(features),
    }
    return Deployment(**{**values, **overrides})


def tokens_of(texts: Iterable[str], *, logprob: float = -0.5) -> tuple[Token, ...]:
    """A token for each text."""
    return tuple(Token(text=text, id=index, logprob=logprob) for index, text in enumerate(texts))
