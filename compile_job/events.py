"""What the program prints: one line of JSON for each thing that happens."""

from __future__ import annotations

import json
import sys
import threading
from datetime import datetime, timezone

from .masking import hide

__all__ = ["emit", "now"]

# Threads print, too: a line must not be torn.
_PRINTING = threading.Lock()


def now() -> str:
    """Return the time as the events and the progress parameter hold it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")  # noqa: UP017 - Python 3.10 has no datetime.UTC


def emit(event: str, **details: object) -> None:
    """Print one event. Details are facts of the job and the host, never a token."""
    line = hide(json.dumps({"time": now(), "event": event, **details}, ensure_ascii=False))
    with _PRINTING:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
