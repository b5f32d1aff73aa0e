"""Logging of the emulator's process: one file, and nothing that carries a request."""

from __future__ import annotations

import logging
from pathlib import Path

__all__ = ["configure"]

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# What these log below WARNING quotes what functions print, or lists every request.
_QUIET = ("lambda", "hypercorn.access", "werkzeug", "botocore", "boto3", "urllib3", "s3transfer", "moto", "asyncio")


def configure(*, log_file: Path) -> None:
    """Send the log to a file, in place of the handlers that MiniStack installs while it loads."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
