"""Request bodies: read with a limit, parsed strictly; and the bodies that go on to SageMaker."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request

from .endpoints.runtime import MAX_BODY_BYTES
from .errors import bad_request, request_too_large

__all__ = ["endpoint_body", "parse_object", "read_bytes"]

# Made once: json.dumps makes a new encoder for every call with options of its own.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


async def read_bytes(request: Request) -> bytes:
    """Return a request's body.

    Raises
    ------
    ApiError
        413 above the limit.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise request_too_large(MAX_BODY_BYTES)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise request_too_large(MAX_BODY_BYTES)
        chunks.append(chunk)
    return b"".join(chunks)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in the bytes.

    Raises
    ------
    ApiError
        400 for anything that is not a JSON object in UTF-8.
    """
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
        413 when it is above SageMaker's limit, 400 when a value in it has no JSON or no UTF-8.
    """
    try:
        raw = _encode(body).encode()
    except UnicodeEncodeError:
        raise bad_request("The body holds half a surrogate pair, which is not valid Unicode.") from None
    except ValueError:
        # 1e999 is read as infinity.
        raise bad_request("The body holds a number that is too large.") from None
    if len(raw) > MAX_BODY_BYTES:
        raise request_too_large(MAX_BODY_BYTES)
    return raw


def _no_constant(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise ValueError(message)
