"""What the program prints: one line of JSON for each thing that happens."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from .errors import Stopped

__all__ = ["emit", "step"]


def emit(event: str, **details: object) -> None:
    """Print one event. Details are facts of the job and the host, never a token."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")  # noqa: UP017 - Python 3.10 has no datetime.UTC
    sys.stdout.write(json.dumps({"time": now, "event": event, **details}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


@contextmanager
def step(name: str) -> Iterator[dict[str, object]]:
    """Print the start of a step and its end with its duration; the caller may add details to the end."""
    started = time.monotonic()
    details: dict[str, object] = {}
    emit("start", step=name)
    try:
        yield details
    except Stopped:
        emit("stopped", step=name, seconds=_since(started))
        raise
    except BaseException:
        emit("failed", step=name, seconds=_since(started))
        raise
    emit("end", step=name, seconds=_since(started), **details)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)
