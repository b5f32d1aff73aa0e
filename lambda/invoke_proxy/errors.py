"""Failures that a client sees, and the two shapes in which they are written: OpenAI's and TGI's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ApiError",
    "bad_request",
    "context_length_exceeded",
    "forbidden",
    "internal_error",
    "model_not_found",
    "openai_error",
    "request_too_large",
    "tgi_error",
    "unauthorized",
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
_BAD_REQUEST = 400
_TOO_MANY = 429
_UNAUTHORIZED = 401


@dataclass(kw_only=True, eq=False)
class ApiError(Exception):
    """A failure with the HTTP status and the words for the client.

    Parameters
    ----------
    status
        HTTP status of the answer (or of the answer it would have been, in the middle of a stream).
    message
        What is wrong and what to do, readable by the client. Never logged, and so in no representation of the error: it
        may quote the request.
    code
        Short machine-readable word, logged.
    param
        Name of the request's field at fault, as in ``messages[1].role``.
    error_type
        OpenAI's ``type`` or TGI's ``error_type``, when the status does not say it.
    retry_after
        Seconds for the ``Retry-After`` header. At most 120: official clients give up when it is more.
    """

    status: int
    message: str = field(repr=False)
    code: str
    param: str | None = None
    error_type: str | None = None
    retry_after: int | None = None

    def __str__(self) -> str:
        return self.code

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to this failure."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == _UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        return headers


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return a 400 that names the field at fault."""
    return ApiError(status=400, message=message, code=code, param=param, error_type="invalid_request_error")


def model_not_found(message: str, *, param: str | None = "model") -> ApiError:
    """Return the 404 that OpenAI answers to an unknown model."""
    return ApiError(
        status=404, message=message, code="model_not_found", param=param, error_type="invalid_request_error"
    )


def unauthorized() -> ApiError:
    """Return the 401 for a request that nobody vouches for."""
    return ApiError(
        status=401,
        message="The request names no tenant. Call the gateway through its API, with a key or with signed requests.",
        code="invalid_api_key",
    )


def forbidden() -> ApiError:
    """Return the 403 for a caller who is nobody's tenant here."""
    return ApiError(
        status=403,
        message="The caller belongs to no tenant of this gateway. Its operator has to add one.",
        code="unknown_tenant",
    )


def context_length_exceeded(message: str, *, param: str) -> ApiError:
    """Return the 400 for a prompt, or a prompt and its answer, that the model has no room for."""
    return bad_request(message, param=param, code="context_length_exceeded")


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
    return {"error": {"message": _valid(error.message), "type": kind, "param": error.param, "code": error.code}}


def tgi_error(error: ApiError) -> dict[str, Any]:
    """Return the error body of text-generation-inference; by its `error_type` clients choose the exception."""
    kind = error.error_type or ("overloaded" if error.status == _TOO_MANY else error.code)
    if error.status == _BAD_REQUEST and kind == "invalid_request_error":
        kind = "validation"
    return {"error": _valid(error.message), "error_type": kind}


def _valid(text: str) -> str:
    """Return the text as UTF-8 can hold it: what an engine says may have half a surrogate pair."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
