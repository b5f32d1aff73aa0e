"""The arithmetic of the comparison, and the contenders' common way of being asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.gateway.__main__ import COMMON, LITELLM, OURS, Found, goals, rows
from benchmarks.gateway.contenders import direct, ours
from benchmarks.gateway.measures import Round, Sizes, measure, percentile
from tests.gateway.fake_process import running_fake

TINY = Sizes(
    requests=5, stream_tokens=5, streams_at_once=2, concurrencies=(2,), throughput_seconds=0.1, burst_tokens=20
)


def found(added_ms: float, import_ms: float) -> Found:
    """What a contender that adds so much would have been found to do; every round has the same noise."""
    rounds = []
    for noise in (0.0, 0.5, 0.1):
        seconds = [(1 + noise + added_ms) / 1000] * 3
        rounds.append(
            Round(
                requests=seconds,
                tokens=seconds,
                busy_tokens=seconds,
                first_tokens=seconds,
                burst=seconds,
                request_cpu=seconds,
                token_cpu=seconds,
                throughput={8: 100.0},
            )
        )
    return Found(rounds=rounds, imports=[(import_ms / 1000, import_ms / 1000)] * 3)


def test_what_is_added_is_above_the_direct_figure_of_the_same_round() -> None:
    table = {
        row.title: row.figures
        for row in rows({"direct": found(0, 0), OURS: found(1, 100), LITELLM: found(6, 900), COMMON: found(1.5, 400)})
    }

    assert table["added ms, request, p50"] == pytest.approx({"direct": 1.1, OURS: 1, LITELLM: 6, COMMON: 1.5})
    assert table["cold import ms"] == pytest.approx({OURS: 100, LITELLM: 900, COMMON: 400})


def test_goals_hold_or_fail() -> None:
    kept = goals(rows({"direct": found(0, 0), OURS: found(1, 100), LITELLM: found(6, 900), COMMON: found(1.5, 400)}))

    assert [goal.holds for goal in kept] == [True, True, True, False, False, False, True]
    assert [round(goal.times, 2) for goal in kept] == [6, 6, 6, 1.5, 1.5, 1.5, 4]


def test_percentiles() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([3, 1, 2], 0.99) == 3


def test_a_round_over_the_real_proxy(tmp_path: Path) -> None:
    with running_fake(tmp_path) as aws_url:
        for contender in (direct(), ours()):
            with contender.start(aws_url) as running:
                outcome = asyncio.run(measure(contender, running, TINY))

            assert len(outcome.requests) == 5
            assert len(outcome.tokens) == 5
            assert len(outcome.busy_tokens) == 10
            assert outcome.throughput[2] > 0
