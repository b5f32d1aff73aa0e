"""What all routes have in common: a log line each, failures in the API's format, and an eye on the client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from invoke_proxy.bodies import read_bytes
from invoke_proxy.errors import ApiError, internal_error
from invoke_proxy.logs import RequestLog

__all__ = ["CLIENT_CLOSED", "ErrorBody", "Handler", "endpoint", "header_value", "json_response"]

logger = logging.getLogger(__name__)

CLIENT_CLOSED = 499
# How long after a request has come its client is not watched.
_UNWATCHED_SECONDS = 0.02

ErrorBody = Callable[[ApiError], dict[str, Any]]
Handler = Callable[[Request, bytes, RequestLog], Awaitable[Response]]
"""Answers a request with this body; raises ApiError."""


def endpoint(path: str, method: str, handler: Handler, error_body: ErrorBody) -> Route:
    """Return a route that logs every request once and writes failures in its API's format."""
    return Route(path, _Endpoint(path, handler, error_body), methods=[method])


class _Endpoint:
    """A route as an ASGI application: no wrapper around it, because each costs a task or a copy for every chunk."""

    def __init__(self, path: str, handler: Handler, error_body: ErrorBody) -> None:
        self._path = path
        self._handler = handler
        self._error_body = error_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        log = RequestLog.begin(request.headers, route=self._path)
        exchange = _Exchange(receive, send, log)
        try:
            try:
                body = await read_bytes(request)
                log.input_bytes = len(body)
                with exchange:
                    response = await self._answer(request, body, log)
                    response.headers["x-request-id"] = header_value(log.request_id)
                    await response(scope, receive, exchange.send)
            except ApiError as error:  # the body is too large
                await self._failed(error, log)(scope, receive, exchange.send)
        except ClientDisconnect:
            pass
        finally:
            if not exchange.complete and log.error is None:
                log.error = "client_disconnected"
            log.write(status=exchange.status if exchange.complete else CLIENT_CLOSED)

    async def _answer(self, request: Request, body: bytes, log: RequestLog) -> Response:
        try:
            return await self._handler(request, body, log)
        except ApiError as error:
            return self._failed(error, log)
        except Exception as failure:
            logger.exception("request failed", extra={"fields": {"request_id": log.request_id}}, exc_info=failure)
            return self._failed(internal_error(), log)

    def _failed(self, error: ApiError, log: RequestLog) -> Response:
        log.error = error.code
        headers = {**error.headers, "x-request-id": header_value(log.request_id)}
        return JSONResponse(self._error_body(error), status_code=error.status, headers=headers)


class _Exchange:
    """Watches the client while its request is served: when it leaves, the serving ends at once.

    As a context manager it turns the cancellation that it caused itself into `ClientDisconnect`.
    """

    def __init__(self, receive: Receive, send: Send, log: RequestLog) -> None:
        self._receive = receive
        self._send = send
        self._log = log
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._gone = False
        self.complete = False
        self.status = 0

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        # Not at once: by then the endpoint has been asked, so that the answer does not wait for it.
        self._timer = asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, self._begin)

    def _begin(self) -> None:
        self._watch = asyncio.create_task(self._wait())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        # As asyncio.timeout does it: only a cancellation that is nobody else's is caught.
        if self._gone and self._task is not None and self._task.uncancel() <= 0 and kind is asyncio.CancelledError:
            raise ClientDisconnect

    async def send(self, message: Message) -> None:
        """Pass a message on, and note the status and the end."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif not message.get("more_body", False):
            # Before it is sent: a server tells the watcher of the end as if the client had left.
            self.complete = True
        await self._send(message)

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.complete and self._task is not None:
            self._gone = True
            self._task.cancel()


def json_response(document: Any, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer that holds what an engine has said.

    Raises
    ------
    ApiError
        502 when it has no JSON: engines may report numbers that are infinite.
    """
    try:
        return JSONResponse(document, headers=headers)
    except ValueError as error:
        raise ApiError(
            status=502,
            message="The model server answered numbers or texts that JSON cannot hold.",
            code="engine_answer_not_understood",
        ) from error


def header_value(text: str) -> str:
    """Return what of a text a header can carry."""
    return "".join(character for character in text if " " <= character <= "~")
