"""Threads that work off a queue, and all end with the first failure or the request to stop."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType

from compile_job.errors import Stopped

__all__ = ["Cancelled", "Crew"]

_LOOK_SECONDS = 0.05
# A thread that hangs in a socket for longer is left behind; it is a daemon, and what it sends belongs to nothing.
_PATIENCE_SECONDS = 5.0

_Task = Callable[[], None]


class Cancelled(BaseException):
    """Ends a task of a crew that gave up. No `Exception`: botocore would take it for a broken connection and retry."""


class Crew:
    """Two groups of threads: some transfer, some hash. Tasks may hand in further tasks of either kind.

    Parameters
    ----------
    transfers, hashers
        How many threads each kind has.
    stop
        When it is set, all tasks end and `wait` raises `Stopped`.
    on_bytes
        Called with the bytes done, by one thread at a time.
    """

    def __init__(
        self, *, transfers: int, hashers: int, stop: threading.Event, on_bytes: Callable[[int], None] | None
    ) -> None:
        self._stop = stop
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self._open = 0
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._cancelled = threading.Event()
        self._transfers: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._hashes: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._sizes = ((self._transfers, transfers), (self._hashes, hashers))
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Crew:
        for tasks, number in self._sizes:
            for _ in range(number):
                thread = threading.Thread(target=self._work, args=(tasks,), name="transfer", daemon=True)
                self._threads.append(thread)
                thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cancelled.set()
        for tasks, number in self._sizes:
            for _ in range(number):
                tasks.put(None)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def transfer(self, task: _Task) -> None:
        """Hand in a task that waits for the network."""
        self._add(self._transfers, task)

    def hash(self, task: _Task) -> None:
        """Hand in a task that computes."""
        self._add(self._hashes, task)

    def check(self) -> None:
        """End the calling task if all is over."""
        if self._cancelled.is_set() or self._stop.is_set():
            raise Cancelled

    def count(self, number: int) -> None:
        """Tell that so many bytes are done."""
        if self._on_bytes is not None and number:
            with self._lock:
                self._on_bytes(number)

    def wait(self) -> None:
        """Wait until there are no tasks left.

        Raises
        ------
        Stopped
            When `stop` was set.
        BaseException
            The first that a task raised.
        """
        # In small steps: a signal is handled between them, and `stop` is not ours to wait for.
        while not self._ended.wait(_LOOK_SECONDS):
            if self._stop.is_set() or self._open == 0:
                break
        if self._error is not None:
            raise self._error
        if self._stop.is_set():
            raise Stopped

    def _add(self, tasks: queue.SimpleQueue[_Task | None], task: _Task) -> None:
        with self._lock:
            self._open += 1
        tasks.put(task)

    def _work(self, tasks: queue.SimpleQueue[_Task | None]) -> None:
        while (task := tasks.get()) is not None:
            try:
                self.check()
                task()
            except Cancelled:
                pass
            except BaseException as error:  # raised again by `wait`, in the caller's thread
                with self._lock:
                    self._error = self._error or error
                self._cancelled.set()
                self._ended.set()
            with self._lock:
                self._open -= 1
                if self._open == 0:
                    self._ended.set()
