"""The web app: OpenAI's chat and models routes, TGI's generate routes, and a health check."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import logs
from .aws_clients import AwsClients
from .bodies import endpoint_body, read_object
from .chat_answer import ChatAnswer
from .chat_request import parse_chat_request, require_text
from .chat_templates import render, template_names
from .dialects import DIALECTS, tgi_generate
from .errors import ApiError, bad_request, internal_error, openai_error, tgi_error
from .logs import RequestLog
from .registry import Deployment, Entry, Registry, read_entries
from .sagemaker import EndpointRuntime
from .streams import CLIENT_CLOSED, EventStreamResponse, chat_events, first_event, parsed_events, tgi_events

__all__ = ["app", "create_app"]

logger = logging.getLogger(__name__)

_Handler = Callable[[Request, RequestLog], Awaitable[Response]]
_ErrorBody = Callable[[ApiError], dict[str, Any]]


def create_app(*, registry: Registry, runtime: EndpointRuntime) -> Starlette:
    """Return the web app over a registry of deployments and SageMaker's runtime."""
    handlers = _Handlers(registry=registry, runtime=runtime)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        logs.configure()
        yield
        runtime.shutdown()

    web = Starlette(
        routes=[
            Route("/health", _health, methods=["GET"]),
            _route("/v1/models", "GET", handlers.list_models, openai_error),
            _route("/v1/models/{model:path}", "GET", handlers.get_model, openai_error),
            _route("/v1/chat/completions", "POST", handlers.chat_completions, openai_error),
            _route("/generate", "POST", handlers.generate, tgi_error),
            _route("/generate_stream", "POST", handlers.generate_stream, tgi_error),
        ],
        exception_handlers={HTTPException: _unknown_route},
        lifespan=lifespan,
    )
    # A redirect would name the adapter's address, not the gateway's.
    web.router.redirect_slashes = False
    return web


class _Handlers:
    """One method per route. They raise ApiError; the route writes it in its own format."""

    def __init__(self, *, registry: Registry, runtime: EndpointRuntime) -> None:
        self._registry = registry
        self._runtime = runtime

    async def list_models(self, _request: Request, _log: RequestLog) -> Response:
        """List the deployments as OpenAI lists models."""
        models = [_model(item, item.deployment) for item in await self._registry.deployments()]
        return JSONResponse({"object": "list", "data": models})

    async def get_model(self, request: Request, log: RequestLog) -> Response:
        """Describe one deployment, named by itself or by the model it serves."""
        name = request.path_params["model"]
        deployment = await self._registry.find(name)
        _note(log, deployment)
        return JSONResponse(_model(deployment, name))

    async def chat_completions(self, request: Request, log: RequestLog) -> Response:
        """Answer a conversation, in one piece or as a stream of chunks."""
        chat = parse_chat_request(await read_object(request))
        log.stream = chat.stream
        deployment = await self._registry.find(chat.model)
        _note(log, deployment)
        dialect = DIALECTS.get(deployment.dialect)
        if dialect is None or deployment.chat_template not in template_names():
            raise bad_request(
                f"'{deployment.deployment}' offers no chat: it speaks '{deployment.dialect}' with the chat template "
                f"'{deployment.chat_template}'.",
                param="model",
                code="chat_not_supported",
            )
        prompt = render(deployment.chat_template, chat.messages)
        body = endpoint_body(dialect.chat_body(chat, prompt=prompt, deployment=deployment))
        answer = ChatAnswer(request=chat, fingerprint=f"{deployment.engine}-{deployment.engine_version}")
        if not chat.stream:
            whole = dialect.whole_answer(await self._runtime.invoke(deployment.endpoint_name, body))
            log.completion_tokens, log.prompt_tokens = whole.finish.completion_tokens, whole.finish.prompt_tokens
            return JSONResponse(answer.complete(text=whole.text, tokens=whole.tokens, finish=whole.finish))
        stream = await self._runtime.stream(deployment.endpoint_name, body)
        events = parsed_events(stream)
        try:
            # Engines answer 200 to a stream and then refuse: with the first event at hand that is an HTTP error yet.
            first = await first_event(events, dialect)
        except BaseException:
            stream.close()
            raise
        return EventStreamResponse(
            chat_events(first, events, dialect=dialect, answer=answer, log=log), stream=stream, log=log
        )

    async def generate(self, request: Request, log: RequestLog) -> Response:
        """Answer as TGI's `/generate`."""
        body, deployment = await self._tgi_request(request, log, stream=False)
        answer = tgi_generate.generate_answer(await self._runtime.invoke(deployment.endpoint_name, body))
        details = answer.get("details")
        if isinstance(details, dict):
            log.completion_tokens = details.get("generated_tokens")
        return JSONResponse(answer)

    async def generate_stream(self, request: Request, log: RequestLog) -> Response:
        """Answer as TGI's `/generate_stream`: the engine's bytes, as they come."""
        log.stream = True
        body, deployment = await self._tgi_request(request, log, stream=True)
        stream = await self._runtime.stream(deployment.endpoint_name, body)
        return EventStreamResponse(tgi_events(stream, log=log), stream=stream, log=log)

    async def _tgi_request(self, request: Request, log: RequestLog, *, stream: bool) -> tuple[bytes, Deployment]:
        body = await read_object(request)
        model = body.get("model")
        if model is None:
            deployment = await self._registry.only()
        else:
            deployment = await self._registry.find(require_text(model, param="model"))
        _note(log, deployment)
        if deployment.dialect != "tgi-generate":
            raise bad_request(
                f"'{deployment.deployment}' does not speak TGI's format but '{deployment.dialect}'.", param="model"
            )
        return endpoint_body(tgi_generate.generate_body(body, stream=stream)), deployment


async def _health(_: Request) -> Response:
    """Answer that the app runs. It calls nothing and logs nothing: the adapter asks every 10 ms until it is up."""
    return JSONResponse({"status": "ok"})


def _route(path: str, method: str, handler: _Handler, error_body: _ErrorBody) -> Route:
    """Return a route that logs every request once and writes failures in its API's format."""

    async def endpoint(request: Request) -> Response:
        log = RequestLog.begin(request.headers, route=path)
        try:
            response = await handler(request, log)
        except ApiError as error:
            response = _error_response(error, error_body, log)
        except ClientDisconnect:
            log.error = "client_disconnected"
            response = Response(status_code=CLIENT_CLOSED)
        except Exception as failure:
            logger.exception("request failed", extra={"fields": {"request_id": log.request_id}}, exc_info=failure)
            response = _error_response(internal_error(), error_body, log)
        response.headers["x-request-id"] = log.request_id
        if not isinstance(response, EventStreamResponse):
            log.write(status=response.status_code)
        return response

    return Route(path, endpoint, methods=[method])


def _error_response(error: ApiError, error_body: _ErrorBody, log: RequestLog) -> Response:
    log.error = error.code
    return JSONResponse(error_body(error), status_code=error.status, headers=error.headers)


async def _unknown_route(request: Request, failure: Exception) -> Response:
    """Answer unknown paths and methods in the format of the API whose path it is."""
    log = RequestLog.begin(request.headers, route="unknown")
    status = failure.status_code if isinstance(failure, HTTPException) else 404
    error = ApiError(
        status=status,
        message=f"Unknown request URL: {request.method} {request.url.path[:200]}.",
        code="unknown_url",
        error_type="not_found",
    )
    error_body = openai_error if request.url.path.startswith("/v1") else tgi_error
    headers = (failure.headers if isinstance(failure, HTTPException) else None) or {}
    log.error = error.code
    log.write(status=status)
    return JSONResponse(error_body(error), status_code=status, headers={**headers, "x-request-id": log.request_id})


def _note(log: RequestLog, deployment: Deployment) -> None:
    log.deployment, log.model_id = deployment.deployment, deployment.model_id


def _model(deployment: Deployment, name: str) -> dict[str, Any]:
    """Return OpenAI's model object; `root`, as in vLLM, is the id of the model behind the name."""
    return {
        "id": name,
        "object": "model",
        "created": deployment.registered,
        "owned_by": "modelzone",
        "root": deployment.model_id,
    }


def _create_default_app() -> Starlette:
    """Return the app over the AWS account of the process's environment; calls AWS only when a request needs it."""
    clients = AwsClients()
    path = os.environ.get("MODELZONE_REGISTRY_PATH", "")

    async def load() -> Sequence[Entry]:
        return await asyncio.to_thread(lambda: read_entries(clients.ssm(), path))

    return create_app(registry=Registry(load=load), runtime=EndpointRuntime(client=clients.sagemaker_runtime))


app = _create_default_app()
