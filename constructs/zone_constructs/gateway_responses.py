"""API Gateway's own refusals in the shape that OpenAI's clients read.

Gateway responses know no templates, only ``$context`` variables; the messages are fixed so that no input can break
the JSON or come back to the caller.
"""

from __future__ import annotations

import json

from aws_cdk import aws_apigateway as apigateway

__all__ = ["add_gateway_responses"]

_TYPES = apigateway.ResponseType
_BODY = (
    "The request body is not valid. It must be JSON (header content-type: application/json); chat completions need "
    '"model", a text, and "messages", a list of objects with "role"; generate needs "inputs", a text.'
)


def _body(message: str, kind: str, code: str) -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def add_gateway_responses(api: apigateway.RestApi) -> None:
    """Replace the responses that a caller can meet before the function is reached.

    A quota that is used up does not come back by retrying, so clients are told not to.
    """
    invalid = "invalid_request_error"
    fixed: tuple[tuple[apigateway.ResponseType, str, str, dict[str, str]], ...] = (
        (
            _TYPES.INVALID_API_KEY,
            "403",
            _body("No valid API key. Send it in the header x-api-key.", invalid, "invalid_api_key"),
            {},
        ),
        (
            _TYPES.MISSING_AUTHENTICATION_TOKEN,
            "404",
            _body("There is no such route, or not with this method.", invalid, "unknown_url"),
            {},
        ),
        (
            _TYPES.INVALID_SIGNATURE,
            "404",
            _body("There is no such route, or not with this method.", invalid, "unknown_url"),
            {},
        ),
        (_TYPES.BAD_REQUEST_BODY, "400", _body(_BODY, invalid, "invalid_request_body"), {}),
        (
            _TYPES.THROTTLED,
            "429",
            _body("Too many requests at once. Retry after a moment.", "rate_limit_error", "rate_limit_exceeded"),
            {"Retry-After": "'1'"},
        ),
        (
            _TYPES.QUOTA_EXCEEDED,
            "429",
            _body("The monthly quota of this API key is used up.", "insufficient_quota", "insufficient_quota"),
            {"x-should-retry": "'false'"},
        ),
    )
    for response_type, status, body, headers in fixed:
        api.add_gateway_response(
            response_type.response_type.title().replace("_", ""),
            type=response_type,
            status_code=status,
            response_headers=headers or None,
            templates={"application/json": body},
        )
    # The message of API Gateway's own may quote the caller's headers, so it is not passed on; the type is one word.
    for response_type, kind, message in (
        (_TYPES.DEFAULT_4_XX, invalid, "The API refused the request; the code says why."),
        (_TYPES.DEFAULT_5_XX, "server_error", "The API failed on the request."),
    ):
        api.add_gateway_response(
            response_type.response_type.title().replace("_", ""),
            type=response_type,
            templates={"application/json": _body(message, kind, "$context.error.responseType")},
        )
