"""Structured logs: one JSON object per line, and never a prompt, an answer, a key or a header."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers

__all__ = ["RequestLog", "configure"]

logger = logging.getLogger(__name__)

# These would print bodies and headers at DEBUG, so LOG_LEVEL does not reach them.
_QUIET = ("boto3", "botocore", "urllib3", "asyncio", "uvicorn", "uvicorn.error")
_LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
_MAX_ID_LENGTH = 128


class _JsonFormatter(logging.Formatter):
    """One line of JSON. Of an exception only its type and place: its text may quote a request."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["exception"] = type(error).__name__
            line["where"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
            ]
        return json.dumps(line, ensure_ascii=False, default=str)


def configure() -> None:
    """Write JSON lines to standard output, from this package at the level in LOG_LEVEL, from all others warnings."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in _QUIET:
        quiet = logging.getLogger(name)
        quiet.handlers.clear()
        quiet.propagate = True
        quiet.setLevel(logging.WARNING)
    level = os.environ.get("LOG_LEVEL", "INFO").upper()
    logging.getLogger("invoke_proxy").setLevel(level if level in _LEVELS else "INFO")


@dataclass(kw_only=True)
class RequestLog:
    """What is known about one request; written once, when its answer has ended.

    Durations are in milliseconds. Time to first token counts from the request's arrival in this process.
    """

    request_id: str
    route: str
    key_id: str | None = None
    deployment: str | None = None
    model_id: str | None = None
    stream: bool = False
    error: str | None = None
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    _started: float = field(default_factory=time.perf_counter, init=False)
    _first_token: float | None = field(default=None, init=False)
    _written: bool = field(default=False, init=False)

    @classmethod
    def begin(cls, headers: Headers, *, route: str) -> RequestLog:
        """Start the log of a request; ids come from the contexts that the Lambda Web Adapter passes on."""
        gateway = _context(headers, "x-amzn-request-context")
        function = _context(headers, "x-amzn-lambda-context")
        identity = gateway.get("identity")
        key_id = identity.get("apiKeyId") if isinstance(identity, dict) else None
        request_id = gateway.get("requestId") or function.get("request_id") or uuid.uuid4()
        return cls(
            request_id=str(request_id)[:_MAX_ID_LENGTH],
            route=route,
            key_id=key_id if isinstance(key_id, str) else None,
        )

    def token(self) -> None:
        """Count a token that came in a stream."""
        self.completion_tokens = (self.completion_tokens or 0) + 1
        if self._first_token is None:
            self._first_token = time.perf_counter()

    def write(self, *, status: int) -> None:
        """Write the line, once."""
        if self._written:
            return
        self._written = True
        now = time.perf_counter()
        first = self._first_token
        logger.info(
            "request",
            extra={
                "fields": {
                    "request_id": self.request_id,
                    "key_id": self.key_id,
                    "route": self.route,
                    "deployment": self.deployment,
                    "model_id": self.model_id,
                    "stream": self.stream,
                    "status": status,
                    "error": self.error,
                    "duration_ms": round((now - self._started) * 1000, 1),
                    "time_to_first_token_ms": None if first is None else round((first - self._started) * 1000, 1),
                    "prompt_tokens": self.prompt_tokens,
                    "completion_tokens": self.completion_tokens,
                }
            },
        )


def _context(headers: Headers, name: str) -> dict[str, Any]:
    try:
        value = json.loads(headers.get(name, "{}"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
