"""Request bodies: read with a limit, parsed strictly; and the bodies that go on to SageMaker."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request

from .errors import bad_request, request_too_large
from .sagemaker import MAX_BODY_BYTES

__all__ = ["endpoint_body", "read_object"]


async def read_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    Raises
    ------
    ApiError
        413 above the limit, 400 for anything that is not a JSON object.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise request_too_large(MAX_BODY_BYTES)
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY_BYTES:
            raise request_too_large(MAX_BODY_BYTES)
    try:
        body = json.loads(raw.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise bad_request("The body is not valid JSON in UTF-8.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise bad_request("The body must be a JSON object.", code="invalid_type")
    return body


def endpoint_body(body: dict[str, Any]) -> bytes:
    """Return the body for an endpoint.

    Raises
    ------
    ApiError
        413 when it is above SageMaker's limit, 400 when a text in it is not valid Unicode.
    """
    try:
        raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise bad_request("The body holds half a surrogate pair, which is not valid Unicode.") from None
    if len(raw) > MAX_BODY_BYTES:
        raise request_too_large(MAX_BODY_BYTES)
    return raw


def _no_constant(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise ValueError(message)
