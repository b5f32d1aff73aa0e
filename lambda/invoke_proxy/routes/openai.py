"""OpenAI's routes: chat completions, completions, embeddings, models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from invoke_proxy.bodies import endpoint_body, parse_object
from invoke_proxy.errors import openai_error
from invoke_proxy.generation import Answer, Finish, Piece
from invoke_proxy.limits import check_input, default_length
from invoke_proxy.logs import RequestLog
from invoke_proxy.openai_api.chat_answer import ChatAnswer
from invoke_proxy.openai_api.chat_request import parse_chat_request
from invoke_proxy.openai_api.completion_answer import CompletionAnswer
from invoke_proxy.openai_api.completion_request import parse_completion_request
from invoke_proxy.openai_api.embedding_answer import embedding_answer
from invoke_proxy.openai_api.embedding_request import parse_embedding_request
from invoke_proxy.openai_api.models import model_list, model_object
from invoke_proxy.registry import Deployment
from invoke_proxy.service import Ask, Job, Service, deployment_headers, dialect_of
from invoke_proxy.sse import comment_bytes, event_bytes
from invoke_proxy.streams import EventStreamResponse

from .serving import endpoint, json_response

__all__ = ["openai_routes"]

_DONE = event_bytes("[DONE]")


class _Answer(Protocol):
    """What `ChatAnswer` and `CompletionAnswer` have in common."""

    def complete(self, answer: Answer) -> dict[str, Any]: ...
    def first_chunk(self) -> dict[str, Any]: ...
    def piece_bytes(self, piece: Piece) -> bytes: ...
    def last_chunks(self, finish: Finish) -> Iterator[dict[str, Any]]: ...


def openai_routes(service: Service) -> list[Route]:
    """Return the routes under ``/v1``."""
    routes = _Routes(service)
    return [
        endpoint("/v1/chat/completions", "POST", routes.chat, openai_error),
        endpoint("/v1/completions", "POST", routes.completions, openai_error),
        endpoint("/v1/embeddings", "POST", routes.embeddings, openai_error),
        endpoint("/v1/models", "GET", routes.models, openai_error),
        endpoint("/v1/models/{model:path}", "GET", routes.model, openai_error),
    ]


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def chat(self, _request: Request, body: bytes, log: RequestLog) -> Response:
        """Answer a conversation, in one piece or as a stream of chunks."""
        caller = await self._service.caller(log)
        request = parse_chat_request(parse_object(body), max_messages=caller.snapshot.settings.max_messages)
        log.stream = request.stream
        ask = Ask(
            model=request.model,
            generation=request.generation,
            param="messages",
            requests=request.extensions.max_requests,
        )
        job = await self._service.prepare(ask, caller, log)
        answer = ChatAnswer(request=request, **_names(job.deployment))
        return await self._respond(job, answer, stream=request.stream)

    async def completions(self, _request: Request, body: bytes, log: RequestLog) -> Response:
        """Go on with a text, in one piece or as a stream of chunks."""
        caller = await self._service.caller(log)
        document = parse_object(body)
        request = parse_completion_request(document)
        if document.get("max_tokens") is None:
            request = replace(request, max_tokens=default_length(request.max_tokens, tenant=caller.tenant))
        log.stream = request.stream
        ask = Ask(
            model=request.model,
            generation=request.generation,
            param="prompt",
            requests=request.extensions.max_requests,
        )
        job = await self._service.prepare(ask, caller, log)
        answer = CompletionAnswer(request=request, **_names(job.deployment))
        return await self._respond(job, answer, stream=request.stream)

    async def _respond(self, job: Job, answer: _Answer, *, stream: bool) -> Response:
        if stream:
            events = _chunks(self._service, job, answer)
            return EventStreamResponse(events, error_body=openai_error, log=job.log, headers=job.headers)
        return json_response(answer.complete(await self._service.answer(job)), headers=job.headers)

    async def embeddings(self, _request: Request, body: bytes, log: RequestLog) -> Response:
        """Answer with a vector for each input."""
        caller = await self._service.caller(log)
        request = parse_embedding_request(parse_object(body))
        deployment = await self._service.deployment(request.model, caller, log)
        request.check(deployment)
        services = self._service.services
        for text in request.inputs:
            await check_input(text, deployment=deployment, tokens=services.tokens, param="input")
        dialect = dialect_of(deployment)
        asked = endpoint_body(dialect.embeddings_body(request.inputs, dimensions=request.dimensions))
        call = self._service.call(caller, log)
        found = dialect.embeddings(await services.runtime.invoke(deployment.endpoint_name, asked, call=call))
        log.prompt_tokens = found.prompt_tokens
        document = embedding_answer(request, found, model=request.model or deployment.deployment)
        return json_response(document, headers=deployment_headers(deployment))

    async def models(self, _request: Request, _body: bytes, log: RequestLog) -> Response:
        """List what the tenant may use: deployments, then their other names."""
        caller = await self._service.caller(log)
        allowed = caller.snapshot.allowed(caller.tenant)
        named = list(allowed.items())
        named += [(alias, allowed[name]) for alias, name in caller.snapshot.settings.aliases.items() if name in allowed]
        return json_response(model_list(named))

    async def model(self, request: Request, _body: bytes, log: RequestLog) -> Response:
        """Describe one deployment, by any of its names."""
        caller = await self._service.caller(log)
        name = request.path_params["model"]
        deployment = await self._service.deployment(name, caller, log)
        return json_response(model_object(name, deployment), headers=deployment_headers(deployment))


async def _chunks(service: Service, job: Job, answer: _Answer) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a streamed answer; what came together goes out together."""
    events = service.events(job)
    opened = False
    try:
        async for batch in events:
            out = [] if opened else [event_bytes(answer.first_chunk())]
            opened = True
            for event in batch:
                if isinstance(event, Piece):
                    out.append(answer.piece_bytes(event))
                elif isinstance(event, Finish):
                    out += [event_bytes(chunk) for chunk in answer.last_chunks(event)]
                    out.append(_DONE)
                else:
                    out.append(comment_bytes())
            data = b"".join(out)
            if data:
                yield data
    finally:
        await events.aclose()


def _names(deployment: Deployment) -> dict[str, str]:
    return {
        "fingerprint": f"{deployment.engine}-{deployment.engine_version}",
        "model": deployment.deployment,
    }
