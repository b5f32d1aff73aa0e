"""API Gateway: response streaming, and the parts of a REST API that MiniStack leaves out.

MiniStack matches the request, authorises it and applies API key, usage plan, throttle and validator before it calls
the function it keeps for Lambda proxy integrations. That call is the seam: what gets there has passed every check.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from ministack.core.responses import StreamingResponse, get_region
from ministack.services import apigateway_v1, lambda_svc
from ministack.services.cloudformation import provisioners

from modelzone.local.emulator import authorizers, seams
from modelzone.local.emulator.asgi import Receive, Send, pump
from modelzone.local.emulator.functions import is_web_function
from modelzone.local.emulator.http_client import ChildResponse, ResponseBroken
from modelzone.local.emulator.web_adapter import FunctionFailed, WebAdapter, streams

__all__ = ["GatewayAnswer", "install"]

GatewayAnswer = tuple[int, dict[str, Any], Any]
"""Status, headers (a list for a repeated one) and body, as MiniStack's handlers return them."""

_STREAMING_SUFFIX = "/response-streaming-invocations"
_BUFFERED_SUFFIX = "/invocations"
_DEFAULT_TIMEOUT_MS = 29_000
_STREAM_LIMIT_S = 900.0
_STREAM_IDLE_LIMIT_S = 300.0
_PAYLOAD_LIMIT = 6 * 1024 * 1024  # of a Lambda invocation; API Gateway's own is 10 MiB
_JSON = "application/json"
# API Gateway gives these headers itself and passes the function's on under another name.
_REMAPPED = {"date": "x-amzn-remapped-date", "server": "x-amzn-remapped-server", "host": "x-amzn-remapped-host"}

logger = logging.getLogger("modelzone.emulator.api_gateway")


def _error(status: int, message: str) -> GatewayAnswer:
    return status, {"Content-Type": _JSON}, f'{{"message": "{message}"}}'.encode()


_BAD_GATEWAY = (502, "Internal server error")
_TIMED_OUT = (504, "Endpoint request timed out")


def _answered_headers(headers: list[tuple[str, str]]) -> dict[str, Any]:
    """The function's headers as the gateway sends them."""
    grouped: dict[str, Any] = {}
    for name, value in headers:
        grouped.setdefault(_REMAPPED.get(name.lower(), name.lower()), []).append(value)
    grouped["x-amzn-requestid"] = [authorizers.request_id()]
    return grouped


class _Invocation:
    """One request that API Gateway has let through to a web function."""

    def __init__(
        self, *, adapter: WebAdapter, function: dict[str, Any], config: dict[str, Any], event: dict[str, Any]
    ) -> None:
        self._adapter, self._function, self._config, self._event = adapter, function, config, event
        self._timeout_s = float(config.get("Timeout", 3))

    def _timed_out(self, limit_s: float) -> GatewayAnswer:
        """API Gateway gives up after ``limit_s``; before that, Lambda may have ended the function."""
        return _error(*(_TIMED_OUT if limit_s <= self._timeout_s else _BAD_GATEWAY))

    def _forward(self) -> Any:
        return self._adapter.forward(self._function, self._config, self._event, request_id=str(uuid.uuid4()))

    async def buffered(self, limit_s: float) -> GatewayAnswer:
        """The complete answer of a function whose adapter buffers."""
        try:
            async with asyncio.timeout(min(limit_s, self._timeout_s)), self._forward() as answer:
                body = await answer.read()
                return answer.status, _answered_headers(answer.headers), body
        except TimeoutError:
            return self._timed_out(limit_s)
        except (FunctionFailed, ResponseBroken) as error:
            logger.warning("%s", error)
            return _error(*_BAD_GATEWAY)

    async def streamed(self, limit_s: float) -> GatewayAnswer:
        """The answer of a function whose adapter streams: its head now, its body as it comes."""
        deadline = asyncio.get_running_loop().time() + min(limit_s, self._timeout_s, _STREAM_LIMIT_S)
        forwarded = contextlib.AsyncExitStack()
        try:
            async with asyncio.timeout_at(deadline):
                answer: ChildResponse = await forwarded.enter_async_context(self._forward())
        except TimeoutError:
            return self._timed_out(limit_s)
        except (FunctionFailed, ResponseBroken) as error:
            logger.warning("%s", error)
            return _error(*_BAD_GATEWAY)

        async def run(send: Send, receive: Receive) -> None:
            try:
                async with forwarded:
                    if await pump(_within(answer, deadline), send, receive):
                        await send({"type": "http.response.body", "body": b""})
            except (TimeoutError, ResponseBroken) as error:
                # The last frame stays unsent, so that the client sees a truncated answer, as on AWS.
                logger.warning("stream of function %s cut off: %r", self._config.get("FunctionName"), error)

        return answer.status, _answered_headers(answer.headers), StreamingResponse(run)


async def _within(answer: ChildResponse, deadline: float) -> AsyncIterator[bytes]:
    """The body's chunks, each within the idle limit and all before the deadline."""
    chunks = answer.chunks()
    loop = asyncio.get_running_loop()
    while True:
        async with asyncio.timeout_at(min(deadline, loop.time() + _STREAM_IDLE_LIMIT_S)):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        yield chunk


def _enrich(event: dict[str, Any], api_id: str, headers: dict[str, Any]) -> None:
    """Add what API Gateway's event has beside MiniStack's: the domain, and the API key the request came with."""
    context = event["requestContext"]
    context["requestId"] = authorizers.request_id()
    context["domainName"] = f"{api_id}.execute-api.{get_region()}.amazonaws.com"
    context["domainPrefix"] = api_id
    given = seams.attribute(apigateway_v1, "_api_key_from_request")(headers)
    key = seams.attribute(apigateway_v1, "_resolve_api_key")(given)
    if key is not None:
        context["identity"].update(apiKey=key["value"], apiKeyId=key["id"])


def _lambda_reference(original: Callable[[str], str]) -> Callable[[str], str]:
    def reference(uri: str) -> str:
        return original((uri or "").replace(_STREAMING_SUFFIX, _BUFFERED_SUFFIX))

    return reference


def _replace_proxy_invocation(adapter: WebAdapter) -> None:
    # The parameters are MiniStack's.
    async def invoke(  # noqa: PLR0917
        integration: dict[str, Any],
        api_id: str,
        stage_name: str,
        stage: dict[str, Any],
        resource: dict[str, Any],
        request_path: str,
        method: str,
        headers: dict[str, Any],
        body: bytes,
        query_params: dict[str, list[str]],
        path_params: dict[str, str] | None,
        *,
        owner_account_id: str | None = None,
        owner_region: str | None = None,
        binary_media_types: list[str] | None = None,
        authorizer_context: dict[str, Any] | None = None,
        caller_identity: dict[str, Any] | None = None,
    ) -> Any:
        reference = seams.attribute(apigateway_v1, "_extract_lambda_ref_from_integration_uri")(integration["uri"])
        lookup = seams.attribute(lambda_svc, "_get_func_record_for_ref_in_scope")
        function, config, _ = lookup(reference, account_id=owner_account_id, region=owner_region)
        streaming = integration.get("responseTransferMode", "BUFFERED") == "STREAM"
        if config is not None and streaming != (is_web_function(config) and streams(config)):
            return _mode_mismatch(config, streaming=streaming)
        if config is None or not is_web_function(config):
            return await original(
                *(integration, api_id, stage_name, stage, resource, request_path, method, headers, body),
                *(query_params, path_params),
                owner_account_id=owner_account_id,
                owner_region=owner_region,
                binary_media_types=binary_media_types,
                authorizer_context=authorizer_context,
                caller_identity=caller_identity,
            )
        if len(body or b"") > _PAYLOAD_LIMIT:
            return seams.attribute(apigateway_v1, "_gw_error")("REQUEST_TOO_LARGE", "Request Too Long")
        event = seams.attribute(apigateway_v1, "_build_lambda_event_v1")(
            *(api_id, stage_name, stage, resource, request_path, method, headers, body, query_params, path_params),
            binary_media_types=binary_media_types,
            authorizer_context=authorizer_context,
            caller_identity=caller_identity,
        )
        _enrich(event, api_id, headers)
        invocation = _Invocation(adapter=adapter, function=function, config=config, event=event)
        limit_s = float(integration.get("timeoutInMillis") or _DEFAULT_TIMEOUT_MS) / 1000
        return await (invocation.streamed(limit_s) if streaming else invocation.buffered(limit_s))

    original = seams.replace(apigateway_v1, "_invoke_lambda_proxy_v1", invoke)


def _mode_mismatch(config: dict[str, Any], *, streaming: bool) -> GatewayAnswer:
    """What API Gateway answers when integration and function do not agree about streaming.

    A streaming integration needs the metadata and delimiter that only a streaming function writes; a buffered one
    cannot read them. Both end as a malformed response.
    """
    name = config.get("FunctionName")
    if streaming:
        logger.warning("the integration streams (STREAM) but function %s does not write a response stream", name)
    else:
        logger.warning(
            "function %s streams (AWS_LWA_INVOKE_MODE=response_stream) but the integration is BUFFERED: API Gateway "
            "calls that a malformed Lambda proxy response",
            name,
        )
    return _error(*_BAD_GATEWAY)


def _keep_method_properties() -> None:
    """Keep a method's request validator and transfer mode, which MiniStack's CloudFormation type drops."""

    def complete(props: dict[str, Any]) -> None:
        place = props["RestApiId"], props["ResourceId"], props["HttpMethod"]
        if props.get("RequestValidatorId"):
            _patch("_update_method", place, "/requestValidatorId", props["RequestValidatorId"])
        mode = (props.get("Integration") or {}).get("ResponseTransferMode")
        if mode:
            _patch("_update_integration", place, "/responseTransferMode", mode)

    seams.after_provisioning("AWS::ApiGateway::Method", lambda _id, props: complete(props))

    def put_integration(api_id: str, resource_id: str, http_method: str, data: dict[str, Any]) -> Any:
        answer = original(api_id, resource_id, http_method, data)
        mode = data.get("responseTransferMode")
        if not mode:
            return answer
        place = api_id, resource_id, http_method
        status, headers, body = _patch("_update_integration", place, "/responseTransferMode", mode)
        return (answer[0], headers, body) if status < 400 else answer  # noqa: PLR2004 - the put itself was refused

    original = seams.replace(apigateway_v1, "_put_integration", put_integration)


def _patch(function: str, place: tuple[str, str, str], path: str, value: str) -> Any:
    return seams.attribute(apigateway_v1, function)(
        *place, {"patchOperations": [{"op": "replace", "path": path, "value": value}]}
    )


def _real_request_validators() -> None:
    """Create request validators; MiniStack's CloudFormation type only hands out an id."""

    def create(_logical_id: str, props: dict[str, Any], _stack_name: str) -> tuple[str, dict[str, Any]]:
        return _created(props)

    def _created(props: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        wanted = {
            "name": props.get("Name", ""),
            "validateRequestBody": _truth(props.get("ValidateRequestBody")),
            "validateRequestParameters": _truth(props.get("ValidateRequestParameters")),
        }
        answer = seams.attribute(apigateway_v1, "_create_request_validator")(props["RestApiId"], wanted)
        validator = json.loads(answer[2])["id"]
        return validator, {"RequestValidatorId": validator}

    def update(
        validator: str, old: dict[str, Any], new: dict[str, Any], _stack_name: str
    ) -> tuple[str, dict[str, Any]]:
        if any(old.get(key) != new.get(key) for key in ("RestApiId", "Name")):
            return _created(new)
        operations = [
            {"op": "replace", "path": path, "value": str(_truth(new.get(key)))}
            for key, path in (
                ("ValidateRequestBody", "/validateRequestBody"),
                ("ValidateRequestParameters", "/validateRequestParameters"),
            )
        ]
        update_validator = seams.attribute(apigateway_v1, "_update_request_validator")
        update_validator(new["RestApiId"], validator, {"patchOperations": operations})
        return validator, {"RequestValidatorId": validator}

    def delete(validator: str, props: dict[str, Any]) -> None:
        seams.attribute(apigateway_v1, "_delete_request_validator")(props["RestApiId"], validator)

    handlers = seams.attribute(provisioners, "_RESOURCE_HANDLERS")
    handlers["AWS::ApiGateway::RequestValidator"] = {"create": create, "update": update, "delete": delete}


def _truth(value: Any) -> bool:
    return str(value).lower() == "true"


def _keep_access_log_settings() -> None:
    """Keep a stage's access log settings, which MiniStack's CloudFormation type drops."""

    def complete(_stage_name: str, props: dict[str, Any]) -> None:
        wanted = props.get("AccessLogSetting") or {}
        settings = {"destinationArn": wanted.get("DestinationArn"), "format": wanted.get("Format")}
        stages = seams.attribute(apigateway_v1, "_stages_v1").get(props["RestApiId"], {})
        stages[props["StageName"]]["accessLogSettings"] = {key: value for key, value in settings.items() if value}

    seams.after_provisioning("AWS::ApiGateway::Stage", complete)


def _error_types_of_refusals() -> None:
    """Name the error of a refused caller in ``x-amzn-ErrorType``, as API Gateway does."""
    seams.attribute(apigateway_v1, "_GATEWAY_RESPONSE_ERROR_TYPES").update(
        INVALID_API_KEY="ForbiddenException", QUOTA_EXCEEDED="LimitExceededException"
    )


def _plain_method_setting_paths() -> None:
    """Match a stage's method settings: templates escape the slashes of a resource path as ``~1``."""

    def method_settings(raw: Any) -> Any:
        return {key.replace("~1", "/").replace("//", "/"): value for key, value in original(raw).items()}

    original = seams.replace(provisioners, "_apigw_method_settings", method_settings)


def install(*, adapter: WebAdapter) -> None:
    """Complete MiniStack's REST APIs."""
    authorizers.install()
    original = seams.attribute(apigateway_v1, "_extract_lambda_ref_from_integration_uri")
    seams.replace(apigateway_v1, "_extract_lambda_ref_from_integration_uri", _lambda_reference(original))
    _replace_proxy_invocation(adapter)
    _keep_method_properties()
    _real_request_validators()
    _keep_access_log_settings()
    _plain_method_setting_paths()
    _error_types_of_refusals()
