"""Metrics of the gateway: one line in CloudWatch's embedded metric format for each request.

CloudWatch makes the metrics of the log itself, so they cost no call and no waiting. Names and dimensions are the
contract with dashboards and alarms.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .logs import RequestLog

__all__ = ["NAMESPACE", "document", "emit", "line"]

NAMESPACE = "Modelzone/Gateway"

# Made once: json.dumps makes a new encoder for every call with options of its own.
_encode = json.JSONEncoder(separators=(",", ":")).encode

_UNITS = {
    "Requests": "Count",
    "Errors": "Count",
    "ClientErrors": "Count",
    "ThrottledRequests": "Count",
    "UpstreamErrors": "Count",
    "GatewayErrors": "Count",
    "ClientDisconnects": "Count",
    "TimeToFirstToken": "Milliseconds",
    "Duration": "Milliseconds",
    "OutputTokensPerSecond": "Count/Second",
    "InputTokens": "Count",
    "OutputTokens": "Count",
    "CacheHits": "Count",
}
_KINDS = ("ClientErrors", "ThrottledRequests", "UpstreamErrors", "GatewayErrors", "ClientDisconnects")

_BAD_REQUEST = 400
_TOO_MANY_REQUESTS = 429
_CLIENT_CLOSED = 499
_SERVER_ERROR = 500
# Failures with a 5xx status that are the gateway's own; all others come from the model or from SageMaker.
_OWN_FAILURES = frozenset({"endpoint_access_denied", "internal_error", "registry_unavailable"})
# The longest value of a dimension that CloudWatch takes.
_LONGEST_DIMENSION = 1024


def _kind_of_failure(status: int, error: str | None) -> str | None:
    """Return the metric that counts this outcome; None for a success."""
    if status == _CLIENT_CLOSED or error == "client_disconnected":
        return "ClientDisconnects"
    if status == _TOO_MANY_REQUESTS:
        return "ThrottledRequests"
    if _BAD_REQUEST <= status < _SERVER_ERROR:
        return "ClientErrors"
    if status >= _SERVER_ERROR or error is not None:  # with a status of success: it broke in the middle of a stream
        return "GatewayErrors" if error in _OWN_FAILURES or error is None else "UpstreamErrors"
    return None


def document(log: RequestLog, *, status: int, environment: str) -> dict[str, Any]:
    """Return the metrics of one finished request.

    Every count of an outcome is there as 0 or 1, so that a metric's average is a rate. `Errors` counts all kinds but
    clients that left. Tokens per second are those of the answer over the whole request. Unknown numbers are left out,
    and so are sets of dimensions with an unknown member: a deployment has a name only when the request reached one.
    """
    kind = _kind_of_failure(status, log.error)
    values: dict[str, float] = {
        "Requests": 1,
        "Errors": int(kind not in (None, "ClientDisconnects")),
        **{name: int(name == kind) for name in _KINDS},
        "Duration": round(log.duration_ms, 1),
    }
    first = log.time_to_first_token_ms
    if first is not None:
        values["TimeToFirstToken"] = round(first, 1)
    if log.prompt_tokens is not None:
        values["InputTokens"] = log.prompt_tokens
    if log.completion_tokens is not None:
        values["OutputTokens"] = log.completion_tokens
        if log.completion_tokens and kind is None and log.cache != "hit" and log.duration_ms > 0:
            values["OutputTokensPerSecond"] = round(log.completion_tokens / log.duration_ms * 1000, 2)
    if log.cache is not None:
        values["CacheHits"] = int(log.cache == "hit")
    dimensions = {"Environment": environment, "Tenant": log.tenant, "Deployment": log.deployment}
    known = {name: value[:_LONGEST_DIMENSION] for name, value in dimensions.items() if value}
    sets = (["Environment", "Tenant", "Deployment"], ["Environment", "Deployment"], ["Environment"])
    return {
        "_aws": {
            "Timestamp": int(time.time() * 1000),
            "CloudWatchMetrics": [
                {
                    "Namespace": NAMESPACE,
                    "Dimensions": [names for names in sets if all(name in known for name in names)],
                    "Metrics": [{"Name": name, "Unit": _UNITS[name]} for name in values],
                }
            ],
        },
        **known,
        **values,
        # Not a dimension: it finds the request's own line.
        "request_id": log.request_id,
    }


def line(log: RequestLog, *, status: int, environment: str) -> str | None:
    """Return the metrics of a finished request as they are written; None without the environment's name."""
    return _encode(document(log, status=status, environment=environment)) if environment else None


def emit(text: str | None) -> None:
    """Write a line of metrics to standard output by itself."""
    if text is not None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
