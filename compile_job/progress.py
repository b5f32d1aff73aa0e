"""How far the job is: printed, and kept in an SSM parameter that the CLI and the stack's events read.

Nothing here may delay or fail the job: a thread prints and writes, and what it cannot write is warned about once.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .errors import Stopped
from .events import emit, now
from .masking import hide

__all__ = ["Progress"]

EVERY_SECONDS = 15.0
_TICK_SECONDS = 1.0
# Rates are of the last minute.
_WINDOW_SECONDS = 60.0
_LAST_WORDS_SECONDS = 8.0
_LONGEST_MESSAGE = 1500
_WHOLE = 100.0

Writer = Callable[[str], None]


class Progress:
    """Steps, their bytes and what remains.

    Parameters
    ----------
    key
        Of the artifact.
    write
        Takes the parameter's new value; None where nobody wants it.
    """

    def __init__(self, key: str, write: Writer | None = None, *, every: float = EVERY_SECONDS) -> None:
        self._key = key
        self._write = write
        self._every = every
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._warned = False
        self._step = ""
        self._state = "running"
        self._message = ""
        self._steps: dict[str, float] = {}
        self._started = time.monotonic()
        self._bytes = 0
        self._total: int | None = None
        self._measure: Callable[[], int] | None = None
        self._samples: deque[tuple[float, int]] = deque()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, object]]:
        """Print the start of a step and its end with its duration; the caller may add details to the end."""
        with self._lock:
            self._step, self._bytes, self._total, self._measure = name, 0, None, None
            self._samples.clear()
            self._started = started = time.monotonic()
        self._changed.set()
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
        with self._lock:
            self._steps[name] = _since(started)
        emit("end", step=name, seconds=_since(started), **details)

    def expect(self, total: int) -> None:
        """Say how many bytes the step has to move."""
        with self._lock:
            self._total = (self._total or 0) + total

    def add(self, count: int) -> None:
        """Count bytes; may be called in any thread."""
        with self._lock:
            self._bytes += count

    def watch(self, measure: Callable[[], int] | None) -> None:
        """Ask this, too, for bytes that are on their way and not yet counted."""
        with self._lock:
            self._measure = measure

    def close(self, state: str, message: str = "") -> None:
        """Write how it ended, and wait a moment until that is written."""
        with self._lock:
            self._state, self._message = state, hide(message)[:_LONGEST_MESSAGE]
        self._closing.set()
        self._changed.set()
        self._thread.join(timeout=_LAST_WORDS_SECONDS)

    def snapshot(self) -> dict[str, Any]:
        """The parameter's value."""
        moving = self._moving()
        with self._lock:
            done = self._bytes + moving
            if self._total is not None:
                done = min(done, self._total)
            at = time.monotonic()
            rate = self._rate(at, done)
            left = None
            if self._total is not None and rate > 0:
                left = round((self._total - done) / rate)
            return {
                "key": self._key,
                "step": self._step,
                "state": self._state,
                "percent": round(_WHOLE * done / self._total, 1) if self._total else None,
                "bytes": done,
                "total_bytes": self._total,
                "rate": round(rate),
                "seconds_left": left,
                "elapsed": _since(self._started),
                "steps": dict(self._steps),
                "message": self._message,
                "updated": now(),
            }

    def _moving(self) -> int:
        with self._lock:
            measure = self._measure
        try:
            return measure() if measure is not None else 0
        except OSError:
            return 0

    def _rate(self, at: float, done: int) -> float:
        samples = self._samples
        samples.append((at, done))
        while len(samples) > 1 and at - samples[0][0] > _WINDOW_SECONDS:
            samples.popleft()
        (first_at, first), (last_at, last) = samples[0], samples[-1]
        return max(0.0, (last - first) / (last_at - first_at)) if last_at > first_at else 0.0

    def _run(self) -> None:
        written = printed = time.monotonic()
        while True:
            changed = self._changed.wait(_TICK_SECONDS)
            self._changed.clear()
            closing = self._closing.is_set()
            found = self.snapshot()
            at = time.monotonic()
            if at - printed >= self._every and not closing:
                printed = at
                shown = ("step", "percent", "bytes", "total_bytes", "rate", "seconds_left", "elapsed")
                emit("progress", **{name: found[name] for name in shown})
            if changed or closing or at - written >= self._every:
                written = at
                self._put(found)
            if closing:
                return

    def _put(self, value: dict[str, Any]) -> None:
        if self._write is None:
            return
        # Parameter Store takes two opening braces for a reference.
        text = json.dumps(value, ensure_ascii=True).replace("{{", "{ {")
        try:
            self._write(text)
        except Exception as error:
            if not self._warned:
                self._warned = True
                emit("warning", message=f"the progress parameter cannot be written: {error}")


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)
