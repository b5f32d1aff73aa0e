"""Sending a request a second time when the first answer is late: the slowest requests become rarer.

It costs a second generation for each late request, so it is off unless an environment asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["first_of_two"]

_Result = TypeVar("_Result")


async def first_of_two(
    attempt: Callable[[], Coroutine[Any, Any, _Result]],
    *,
    after: float,
    discard: Callable[[_Result], None],
) -> _Result:
    """Run an attempt, and a second one beside it when the first has no result after a while.

    The first result wins; the other attempt is cancelled, and has ended when this returns. While the other is under
    way, a failure does not count; when both fail, the first one's failure is raised. Cancelling this cancels both.

    Parameters
    ----------
    after
        Seconds until the second attempt.
    discard
        Gives back a result that came too late to win.
    """
    tasks = [asyncio.create_task(attempt())]
    try:
        await asyncio.wait(tasks, timeout=after)
        if not tasks[0].done():
            tasks.append(asyncio.create_task(attempt()))
        pending = set(tasks)
        winner: asyncio.Task[_Result] | None = None
        while pending and winner is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            winner = next((task for task in tasks if task in done and _succeeded(task)), None)
        # Without a winner both have failed: this raises the first one's failure.
        result = (winner or tasks[0]).result()
    except BaseException:
        await _give_up(tasks, discard)
        raise
    try:
        await _give_up([task for task in tasks if task is not winner], discard)
    except BaseException:
        discard(result)
        raise
    return result


def _succeeded(task: asyncio.Task[Any]) -> bool:
    return not task.cancelled() and task.exception() is None


async def _give_up(tasks: list[asyncio.Task[_Result]], discard: Callable[[_Result], None]) -> None:
    """Cancel tasks and wait for their ends; also when the waiting is cancelled, no result is lost."""

    def ended(task: asyncio.Task[_Result]) -> None:
        if _succeeded(task):
            discard(task.result())

    for task in tasks:
        if task.done():
            ended(task)
        else:
            task.add_done_callback(ended)
            task.cancel()
    if tasks:
        await asyncio.wait(tasks)
