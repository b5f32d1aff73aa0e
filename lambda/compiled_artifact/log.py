"""What the functions write to their logs: one line of JSON for each thing that happens, never a secret."""

from __future__ import annotations

import json
import sys

__all__ = ["emit"]


def emit(event: str, **details: object) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps({"event": event, **details}, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()
