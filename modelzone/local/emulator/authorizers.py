"""Usage plans by authorizer: REST APIs whose API key source is AUTHORIZER, which MiniStack lacks.

With that source the key that usage plans count by is what the Lambda authorizer answers as ``usageIdentifierKey``,
and the header ``x-api-key`` means nothing. MiniStack authorises a request and then asks for its key, in one task; so
the answer is kept in context variables of that task. MiniStack caches an authorizer's context, but not its key, which
therefore travels inside the context under a name that no authorizer can give.
"""

from __future__ import annotations

import json
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ministack.core.responses import get_region, new_uuid
from ministack.services import apigateway_v1

from modelzone.local.emulator import seams

__all__ = ["install", "request_id"]

_HIDDEN_KEY = "\0usageIdentifierKey"
_AUTHORIZER = "AUTHORIZER"


@dataclass(kw_only=True)
class _Request:
    """What is known of the request that the task serves. `usage_key` is None while a header would give the key."""

    id: str
    usage_key: str | None = None


_current: ContextVar[_Request | None] = ContextVar("api_gateway_request", default=None)


def request_id() -> str:
    """The id of the task's request: the same for its authorizer, its integration and its answer."""
    request = _current.get()
    return request.id if request else new_uuid()


def _usage_keys() -> None:
    """Count requests by the key that the authorizer answered, where the API says so."""

    async def authorize(api_id: str, *arguments: Any, **options: Any) -> Any:
        api = seams.attribute(apigateway_v1, "_rest_apis").get(api_id) or {}
        request = _Request(id=new_uuid(), usage_key="" if api.get("apiKeySource") == _AUTHORIZER else None)
        _current.set(request)
        started = time.monotonic()
        error, context = await original_authorize(api_id, *arguments, **options)
        if context is None or "claims" in context:
            return error, context
        answered = dict(context)  # the cache has the other one
        key = answered.pop(_HIDDEN_KEY, "")
        if request.usage_key is not None:
            request.usage_key = key
        answered["integrationLatency"] = int((time.monotonic() - started) * 1000)
        return error, answered

    async def invoke(authorizer: Any, event: dict[str, Any], *arguments: Any) -> Any:
        if event.get("type") == "REQUEST":
            _complete(event)
        result = await original_invoke(authorizer, event, *arguments)
        return result if not result or result.get("error") else _with_hidden_key(result)

    def key_of(headers: dict[str, Any]) -> Any:
        request = _current.get()
        return original_key(headers) if request is None or request.usage_key is None else request.usage_key

    original_authorize = seams.replace(apigateway_v1, "_authorize_request_v1", authorize)
    original_invoke = seams.replace(apigateway_v1, "_invoke_authorizer_lambda", invoke)
    original_key = seams.replace(apigateway_v1, "_api_key_from_request", key_of)


def _complete(event: dict[str, Any]) -> None:
    """Add what API Gateway tells an authorizer beside what MiniStack does."""
    context = event["requestContext"]
    api_id = context["apiId"]
    context.update(
        requestId=request_id(),
        path=f"/{context['stage']}{event['path']}",
        protocol="HTTP/1.1",
        requestTimeEpoch=int(time.time() * 1000),
        domainName=f"{api_id}.execute-api.{get_region()}.amazonaws.com",
        domainPrefix=api_id,
    )


def _with_hidden_key(result: dict[str, Any]) -> dict[str, Any]:
    """Move an authorizer's ``usageIdentifierKey`` into its context; an answer of another form stays as it is."""
    answer = result.get("body")
    if isinstance(answer, str | bytes):
        try:
            answer = json.loads(answer)
        except ValueError:
            return result
    if not isinstance(answer, dict):
        return result
    given = answer.get("context")
    context = {key: value for key, value in given.items() if key != _HIDDEN_KEY} if isinstance(given, dict) else {}
    key = answer.get("usageIdentifierKey")
    if isinstance(key, str) and key:
        context[_HIDDEN_KEY] = key
    return {**result, "body": {**answer, "context": context}}


def _keep_api_properties() -> None:
    """Keep properties of an API which MiniStack's CloudFormation type drops, or stores in CloudFormation's spelling."""

    def complete(api_id: str, props: dict[str, Any]) -> None:
        api = seams.attribute(apigateway_v1, "_rest_apis").get(api_id)
        if api is None:
            return
        api["apiKeySource"] = props.get("ApiKeySourceType") or "HEADER"
        api["disableExecuteApiEndpoint"] = str(props.get("DisableExecuteApiEndpoint", False)).lower() == "true"
        endpoint = props.get("EndpointConfiguration") or {}
        configuration: dict[str, Any] = {"types": endpoint.get("Types") or ["EDGE"]}
        for name, key in (("IpAddressType", "ipAddressType"), ("VpcEndpointIds", "vpcEndpointIds")):
            if endpoint.get(name):
                configuration[key] = endpoint[name]
        api["endpointConfiguration"] = configuration

    seams.after_provisioning("AWS::ApiGateway::RestApi", complete)


def _authorizers_without_identity_sources() -> None:
    """Leave a REQUEST authorizer without identity sources without them; MiniStack fills in Authorization."""

    def complete(authorizer_id: str, props: dict[str, Any]) -> None:
        authorizers = seams.attribute(apigateway_v1, "_authorizers_v1").get(props["RestApiId"], {})
        if props.get("Type") == "REQUEST" and not props.get("IdentitySource") and authorizer_id in authorizers:
            authorizers[authorizer_id]["identitySource"] = ""

    seams.after_provisioning("AWS::ApiGateway::Authorizer", complete)


def install() -> None:
    """Complete MiniStack's authorizers."""
    _usage_keys()
    _keep_api_properties()
    _authorizers_without_identity_sources()
