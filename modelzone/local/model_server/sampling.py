"""Choosing the next token from the model's logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelzone.local.model_server.mixtral import Array

__all__ = ["Sampler", "Sampling", "Stopping", "log_probabilities"]

DEFAULT_TOP_K = 50
"""What transformers' generation config, and so the container, takes when the request names no `top_k`."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose. Greedy unless `do_sample`; `top_p` 1 keeps all tokens."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = DEFAULT_TOP_K
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When to stop, besides at the end-of-sequence token."""

    max_new_tokens: int
    stop_sequences: tuple[str, ...] = ()


class Sampler:
    """Chooses the tokens of one answer. The same seed gives the same choices from the same logits."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = np.random.default_rng(sampling.seed)

    def choose(self, logits: Array, seen: list[int]) -> int:
        """Return the next token after the tokens in `seen`, prompt included; logits are [V]."""
        sampling = self._sampling
        if sampling.repetition_penalty != 1.0:
            logits = _penalise(logits, seen, sampling.repetition_penalty)
        if not sampling.do_sample:
            return int(np.argmax(logits))
        candidates = np.argsort(-logits, kind="stable")[: sampling.top_k]
        weights = np.exp(log_probabilities(logits[candidates] / np.float32(sampling.temperature))).astype(np.float64)
        if sampling.top_p < 1.0:
            # The smallest set of the most likely tokens whose probabilities reach top_p; never empty.
            kept = int(np.searchsorted(np.cumsum(weights), sampling.top_p)) + 1
            candidates, weights = candidates[:kept], weights[:kept]
        return int(self._generator.choice(candidates, p=weights / weights.sum()))


def log_probabilities(logits: Array) -> Array:
    """Log-softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _penalise(logits: Array, seen: list[int], penalty: float) -> Array:
    """Make tokens that have occurred less likely (Keskar et al. 2019): divide positive logits, multiply negative."""
    penalised = logits.copy()
    tokens = np.unique(seen)
    scores = penalised[tokens]
    penalised[tokens] = np.where(scores > 0, scores / np.float32(penalty), scores * np.float32(penalty))
    return penalised
