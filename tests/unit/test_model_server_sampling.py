"""Choosing tokens."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from modelzone.local.model_server.mixtral import Array
from modelzone.local.model_server.sampling import Sampler, Sampling, log_probabilities

LOGITS: Array = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))


def draw(sampling: Sampling, count: int = 400, logits: Array = LOGITS) -> list[int]:
    sampler = Sampler(sampling)
    return [sampler.choose(logits, []) for _ in range(count)]


def test_log_probabilities_are_those_of_a_softmax() -> None:
    np.testing.assert_allclose(np.exp(log_probabilities(LOGITS + 100)), [0.5, 0.3, 0.15, 0.05], rtol=1e-4)


def test_greedy_is_the_default_whatever_the_temperature() -> None:
    assert set(draw(Sampling(temperature=5.0, top_p=0.5, seed=3))) == {0}


def test_the_seed_decides() -> None:
    first, again, other = (draw(Sampling(do_sample=True, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_samples_follow_the_probabilities() -> None:
    counts = Counter(draw(Sampling(do_sample=True, seed=5), count=4000))
    assert [counts[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_temperature_sharpens_and_flattens() -> None:
    cold = Counter(draw(Sampling(do_sample=True, temperature=0.2, seed=5), count=1000))
    hot = Counter(draw(Sampling(do_sample=True, temperature=5.0, seed=5), count=1000))
    assert cold[0] > 900
    assert hot[3] > 120


@pytest.mark.parametrize(("top_k", "kept"), [(1, {0}), (2, {0, 1}), (50, {0, 1, 2, 3})])
def test_top_k_keeps_the_k_best(top_k: int, kept: set[int]) -> None:
    assert set(draw(Sampling(do_sample=True, top_k=top_k, seed=9))) == kept


@pytest.mark.parametrize(("top_p", "kept"), [(0.1, {0}), (0.45, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2})])
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, kept: set[int]) -> None:
    assert set(draw(Sampling(do_sample=True, top_p=top_p, seed=9))) == kept


def test_the_repetition_penalty_makes_seen_tokens_less_likely() -> None:
    logits = np.array([2.0, 1.5, -1.0], dtype=np.float32)
    sampler = Sampler(Sampling(repetition_penalty=2.0))
    assert sampler.choose(logits, [2]) == 0
    assert sampler.choose(logits, [0, 2, 2]) == 1
    assert logits.tolist() == [2.0, 1.5, -1.0]
    # Negative logits are multiplied: token 0 falls from -0.6 to -1.2, below token 1.
    assert sampler.choose(np.array([-0.6, -1.0], dtype=np.float32), [0]) == 1
