"""The web app: OpenAI's and TGI's routes, SageMaker's, and those about the gateway itself."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from . import logs
from .aws import AwsClient
from .aws.ssm import parameters_by_path
from .cache import ResponseCache
from .endpoints.runtime import EndpointRuntime
from .errors import ApiError, openai_error, tgi_error
from .logs import RequestLog
from .registry import Entry, Registry
from .routes import about_routes, invocations_routes, openai_routes, tgi_routes
from .routes.serving import header_value
from .service import Service, Services
from .tokens import TokenCounter

__all__ = ["app", "create_app"]


def create_app(*, services: Services) -> Starlette:
    """Return the web app."""
    service = Service(services)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        logs.configure()
        # What is there now stays: the collector need not go through it again and again.
        gc.freeze()
        yield
        await services.runtime.aclose()

    web = _App(
        routes=[
            *openai_routes(service),
            *tgi_routes(service),
            *invocations_routes(service),
            *about_routes(),
        ],
        exception_handlers={HTTPException: _unknown_route},
        lifespan=lifespan,
    )
    # A redirect would name the adapter's address, not the gateway's.
    web.router.redirect_slashes = False
    return web


class _App(Starlette):
    """Starlette, with a short way to the routes that it knows by their whole path.

    They log and write their failures themselves; Starlette's layers would be two more calls for every message that is
    sent, which a streamed token feels.
    """

    def __init__(self, *, routes: Sequence[BaseRoute], **options: Any) -> None:
        super().__init__(routes=routes, **options)
        self._short = {
            (method, route.path): route.app
            for route in routes
            if isinstance(route, Route) and "{" not in route.path
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        app = self._short.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        await (app or super().__call__)(scope, receive, send)


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
    error_body = tgi_error if request.url.path in _TGI_PATHS else openai_error
    headers = (failure.headers if isinstance(failure, HTTPException) else None) or {}
    log.error = error.code
    log.write(status=status)
    headers = {**headers, "x-request-id": header_value(log.request_id)}
    return JSONResponse(error_body(error), status_code=status, headers=headers)


_TGI_PATHS = frozenset({"/", "/generate", "/generate_stream", "/tokenize", "/info"})


def _create_default_app() -> Starlette:
    """Return the app over the AWS account of the process's environment; calls AWS only when a request needs it."""
    client = AwsClient()

    def loader(variable: str, *, recursive: bool) -> Callable[[], Awaitable[Sequence[Entry]]]:
        async def load() -> Sequence[Entry]:
            return await parameters_by_path(client, os.environ[variable], recursive=recursive)

        return load

    return create_app(
        services=Services(
            registry=Registry(
                load_deployments=loader("MODELZONE_REGISTRY_PATH", recursive=False),
                load_gateway=loader("MODELZONE_GATEWAY_PATH", recursive=True),
            ),
            runtime=EndpointRuntime(client=client),
            tokens=TokenCounter(client),
            cache=ResponseCache(client, os.environ.get("MODELZONE_CACHE_TABLE")),
            environment=os.environ.get("MODELZONE_ENVIRONMENT", ""),
        )
    )


app = _create_default_app()
