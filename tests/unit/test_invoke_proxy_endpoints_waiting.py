"""Repeating a call until the endpoint is ready, and sending a late one twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from unit.upstream_server import nothing_left

from invoke_proxy.endpoints.hedging import first_of_two
from invoke_proxy.endpoints.waiting import until_ready
from invoke_proxy.errors import ApiError


def failure(code: str) -> ApiError:
    return ApiError(status=503, message="x", code=code)


class Clock:
    """Time that passes only in sleep, and in attempts that take some."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Attempts:
    """Outcomes in order; the last one again and again."""

    def __init__(self, clock: Clock, *outcomes: str, takes: float = 0.0) -> None:
        self.count = 0
        self._clock, self._outcomes, self._takes = clock, outcomes, takes

    async def __call__(self) -> str:
        outcome = self._outcomes[min(self.count, len(self._outcomes) - 1)]
        self.count += 1
        self._clock.now += self._takes
        if outcome == "answer":
            return outcome
        raise failure(outcome)


async def wait(clock: Clock, attempts: Attempts, bound: float, pause: float = 5) -> str:
    return await until_ready(attempts, bound=bound, pause=pause, clock=clock, sleep=clock.sleep)


async def test_an_endpoint_that_becomes_ready() -> None:
    clock = Clock()
    attempts = Attempts(clock, "no_capacity", "model_not_ready", "answer")

    assert await wait(clock, attempts, 60) == "answer"
    assert clock.slept == [5, 5]


async def test_an_endpoint_that_is_ready() -> None:
    clock = Clock()
    assert await wait(clock, Attempts(clock, "answer"), 0) == "answer"
    assert clock.slept == []


@pytest.mark.parametrize(
    ("bound", "takes", "count", "slept"),
    # The last but one: 3 s for an attempt, 5 s of pause, 3 s for another: 10 s are over.
    [(0, 0, 1, []), (-1, 0, 1, []), (12, 0, 4, [5, 5, 2]), (10, 0, 3, [5, 5]), (10, 3, 2, [5]), (1, 60, 1, [])],
)
async def test_the_last_failure_when_the_time_is_over(
    bound: float, takes: float, count: int, slept: list[float]
) -> None:
    clock = Clock()
    attempts = Attempts(clock, "model_not_ready", takes=takes)
    with pytest.raises(ApiError, match="model_not_ready"):
        await wait(clock, attempts, bound)
    assert attempts.count == count
    assert clock.slept == slept


async def test_no_attempt_outlasts_the_time_that_is_left_for_it() -> None:
    """The first may take as long as any other request; a later one ends in time, with the failure before it."""
    ended: list[str] = []

    async def attempt() -> str:
        if not ended:
            ended.append("first")
            raise failure("no_capacity")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "late"

    started = time.monotonic()
    with pytest.raises(ApiError, match="no_capacity"):
        await until_ready(attempt, bound=0.2, pause=0.05, attempt_seconds=0.1)
    assert 0.25 < time.monotonic() - started < 5
    assert ended == ["first", "cancelled"]
    await nothing_left()


async def test_a_first_attempt_may_take_its_time() -> None:
    assert await until_ready(gives("answer", 0.2), bound=0.01, attempt_seconds=0.01) == "answer"


async def test_an_attempt_of_its_own_may_time_out() -> None:
    outcomes = [failure("no_capacity"), TimeoutError("its own")]

    async def attempt() -> str:
        raise outcomes.pop(0)

    with pytest.raises(TimeoutError, match="its own"):
        await until_ready(attempt, bound=5, pause=0.01)


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "timeout", "connection_failed", "model_failed"])
async def test_other_failures_are_final(code: str) -> None:
    clock = Clock()
    attempts = Attempts(clock, "no_capacity", code)
    with pytest.raises(ApiError, match=code):
        await wait(clock, attempts, 60)
    assert attempts.count == 2


async def test_cancelling_while_waiting() -> None:
    attempts = Attempts(Clock(), "no_capacity")
    task = asyncio.create_task(until_ready(attempts, bound=60))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert attempts.count == 1


# ---- hedging --------------------------------------------------------------------------------------------------------


class Race:
    """Attempts that wait for their release, and what became of them."""

    def __init__(self, *runs: Callable[[], Awaitable[str]]) -> None:
        self.started = 0
        self.cancelled: list[int] = []
        self.discarded: list[str] = []
        self._runs = runs

    async def attempt(self) -> str:
        number = self.started
        self.started += 1
        try:
            return await self._runs[number]()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise

    async def run(self, *, after: float = 0.02, alone: bool = True) -> str:
        try:
            return await first_of_two(self.attempt, after=after, discard=self.discarded.append)
        finally:
            if alone:
                await nothing_left()

    async def has_started(self, count: int) -> None:
        async with asyncio.timeout(5):
            while self.started < count:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)


def gives(result: str, seconds: float = 0) -> Callable[[], Awaitable[str]]:
    async def run() -> str:
        await asyncio.sleep(seconds)
        if result.startswith("fails"):
            raise failure(result)
        return result

    return run


async def test_an_answer_in_time_is_the_only_one() -> None:
    race = Race(gives("first"))
    assert await race.run(after=1) == "first"
    assert race.started == 1


async def test_a_late_answer_is_overtaken() -> None:
    race = Race(gives("first", 5), gives("second"))
    assert await race.run() == "second"
    assert (race.cancelled, race.discarded) == ([0], [])


async def test_a_late_answer_may_still_win() -> None:
    race = Race(gives("first", 0.05), gives("second", 5))
    assert await race.run() == "first"
    assert race.cancelled == [1]


async def test_a_failure_in_time_is_the_answer() -> None:
    race = Race(gives("fails"))
    with pytest.raises(ApiError, match="fails"):
        await race.run(after=1)
    assert race.started == 1


@pytest.mark.parametrize("first_fails", [False, True])
async def test_a_failure_does_not_win(first_fails: bool) -> None:
    bad, good = gives("fails", 0.04), gives("good", 0.08)
    race = Race(bad, good) if first_fails else Race(good, bad)
    assert await race.run() == "good"
    assert (race.started, race.cancelled) == (2, [])


async def test_two_failures_are_the_first_ones() -> None:
    race = Race(gives("fails first", 0.06), gives("fails second"))
    with pytest.raises(ApiError, match="fails first"):
        await race.run()


async def test_two_answers_at_the_same_moment() -> None:
    gate = asyncio.Event()

    def answers(words: str) -> Callable[[], Awaitable[str]]:
        async def run() -> str:
            await gate.wait()
            return words

        return run

    race = Race(answers("first"), answers("second"))
    task = asyncio.create_task(race.run(after=0, alone=False))
    await race.has_started(2)
    gate.set()

    assert await task == "first"
    assert (race.discarded, race.cancelled) == (["second"], [])


@pytest.mark.parametrize(("after", "count"), [(10, 1), (0, 2)])
async def test_cancelling_ends_all_attempts(after: float, count: int) -> None:
    race = Race(gives("first", 5), gives("second", 5))
    task = asyncio.create_task(race.run(after=after, alone=False))
    await race.has_started(count)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert race.cancelled == list(range(count))
    await nothing_left()


async def test_a_result_is_not_lost_when_the_end_is_cancelled() -> None:
    """The winner is there, the other attempt takes its time to end, and the caller goes away meanwhile."""
    ending = asyncio.Event()

    async def stubborn() -> str:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            ending.set()
            await asyncio.sleep(0.05)
        return "late"

    race = Race(stubborn, gives("second"))
    task = asyncio.create_task(race.run(after=0, alone=False))
    await ending.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.1)
    assert race.discarded == ["second", "late"]
    await nothing_left()
