"""Waiting for an endpoint that has no instance yet, or whose container still loads the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from invoke_proxy.errors import ApiError

from .failures import MODEL_NOT_READY, NO_CAPACITY

__all__ = ["ATTEMPT_SECONDS", "PAUSE_SECONDS", "until_ready"]

# An endpoint at zero needs minutes (9 min 24 s in one field report): more attempts would find it no sooner.
PAUSE_SECONDS = 5.0
# SageMaker ends a call after 60 seconds, and our client waits a little longer. The settings of an environment see to it
# that a request has this time left when it has waited for as long as it may.
ATTEMPT_SECONDS = 65.0

_PASSING = frozenset({MODEL_NOT_READY, NO_CAPACITY})

_Result = TypeVar("_Result")


async def until_ready(
    attempt: Callable[[], Awaitable[_Result]],
    *,
    bound: float,
    pause: float = PAUSE_SECONDS,
    attempt_seconds: float = ATTEMPT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> _Result:
    """Repeat an attempt while the endpoint has no capacity or loads its model.

    The first failing call is also what makes an endpoint at zero start: the alarm counts it.

    Parameters
    ----------
    bound
        Seconds from the first attempt after which no further one is begun; 0: a single attempt.
    pause
        Seconds between two attempts.
    attempt_seconds
        How long the last attempt may take: none but the first goes on for longer than `bound` and this together.

    Raises
    ------
    ApiError
        The last one, when the time is over; any other failure at once.
    """
    end = clock() + bound
    last: ApiError | None = None
    while True:
        # Who has waited must have an answer before the request itself is ended; who has not may stream for minutes.
        scope = asyncio.timeout(None if last is None else end + attempt_seconds - clock())
        try:
            async with scope:
                return await attempt()
        except TimeoutError:
            if last is None or not scope.expired():
                raise
            raise last from None
        except ApiError as error:
            left = end - clock()
            if error.code not in _PASSING or left <= 0:
                raise
            last = error
        await sleep(min(pause, left))
