"""Structured logs: one JSON object per line, and never a prompt, an answer, a key or a header.

The one exception is a tenant that asked for it: what it sends and gets is then logged, through `redact`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from starlette.datastructures import Headers

from . import telemetry

__all__ = ["Identity", "RequestLog", "configure"]

logger = logging.getLogger(__name__)

# These would print bodies and headers at DEBUG, so LOG_LEVEL does not reach them.
_QUIET = ("boto3", "botocore", "urllib3", "asyncio", "uvicorn", "uvicorn.error")
_LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
_MAX_ID_LENGTH = 128
# Of a prompt and of an answer each; a log event of CloudWatch holds 256 KiB, and JSON may write a character in six.
_MAX_CONTENT_LENGTH = 16 * 1024
# W3C Trace Context: version, trace id, parent id, flags; a trace id of zeros is invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_XRAY_ROOT = re.compile(r"(?:^|;)\s*Root=(1-[0-9a-f]{8}-[0-9a-f]{24})(?=;|$)")


# Where asyncio's messages begin to show objects, which may hold a request: futures, handles, arguments of callbacks.
_SHOWN_OBJECTS = re.compile(r"[\n<]|\((?!\))")


class _JsonFormatter(logging.Formatter):
    """One line of JSON. Of an exception only its type and place: its text may quote a request."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["exception"] = type(error).__name__
            line["where"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
            ]
        # Half a surrogate pair, which a client's JSON may hold, is no character that the stream could write.
        text = _encode(line).encode("utf-8", "replace").decode()
        # The metrics of a request go out with its line, in one write: each costs a system call.
        metrics: str | None = getattr(record, "metrics", None)
        return text if metrics is None else f"{text}\n{metrics}"


def _message(record: logging.LogRecord) -> str:
    """The record's text, in which exceptions are named by their type only."""
    if isinstance(record.args, tuple):
        record.args = tuple(type(arg).__name__ if isinstance(arg, BaseException) else arg for arg in record.args)
    text = record.getMessage()
    return _SHOWN_OBJECTS.split(text, maxsplit=1)[0].rstrip() if record.name == "asyncio" else text


def _described(value: object) -> str:
    return type(value).__name__ if isinstance(value, BaseException) else str(value)


# Made once: json.dumps makes a new encoder for every call with options of its own.
_encode = json.JSONEncoder(ensure_ascii=False, default=_described).encode


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


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who API Gateway says that the caller is; what the access method does not tell is None or empty.

    Attributes
    ----------
    tenant, key_id
        What the authorizer made of an API key.
    user_arn
        The principal whose signature API Gateway checked; of an assumed role the session's ARN
        (``arn:aws:sts::…:assumed-role/<role>/<session>``).
    claims
        Of a token of a Cognito user pool, each as text.
    """

    tenant: str | None = None
    key_id: str | None = None
    user_arn: str | None = None
    claims: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class RequestLog:
    """What is known about one request; written once, when its answer has ended, together with its metrics.

    Durations are in milliseconds. Time to first token counts from the request's arrival in this process.

    Attributes
    ----------
    request_id
        API Gateway's id of the request.
    identity
        Who asks. `tenant` begins as the identity's tenant; for other access methods it is set when it is known.
    alias
        The name by which the client named the deployment, when it is an alias.
    trace_id
        The trace that the request belongs to: the client's own (``traceparent``), else X-Ray's.
    error
        The code of the failure that the client saw.
    continuations
        How many requests to the endpoint followed the first one, when the answer may be continued.
    cache
        Whether the answer came from the response cache; None when it was not asked.
    input_bytes
        Size of the request's body.
    log_content
        Whether the tenant wants prompts and answers in the log.
    """

    request_id: str
    route: str
    identity: Identity = field(default_factory=Identity)
    tenant: str | None = None
    key_id: str | None = None
    trace_id: str | None = None
    alias: str | None = None
    deployment: str | None = None
    model_id: str | None = None
    stream: bool = False
    error: str | None = None
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    continuations: int | None = None
    cache: Literal["hit", "miss"] | None = None
    input_bytes: int | None = None
    log_content: bool = False
    _prompt: str | None = field(default=None, init=False, repr=False)
    _answer: list[str] = field(default_factory=list, init=False, repr=False)
    _answer_length: int = field(default=0, init=False, repr=False)
    _started: float = field(default_factory=time.perf_counter, init=False)
    _first_token: float | None = field(default=None, init=False)
    _ended: float | None = field(default=None, init=False)

    @classmethod
    def begin(cls, headers: Headers, *, route: str) -> RequestLog:
        """Start the log of a request; ids come from the contexts that the Lambda Web Adapter passes on.

        The adapter replaces what a client sends under the names of these two headers.
        """
        gateway = _context(headers, "x-amzn-request-context")
        function = _context(headers, "x-amzn-lambda-context")
        identity = _identity(gateway)
        request_id = gateway.get("requestId") or function.get("request_id") or uuid.uuid4()
        return cls(
            request_id=str(request_id)[:_MAX_ID_LENGTH],
            route=route,
            identity=identity,
            tenant=identity.tenant,
            key_id=identity.key_id,
            trace_id=_trace_id(headers),
        )

    @property
    def duration_ms(self) -> float:
        """Time since the request arrived, or until its answer had ended."""
        ended = time.perf_counter() if self._ended is None else self._ended
        return (ended - self._started) * 1000

    @property
    def time_to_first_token_ms(self) -> float | None:
        """Time until the first token of a stream; None when there was none."""
        return None if self._first_token is None else (self._first_token - self._started) * 1000

    def token(self, count: int = 1) -> None:
        """Count tokens that came in a stream; with 0 only note that text came, for engines that report no tokens."""
        self.completion_tokens = (self.completion_tokens or 0) + count
        if self._first_token is None:
            self._first_token = time.perf_counter()

    def keep_prompt(self, text: str) -> None:
        """Keep what was asked, if the tenant has it logged."""
        if self.log_content:
            self._prompt = text

    def keep_answer(self, text: str) -> None:
        """Keep the answer or its next part, if the tenant has it logged."""
        if self.log_content:
            if self._answer_length <= 2 * _MAX_CONTENT_LENGTH:  # more than will be read
                self._answer.append(text)
            self._answer_length += len(text)

    def write(self, *, status: int) -> None:
        """Write the line, the metrics and, where the tenant wants it, the content; once."""
        if self._ended is not None:
            return
        self._ended = time.perf_counter()
        first = self.time_to_first_token_ms
        metrics = telemetry.line(self, status=status, environment=os.environ.get("MODELZONE_ENVIRONMENT", ""))
        if not logger.isEnabledFor(logging.INFO):
            telemetry.emit(metrics)
        logger.info(
            "request",
            extra={
                "fields": {
                    "request_id": self.request_id,
                    "trace_id": self.trace_id,
                    "tenant": self.tenant,
                    "key_id": self.key_id,
                    "route": self.route,
                    "deployment": self.deployment,
                    "alias": self.alias,
                    "model_id": self.model_id,
                    "stream": self.stream,
                    "status": status,
                    "error": self.error,
                    "duration_ms": round(self.duration_ms, 1),
                    "time_to_first_token_ms": None if first is None else round(first, 1),
                    "input_bytes": self.input_bytes,
                    "prompt_tokens": self.prompt_tokens,
                    "completion_tokens": self.completion_tokens,
                    "continuations": self.continuations,
                    "cache": self.cache,
                },
                "metrics": metrics,
            },
        )
        if self.log_content and (self._prompt is not None or self._answer):
            self._write_content()

    def _write_content(self) -> None:
        """Write prompt and answer in a line of their own, so that it can be found, kept and left out by itself."""
        from .redaction import excerpt  # noqa: PLC0415 - its patterns are compiled only where content is logged

        answer = "".join(self._answer) if self._answer else None
        fields = {
            "request_id": self.request_id,
            "tenant": self.tenant,
            "prompt": None if self._prompt is None else excerpt(self._prompt, limit=_MAX_CONTENT_LENGTH),
            "prompt_characters": None if self._prompt is None else len(self._prompt),
            "answer": None if answer is None else excerpt(answer, limit=_MAX_CONTENT_LENGTH),
            "answer_characters": None if answer is None else self._answer_length,
        }
        logger.info("content", extra={"fields": fields})


def _identity(gateway: Mapping[str, Any]) -> Identity:
    """Read who calls from API Gateway's request context; parts that are not of the expected kind are left out."""
    authorizer = _mapping(gateway.get("authorizer"))
    claims = _mapping(authorizer.get("claims"))
    return Identity(
        tenant=_text(authorizer.get("tenant")),
        key_id=_text(authorizer.get("key_id")),
        user_arn=_text(_mapping(gateway.get("identity")).get("userArn")),
        claims={str(name): value for name, value in claims.items() if isinstance(value, str)},
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _trace_id(headers: Headers) -> str | None:
    """Return the trace's id; only well-formed ones, because it goes on into a header of SageMaker's."""
    given = _TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
    if given:
        return given[1]
    root = _XRAY_ROOT.search(headers.get("x-amzn-trace-id", ""))
    return root[1] if root else None


def _context(headers: Headers, name: str) -> Mapping[str, Any]:
    """Read a header of the adapter: JSON in UTF-8, which Starlette reads as Latin-1."""
    try:
        return _mapping(json.loads(headers.get(name, "{}").encode("latin-1")))
    except ValueError:
        return {}
