"""The one error of the client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelzone.errors import ModelzoneError

__all__ = ["ApiError", "error_of", "refusal"]

_MOST_TEXT = 2000


class ApiError(ModelzoneError):
    """The API refused, failed, or could not be reached.

    Attributes
    ----------
    message
        What the API says; it may quote the request.
    status
        HTTP status; None when there was no answer, or it broke off in the middle.
    code
        The API's short word; ``connection_failed``, ``timeout``, ``incomplete_answer`` and ``invalid_answer`` are the
        client's own.
    param
        The request's field at fault.
    request_id
        Finds the request in the gateway's logs.
    retry_after
        Seconds after which the API wants to be asked again.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.message, self.code, self.status, self.param = message, code, status, param
        self.request_id, self.retry_after = request_id, retry_after
        facts = [code, f"request {request_id}" if request_id else ""]
        said = f"the API answered {status}: {message}" if status else message
        super().__init__(f"{said} ({', '.join(fact for fact in facts if fact)})")


def error_of(document: Any, *, status: int | None, request_id: str | None, retry_after: float | None) -> ApiError:
    """Read an error in OpenAI's, TGI's or API Gateway's shape; anything else has its status for a word."""
    fields = document if isinstance(document, Mapping) else {}
    inner = fields.get("error", fields.get("message"))
    code, param, message = fields.get("error_type"), None, inner
    if isinstance(inner, Mapping):
        code, param, message = inner.get("code") or inner.get("type"), inner.get("param"), inner.get("message")
    fallback = "no explanation" if not isinstance(document, str) or not document.strip() else document.strip()
    return ApiError(
        (message if isinstance(message, str) and message else fallback)[:_MOST_TEXT],
        status=status,
        code=str(code) if code else f"http_{status}" if status else "broken_stream",
        param=param if isinstance(param, str) else None,
        request_id=request_id,
        retry_after=retry_after,
    )


def refusal(status: int, body: bytes, *, request_id: str | None, retry_after: float | None) -> ApiError:
    """The error that an answer with a status of 400 and above stands for."""
    text = body.decode(errors="replace")
    try:
        document = json.loads(text)
    except ValueError:
        document = text
    return error_of(document, status=status, request_id=request_id, retry_after=retry_after)
