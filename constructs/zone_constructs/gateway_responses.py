"""API Gateway's own refusals in the shape that OpenAI's clients read.

Gateway responses know no templates, only ``$context`` variables; the messages are fixed so that no input can break
the JSON or come back to the caller.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from aws_cdk import aws_apigateway as apigateway

from modelzone.settings import AccessMethod

__all__ = ["add_gateway_responses"]

_TYPES = apigateway.ResponseType
_INVALID = "invalid_request_error"
_HOW: Mapping[AccessMethod, str] = MappingProxyType(
    {
        "keys": "Send a valid key as Authorization: Bearer KEY, or in the header x-api-key.",
        "iam": "Sign the request with AWS Signature Version 4 for the service execute-api.",
        "cognito": "Send a valid ID token of the user pool (not an access token) as Authorization: Bearer TOKEN.",
    }
)


@dataclass(frozen=True, kw_only=True)
class _Response:
    type: apigateway.ResponseType
    status: str
    message: str
    code: str
    kind: str = _INVALID
    headers: Mapping[str, str] = field(default_factory=dict)


def _body(message: str, kind: str, code: str) -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def _responses(method: AccessMethod) -> Iterator[_Response]:
    """What a caller can meet before the function is reached.

    A quota that is used up does not come back by retrying, so clients are told not to.
    """
    yield _Response(type=_TYPES.UNAUTHORIZED, status="401", message=_HOW[method], code="invalid_api_key")
    yield _Response(
        type=_TYPES.INVALID_API_KEY,
        status="403",
        message="The tenant of this key is no longer one of this API.",
        code="unknown_tenant",
    )
    yield _Response(
        type=_TYPES.ACCESS_DENIED,
        status="403",
        message="The API may not be called by you, or not from your network.",
        code="access_denied",
    )
    yield _Response(
        type=_TYPES.EXPIRED_TOKEN,
        status="401",
        message=f"The token or signature has expired. {_HOW[method]}",
        code="expired_token",
    )
    # Every route asks for a caller, so with other methods these mean a route, or a verb, that is not there.
    for response_type in (_TYPES.MISSING_AUTHENTICATION_TOKEN, _TYPES.INVALID_SIGNATURE):
        if method == "iam":
            yield _Response(type=response_type, status="401", message=_HOW[method], code="invalid_signature")
        else:
            yield _Response(
                type=response_type,
                status="404",
                message="There is no such route, or not with this method.",
                code="unknown_url",
            )
    yield _Response(
        type=_TYPES.BAD_REQUEST_BODY,
        status="400",
        message="The request body must be a JSON object (header content-type: application/json).",
        code="invalid_request_body",
    )
    yield _Response(
        type=_TYPES.WAF_FILTERED,
        status="403",
        message="The firewall refused the request: too many came from this address within five minutes, or it looks "
        "like an attack.",
        code="request_blocked",
    )
    yield _Response(
        type=_TYPES.THROTTLED,
        status="429",
        message="Too many requests at once. Retry after a moment.",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": "'1'"},
    )
    yield _Response(
        type=_TYPES.QUOTA_EXCEEDED,
        status="429",
        message="The tenant's monthly quota is used up.",
        kind="insufficient_quota",
        code="insufficient_quota",
        headers={"x-should-retry": "'false'"},
    )
    # An authorizer that failed, and one that could not be asked: which is which, API Gateway's guide leaves open.
    for response_type in (_TYPES.AUTHORIZER_FAILURE, _TYPES.AUTHORIZER_CONFIGURATION_ERROR):
        yield _Response(
            type=response_type,
            status="503",
            message="Whose the request is cannot be told at the moment. Retry after a moment.",
            kind="server_error",
            code="authorizer_unavailable",
            headers={"Retry-After": "'1'"},
        )


def add_gateway_responses(api: apigateway.RestApi, *, method: AccessMethod) -> None:
    """Replace API Gateway's own answers; `method` is how callers prove who they are."""
    for response in _responses(method):
        api.add_gateway_response(
            response.type.response_type.title().replace("_", ""),
            type=response.type,
            status_code=response.status,
            response_headers=response.headers or None,
            templates={"application/json": _body(response.message, response.kind, response.code)},
        )
    # The message of API Gateway's own may quote the caller's headers, so it is not passed on; the type is one word.
    for response_type, kind, message in (
        (_TYPES.DEFAULT_4_XX, _INVALID, "The API refused the request; the code says why."),
        (_TYPES.DEFAULT_5_XX, "server_error", "The API failed on the request."),
    ):
        api.add_gateway_response(
            response_type.response_type.title().replace("_", ""),
            type=response_type,
            templates={"application/json": _body(message, kind, "$context.error.responseType")},
        )
