"""Failures that a client sees, and the two shapes in which they are written: OpenAI's and TGI's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "ApiError",
    "bad_request",
    "internal_error",
    "model_not_found",
    "openai_error",
    "request_too_large",
    "tgi_error",
]

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_FIRST_SERVER_ERROR = 500


@dataclass(kw_only=True, eq=False)
class ApiError(Exception):
    """A failure with the HTTP status and the words for the client.

    Parameters
    ----------
    status
        HTTP status of the answer (or of the answer it would have been, in the middle of a stream).
    message
        What is wrong and what to do, readable by the client. Never logged: it may quote the request.
    code
        Short machine-readable word, logged.
    param
        Name of the request's field at fault, as in ``messages[1].role``.
    error_type
        OpenAI's ``type`` or TGI's ``error_type``, when the status does not say it.
    retry_after
        Seconds for the ``Retry-After`` header. Below 60: official clients ignore or distrust long waits.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    error_type: str | None = None
    retry_after: int | None = None

    def __str__(self) -> str:
        return self.code

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to this failure."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return a 400 that names the field at fault."""
    return ApiError(status=400, message=message, code=code, param=param, error_type="invalid_request_error")


def model_not_found(message: str, *, param: str | None = "model") -> ApiError:
    """Return the 404 that OpenAI answers to an unknown model."""
    return ApiError(
        status=404, message=message, code="model_not_found", param=param, error_type="invalid_request_error"
    )


def request_too_large(limit: int) -> ApiError:
    """Return a 413 that names the limit in bytes."""
    return ApiError(
        status=413,
        message=f"The request body is larger than {limit} bytes, the most that a SageMaker endpoint accepts.",
        code="request_too_large",
    )


def internal_error() -> ApiError:
    """Return the 500 for a failure that nobody foresaw."""
    return ApiError(
        status=500,
        message="The gateway failed on this request. The request id in the x-request-id header finds it in the logs.",
        code="internal_error",
    )


def openai_error(error: ApiError) -> dict[str, Any]:
    """Return the error body of the OpenAI API: always the same four keys."""
    fallback = "server_error" if error.status >= _FIRST_SERVER_ERROR else "invalid_request_error"
    kind = _OPENAI_TYPES.get(error.status, fallback)
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def tgi_error(error: ApiError) -> dict[str, Any]:
    """Return the error body of text-generation-inference."""
    return {"error": error.message, "error_type": error.error_type or error.code}
