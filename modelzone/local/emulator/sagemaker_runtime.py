"""The SageMaker runtime: InvokeEndpoint and InvokeEndpointWithResponseStream, forwarded to the model servers."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from ministack.core.responses import get_account_id, get_region, set_request_account_id, set_request_region
from ministack.core.router import extract_access_key_id, extract_region

from modelzone.local.emulator.asgi import Receive, Scope, Send, headers_of, json_reply, pump, read_body, reply
from modelzone.local.emulator.event_stream import CONTENT_TYPE, event_message, exception_message
from modelzone.local.emulator.http_client import ChildResponse, ResponseBroken, request
from modelzone.local.emulator.sagemaker_hosting import (
    EndpointKey,
    EndpointStatus,
    ModelHosting,
    NoSuchVariant,
    VariantUnavailable,
)

__all__ = ["INVOKE_TIMEOUT_S", "STREAM_TIMEOUT_S", "SageMakerRuntime"]

INVOKE_TIMEOUT_S = 60.0
STREAM_TIMEOUT_S = 480.0

_ROUTE = re.compile(r"/endpoints/(?P<endpoint>[^/]+)/(?P<kind>invocations|invocations-response-stream)")
_FORWARDED = (
    "accept",
    "content-type",
    "x-amzn-sagemaker-custom-attributes",
    "x-amzn-sagemaker-inference-id",
    "x-amzn-sagemaker-session-id",
)
_CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
_TARGET_VARIANT = "x-amzn-sagemaker-target-variant"
_HTTP_ERROR = 400
_HTTP_SERVER_ERROR = 500
_MESSAGE_LIMIT = 512

logger = logging.getLogger("modelzone.emulator.runtime")


class _RuntimeError(Exception):
    """An error of the runtime API with its wire shape."""

    def __init__(self, *, status: int, code: str, document: dict[str, Any]) -> None:
        super().__init__(code)
        self.status, self.code, self.document = status, code, document


def _model_error(*, endpoint: str, status: int, message: str) -> _RuntimeError:
    """ModelError as SageMaker words it for an answer of the container (``status`` 0: there was none)."""
    kind = "client" if _HTTP_ERROR <= status < _HTTP_SERVER_ERROR else "server"
    region, account = get_region(), get_account_id()
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    text = (
        f'Received {kind} error ({status}) from primary with message "{message[:_MESSAGE_LIMIT]}". See '
        f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logEventViewer:group={group} "
        f"in account {account} for more information."
    )
    document = {
        "ErrorCode": "CLIENT_ERROR_FROM_MODEL" if kind == "client" else "INTERNAL_FAILURE_FROM_MODEL",
        "LogStreamArn": f"arn:aws:logs:{region}:{account}:log-group:{group}",
        "Message": text,
        "OriginalMessage": message,
        "OriginalStatusCode": status,
    }
    return _RuntimeError(status=424, code="ModelError", document=document)


@dataclass(frozen=True, kw_only=True)
class _Invocation:
    endpoint: str
    streaming: bool
    headers: dict[str, str]
    body: bytes


class SageMakerRuntime:
    """The data plane as an ASGI application for the paths :meth:`matches` accepts."""

    def __init__(self, *, hosting: ModelHosting) -> None:
        self._hosting = hosting

    @staticmethod
    def matches(scope: Scope) -> bool:
        """Whether a request belongs to the runtime API."""
        return scope["method"] == "POST" and _ROUTE.fullmatch(scope["path"]) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one invocation."""
        route = _ROUTE.fullmatch(scope["path"])
        assert route is not None, "dispatched by matches()"  # noqa: S101 - states the caller's duty
        headers = headers_of(scope)
        set_request_account_id(extract_access_key_id(headers, {}))
        set_request_region(extract_region(headers))
        invocation = _Invocation(
            endpoint=unquote(route["endpoint"]),
            streaming=route["kind"] == "invocations-response-stream",
            headers=headers,
            body=await read_body(receive),
        )
        try:
            await self._invoke(invocation, receive, send)
        except _RuntimeError as error:
            own = [("x-amzn-errortype", error.code), ("x-amzn-requestid", str(uuid.uuid4()))]
            await json_reply(send, error.status, error.document, own)

    async def _invoke(self, invocation: _Invocation, receive: Receive, send: Send) -> None:
        variant, port = await self._locate(invocation)
        limit = STREAM_TIMEOUT_S if invocation.streaming else INVOKE_TIMEOUT_S
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit
        answer = await self._ask(invocation, port, limit)
        try:
            if answer.status >= _HTTP_ERROR:
                message = (await answer.read()).decode(errors="replace")
                raise _model_error(endpoint=invocation.endpoint, status=answer.status, message=message)
            if invocation.streaming:
                await self._stream(answer, variant, deadline, receive, send)
                return
            try:
                async with asyncio.timeout_at(deadline):
                    body = await answer.read()
            except TimeoutError as error:
                raise self._timed_out(invocation) from error
        except ResponseBroken as error:
            raise _model_error(endpoint=invocation.endpoint, status=0, message=_BROKEN) from error
        finally:
            answer.close()
        content_type = answer.header("content-type") or "application/octet-stream"
        await reply(send, answer.status, [("content-type", content_type), *_own_headers(answer, variant)], body)

    async def _locate(self, invocation: _Invocation) -> tuple[str, int]:
        key = EndpointKey(account=get_account_id(), region=get_region(), name=invocation.endpoint)
        endpoint = self._hosting.get(key)
        if endpoint is None or endpoint.status in {EndpointStatus.CREATING, EndpointStatus.FAILED}:
            text = f"Endpoint {invocation.endpoint} of account {key.account} not found."
            raise _RuntimeError(status=400, code="ValidationError", document={"Message": text})
        target = invocation.headers.get(_TARGET_VARIANT)
        try:
            # A thread, because an ended model server is started again here.
            return await asyncio.to_thread(self._hosting.port_for, endpoint, target_variant=target)
        except NoSuchVariant as error:
            text = f"Variant {target} of endpoint {invocation.endpoint} of account {key.account} not found."
            raise _RuntimeError(status=400, code="ValidationError", document={"Message": text}) from error
        except VariantUnavailable as error:
            raise _not_ready() from error

    async def _ask(self, invocation: _Invocation, port: int, limit: float) -> ChildResponse:
        headers = [(name, invocation.headers[name]) for name in _FORWARDED if name in invocation.headers]
        try:
            async with asyncio.timeout(limit):
                return await request(
                    port=port, method="POST", target="/invocations", headers=headers, body=invocation.body
                )
        except TimeoutError as error:
            raise self._timed_out(invocation) from error
        except ResponseBroken as error:
            raise _model_error(endpoint=invocation.endpoint, status=0, message=_BROKEN) from error
        except OSError as error:  # nothing listens: the server ended or was just started again
            raise _not_ready() from error

    @staticmethod
    def _timed_out(invocation: _Invocation) -> _RuntimeError:
        message = (
            "Your invocation timed out while waiting for a response from container primary. Review the latency "
            "metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
        )
        return _model_error(endpoint=invocation.endpoint, status=0, message=message)

    @staticmethod
    async def _stream(answer: ChildResponse, variant: str, deadline: float, receive: Receive, send: Send) -> None:
        headers = [
            ("content-type", CONTENT_TYPE),
            ("x-amzn-sagemaker-content-type", answer.header("content-type") or "application/octet-stream"),
            *_own_headers(answer, variant),
        ]
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        if await pump(_events(answer, deadline), send, receive):
            await send({"type": "http.response.body", "body": b""})


_BROKEN = "The container closed the connection before its response was complete."


def _not_ready() -> _RuntimeError:
    text = "The model's container is being started. Wait and try again."
    return _RuntimeError(status=429, code="ModelNotReadyException", document={"Message": text})


def _own_headers(answer: ChildResponse, variant: str) -> list[tuple[str, str]]:
    own = [("x-amzn-invoked-production-variant", variant), ("x-amzn-requestid", str(uuid.uuid4()))]
    attributes = answer.header(_CUSTOM_ATTRIBUTES)
    return own if attributes is None else [*own, (_CUSTOM_ATTRIBUTES, attributes)]


async def _events(answer: ChildResponse, deadline: float) -> AsyncIterator[bytes]:
    """The container's body as payload parts; what breaks it becomes the stream's last message."""
    chunks = answer.chunks()
    while True:
        try:
            # Each step has its own timeout: a task that waits for one step may not be the one that waits for the next.
            async with asyncio.timeout_at(deadline):
                chunk = await anext(chunks, None)
        except TimeoutError:
            yield _stream_error("ModelInvocationTimeExceeded", "The invocation took longer than the limit.")
            return
        except ResponseBroken:
            yield _stream_error("StreamBroken", _BROKEN)
            return
        if chunk is None:
            return
        yield event_message("PayloadPart", chunk)


def _stream_error(code: str, message: str) -> bytes:
    return exception_message("ModelStreamError", json.dumps({"ErrorCode": code, "Message": message}).encode())
