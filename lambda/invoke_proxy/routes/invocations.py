"""SageMaker's own route: the engine's bytes both ways, for clients that know the engine."""

from __future__ import annotations

import json
import logging

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from invoke_proxy.endpoints.call import Call
from invoke_proxy.endpoints.runtime import EndpointStream
from invoke_proxy.endpoints.waiting import until_ready
from invoke_proxy.errors import ApiError, internal_error, openai_error
from invoke_proxy.logs import RequestLog
from invoke_proxy.registry import Tenant
from invoke_proxy.service import Service, deployment_headers
from invoke_proxy.sse import event_bytes

from .serving import endpoint, header_value

__all__ = ["invocations_routes"]

logger = logging.getLogger(__name__)

_MODEL_HEADER = "x-modelzone-model"
_JSON = "application/json"
_EVENTS = "text/event-stream"


def invocations_routes(service: Service) -> list[Route]:
    """Return the route ``/invocations``."""
    return [endpoint("/invocations", "POST", _Invocations(service).invoke, openai_error)]


class _Invocations:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def invoke(self, request: Request, body: bytes, log: RequestLog) -> Response:
        """Pass a body to the endpoint and its answer back; a stream when the body says ``"stream": true``."""
        caller = await self._service.caller(log)
        _check_tenant(caller.tenant)
        header = request.headers.get(_MODEL_HEADER)
        model = header if header is not None else request.query_params.get("model")
        param = _MODEL_HEADER if header is not None else "model"
        deployment = await self._service.deployment(model, caller, log, param=param)
        headers = deployment_headers(deployment)
        call = self._service.call(caller, log)
        content_type = request.headers.get("content-type", _JSON)
        accept = request.headers.get("accept", "*/*")
        if _wants_stream(body):
            log.stream = True
            accept = _EVENTS if accept == "*/*" else accept
            stream = await self._open(deployment.endpoint_name, body, call, content_type, accept)
            return _PassedOn(stream, log=log, headers=headers)
        accept = _JSON if accept == "*/*" else accept
        kind, content = await self._service.services.runtime.invoke_raw(
            deployment.endpoint_name, body, call=call, content_type=content_type, accept=accept
        )
        return Response(content, headers={**headers, "content-type": header_value(kind)})

    async def _open(self, name: str, body: bytes, call: Call, content_type: str, accept: str) -> EndpointStream:
        async def attempt() -> EndpointStream:
            stream = await self._service.services.runtime.stream(
                name, body, call=call, content_type=content_type, accept=accept
            )
            try:
                await stream.read_ahead()
            except BaseException:
                stream.close()
                raise
            return stream

        return await until_ready(attempt, bound=call.wait_seconds)


def _check_tenant(tenant: Tenant) -> None:
    """Refuse those whose limit could not be kept: the gateway does not read what it passes on."""
    if tenant.max_output_tokens is not None:
        raise ApiError(
            status=403,
            message=f"Tenant '{tenant.name}' has a limit on output tokens, which this route cannot keep. Use "
            "/v1/chat/completions, /v1/completions or /generate.",
            code="route_not_allowed",
        )


def _wants_stream(body: bytes) -> bool:
    if b'"stream"' not in body:
        return False
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("stream") is True


class _PassedOn(Response):
    """An endpoint's stream with its own content type. No comments: what the bytes mean is not known here."""

    def __init__(self, stream: EndpointStream, *, log: RequestLog, headers: dict[str, str]) -> None:
        self.status_code = 200
        self.media_type = None
        self._kind = header_value(stream.content_type)
        self.init_headers({**headers, "content-type": self._kind, "cache-control": "no-cache"})
        self._stream = stream
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the bytes as they come; a failure is an event or a line where the content type allows one."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            rest = b""
            try:
                async for chunk in self._stream:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except Exception as failure:
                error = failure if isinstance(failure, ApiError) else internal_error()
                self._log.error = error.code
                if error is not failure:
                    fields = {"request_id": self._log.request_id}
                    logger.exception("stream failed", extra={"fields": fields}, exc_info=failure)
                rest = self._failure(error)
            await send({"type": "http.response.body", "body": rest, "more_body": False})
        finally:
            self._stream.close()

    def _failure(self, error: ApiError) -> bytes:
        if self._kind.startswith(_EVENTS):
            # It may come in the middle of an event.
            return b"\n\n" + event_bytes(openai_error(error))
        return b"\n" + json.dumps(openai_error(error)).encode() + b"\n"
