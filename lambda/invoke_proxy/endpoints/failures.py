"""What goes wrong in a call to an endpoint, in HTTP's words for the client."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from invoke_proxy.aws.errors import AnswerTimeoutError, AwsError, BadAnswerError, ConfigurationError, TransportError
from invoke_proxy.errors import ApiError

__all__ = ["MODEL_NOT_READY", "NO_CAPACITY", "engine_failure", "map_error", "stream_failure"]

logger = logging.getLogger(__name__)

# The codes of failures that pass by themselves while instances start.
NO_CAPACITY = "no_capacity"
MODEL_NOT_READY = "model_not_ready"

# Official clients ignore a Retry-After above 120 seconds and then do not retry at all.
NOT_READY_RETRY_SECONDS = 10
NO_CAPACITY_RETRY_SECONDS = 30
THROTTLED_RETRY_SECONDS = 1

_LOADING = {
    "status": 503,
    "message": "The model is being loaded. Try again soon.",
    "code": MODEL_NOT_READY,
    "retry_after": NOT_READY_RETRY_SECONDS,
}
_THROTTLED = {
    "status": 429,
    "message": "Too many requests for this model. Try again soon.",
    "code": "rate_limit_exceeded",
    "retry_after": THROTTLED_RETRY_SECONDS,
}
_UNAVAILABLE = {
    "status": 503,
    "message": "The model's endpoint is unavailable. Try again soon.",
    "code": "service_unavailable",
}
_BROKEN_OFF: dict[str, Any] = {
    "status": 502,
    "message": "The model broke off in the middle of its answer.",
    "code": "stream_failed",
}
_DENIED = {
    "status": 502,
    "message": "The gateway is not allowed to call the model's endpoint. Its role has to be corrected.",
    "code": "endpoint_access_denied",
}
_UNKNOWN = {"status": 502, "message": "SageMaker failed on this request.", "code": "endpoint_failed"}

# What SageMaker's runtime says, and what the client is told. Texts of AWS may name the account: they stay here.
_REFUSALS: Mapping[str, dict[str, Any]] = {
    "AccessDeniedException": _DENIED,
    "InternalStreamFailure": _BROKEN_OFF,
    "ModelNotReadyException": _LOADING,
    "ModelStreamError": _BROKEN_OFF,
    "ServiceUnavailable": _UNAVAILABLE,
    "ServiceUnavailableException": _UNAVAILABLE,
    "ThrottlingException": _THROTTLED,
    "TooManyRequestsException": _THROTTLED,
}

_CLIENT_ERROR, _TOO_MANY, _SERVER_ERROR = 400, 429, 500
_QUOTED_CHARACTERS = 500


def map_error(error: BaseException, *, endpoint_name: str | None = None) -> ApiError:
    """Return the client's view of whatever a call to SageMaker raised."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, AwsError):
        return _refusal(error, endpoint_name)
    fields = {"error": type(error).__name__}
    if isinstance(error, ConfigurationError):
        fields["reason"] = str(error)
    logger.warning("endpoint call failed", extra={"fields": fields})
    if isinstance(error, AnswerTimeoutError):
        return ApiError(status=504, message="The model did not answer in time.", code="timeout")
    if isinstance(error, TransportError) and not isinstance(error, BadAnswerError | ConfigurationError):
        return ApiError(status=502, message="The connection to the model's endpoint failed.", code="connection_failed")
    return ApiError(
        status=502,
        message="The model's endpoint broke off in the middle of its answer or could not be called.",
        code="endpoint_failed",
    )


def stream_failure(error: BaseException) -> ApiError:
    """Return the client's view of what ended a stream before its time."""
    if isinstance(error, TransportError) and not isinstance(error, AnswerTimeoutError):
        logger.warning("endpoint stream failed", extra={"fields": {"error": type(error).__name__}})
        return ApiError(**_BROKEN_OFF)
    return map_error(error)


def _refusal(error: AwsError, endpoint_name: str | None) -> ApiError:
    code, detail = error.code, error.document
    if code == "ModelError":
        status = detail.get("OriginalStatusCode")
        return engine_failure(status if isinstance(status, int) else 0, str(detail.get("OriginalMessage") or ""))
    if code in {"ValidationError", "ValidationException"}:
        return _validation_error(error.message, endpoint_name)
    if code not in _REFUSALS:
        # InternalFailure, InternalDependencyException and whatever comes to be.
        logger.warning("endpoint call refused", extra={"fields": {"aws_code": code}})
    return ApiError(**_REFUSALS.get(code, _UNKNOWN))


def _validation_error(message: str, endpoint_name: str | None) -> ApiError:
    lower = message.lower()
    if "has no capacity" in lower or "no capacity" in lower:
        return ApiError(
            status=503,
            message="The model has no running instance; one is being started. Try again soon.",
            code=NO_CAPACITY,
            retry_after=NO_CAPACITY_RETRY_SECONDS,
        )
    if "not found" in lower or "could not find" in lower or "does not exist" in lower:
        return ApiError(
            status=404,
            message=f"The deployment's endpoint '{endpoint_name}' does not exist. Deploy it again.",
            code="endpoint_not_found",
            param="model",
        )
    return ApiError(
        status=400,
        message="SageMaker refused the request as invalid for this endpoint.",
        code="endpoint_validation_failed",
    )


def engine_failure(status: int, text: str) -> ApiError:
    """Return the client's view of an error that the engine in the container answered.

    4xx keep their status; everything else is a bad gateway. The engine's own words are kept when they are the
    JSON that engines write (`{"error": ...}`, `{"error": {"message": ...}}`, `{"message": ...}`).
    """
    words, error_type = _engine_words(text)
    if status == _TOO_MANY:
        return ApiError(
            status=status,
            message=words or "The model is overloaded. Try again soon.",
            code="model_overloaded",
            error_type=error_type or "overloaded",
            retry_after=THROTTLED_RETRY_SECONDS,
        )
    if _CLIENT_ERROR <= status < _SERVER_ERROR:
        quoted = words or text[:_QUOTED_CHARACTERS]
        return ApiError(
            status=status,
            message=quoted or f"The model server refused the request with HTTP {status}.",
            code="model_refused",
            error_type=error_type or "model_error",
        )
    return ApiError(
        status=502,
        message=words or "The model server failed on this request.",
        code="model_failed",
        error_type=error_type or "model_error",
    )


def _engine_words(text: str) -> tuple[str | None, str | None]:
    try:
        body = json.loads(text)
    except ValueError:
        return None, None
    if not isinstance(body, dict):
        return None, None
    error = body.get("error", body.get("message"))
    if isinstance(error, dict):
        error = error.get("message")
    kind = body.get("error_type")
    return (error if isinstance(error, str) else None), (kind if isinstance(kind, str) else None)
