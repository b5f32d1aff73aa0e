"""The routes about the gateway itself: whether it runs, and what it offers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

__all__ = ["about_routes"]


def about_routes() -> list[Route]:
    """Return the routes that ask nobody and name nobody's models."""
    return [
        Route("/health", _health, methods=["GET"]),
        Route("/openapi.json", _openapi, methods=["GET"]),
    ]


async def _health(_: Request) -> Response:
    """Answer that the app runs. It calls nothing and logs nothing: the adapter asks every 10 ms until it is up."""
    return JSONResponse({"status": "ok"})


async def _openapi(_: Request) -> Response:
    """Answer with the description of all routes."""
    from invoke_proxy.openapi import document_bytes  # noqa: PLC0415 - large, and asked for seldom

    return Response(document_bytes(), media_type="application/json", headers={"cache-control": "max-age=300"})
