"""One answer to SIGTERM, SIGINT and a Spot interruption notice: stop, cleanly and soon."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import Stopped

__all__ = ["Stop", "held"]

_pending: list[Stopped] = []
_holding: list[bool] = []


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait until the block ends: what the block begins is then known to those who clean up."""
    _holding.append(True)
    try:
        yield
    finally:
        _holding.pop()
        if _pending and not _holding:
            raise _pending.pop()


class Stop:
    """Set once, and for good.

    Attributes
    ----------
    event
        For threads, which no signal reaches.
    spot
        The host will be taken away; otherwise it was a signal.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.spot = False

    def install(self) -> None:
        """Answer the signals from now on; to be called in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def notice(self) -> None:
        """Stop because the host will be taken away; may be called in any thread."""
        self.spot = True
        self.event.set()
        # Interrupts the main thread in whatever it waits for.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def check(self) -> None:
        """Raise `Stopped` if it is time.

        The signal's own exception is lost when it arrives where Python ignores exceptions, so waiting code looks here
        as well.
        """
        if self.event.is_set():
            raise Stopped(spot=self.spot)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Once is enough: cleaning up must not be interrupted.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.event.set()
        if _holding:
            _pending.append(Stopped(spot=self.spot))
        else:
            raise Stopped(spot=self.spot)
