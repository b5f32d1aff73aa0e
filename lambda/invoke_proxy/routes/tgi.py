"""Text Generation Inference's routes: generate, tokenize, info; for deployments of any engine.

Where the engine is TGI itself, or LoRAX, and nothing is asked that it does not know, its answer passes through as it
is: nothing is lost, and nothing is written anew.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from invoke_proxy.bodies import endpoint_body, parse_object
from invoke_proxy.dialects.reading import incomplete
from invoke_proxy.dialects.tgi_generate import generate_answer, generate_body
from invoke_proxy.endpoints.runtime import EndpointRuntime, EndpointStream
from invoke_proxy.endpoints.waiting import until_ready
from invoke_proxy.errors import ApiError, tgi_error
from invoke_proxy.generation import Finish, Generation, Piece
from invoke_proxy.limits import default_length
from invoke_proxy.logs import RequestLog
from invoke_proxy.openai_api.fields import Fields, require_object
from invoke_proxy.openai_api.writing import encode
from invoke_proxy.registry import Deployment
from invoke_proxy.service import Ask, Caller, Job, Service, deployment_headers
from invoke_proxy.sse import comment_bytes
from invoke_proxy.streams import EventStreamResponse, whole_events
from invoke_proxy.tgi_api.generate_answer import GenerateAnswer
from invoke_proxy.tgi_api.generate_request import MAX_STOP_SEQUENCES, GenerateRequest, parse_generate_request

from .serving import endpoint, json_response

__all__ = ["tgi_routes"]

_TGI_DIALECTS = frozenset({"tgi-generate", "lorax"})
_OURS = frozenset({"continue_until_stop", "max_continuations", "confidence"})
# A JSON schema has one of two names; what has the other's is written anew, because the engine would ignore it.
_FOREIGN = {"lorax": "grammar", "tgi-generate": "response_format"}
# What the gateway says where the client says nothing, the same whether the answer passes through or not.
_DEFAULTS = ("max_new_tokens", "top_k")
_LAST = re.compile(rb'"generated_text"\s*:\s*"')
_ERROR = re.compile(rb'(?:^|\n)data: ?\{"error"')


def tgi_routes(service: Service) -> list[Route]:
    """Return TGI's routes."""
    routes = _Routes(service)
    return [
        endpoint("/", "POST", routes.compatible, tgi_error),
        endpoint("/generate", "POST", routes.generate, tgi_error),
        endpoint("/generate_stream", "POST", routes.generate_stream, tgi_error),
        endpoint("/tokenize", "POST", routes.tokenize, tgi_error),
        endpoint("/info", "GET", routes.info, tgi_error),
    ]


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def compatible(self, request: Request, body: bytes, log: RequestLog) -> Response:
        """Answer as TGI's `/`, to which its clients post: `stream` in the body decides, a whole answer is in a list."""
        caller = await self._service.caller(log)
        document = parse_object(body)
        if document.get("stream") is True:
            return await self._streamed(document, caller, log, model=_named(request))
        return await self._whole(document, caller, log, model=_named(request), listed=True)

    async def generate(self, _request: Request, body: bytes, log: RequestLog) -> Response:
        """Answer as TGI's `/generate`."""
        caller = await self._service.caller(log)
        return await self._whole(parse_object(body), caller, log)

    async def _whole(
        self,
        document: dict[str, Any],
        caller: Caller,
        log: RequestLog,
        *,
        model: str | None = None,
        listed: bool = False,
    ) -> Response:
        request, job, raw = await self._prepare(document, caller, log, stream=False, model=model)
        if raw is not None:
            runtime = self._service.services.runtime
            payload = await runtime.invoke(job.deployment.endpoint_name, raw, call=job.call)
            answer = generate_answer(payload)
            if log.log_content:
                log.keep_answer(answer["generated_text"])
            details = answer.get("details")
            if isinstance(details, dict):
                log.completion_tokens = details.get("generated_tokens")
        else:
            answer = GenerateAnswer(request=request).whole(await self._service.answer(job))
        return json_response([answer] if listed else answer, headers=job.headers)

    async def generate_stream(self, _request: Request, body: bytes, log: RequestLog) -> Response:
        """Answer as TGI's `/generate_stream`."""
        caller = await self._service.caller(log)
        return await self._streamed(parse_object(body), caller, log)

    async def _streamed(
        self, document: dict[str, Any], caller: Caller, log: RequestLog, *, model: str | None = None
    ) -> Response:
        log.stream = True
        request, job, raw = await self._prepare(document, caller, log, stream=True, model=model)
        if raw is not None:
            events = _Raw(self._service.services.runtime, job, raw).events()
        else:
            events = _events(self._service, job, GenerateAnswer(request=request))
        return EventStreamResponse(events, error_body=tgi_error, log=log, headers=job.headers)

    async def _prepare(
        self, document: dict[str, Any], caller: Caller, log: RequestLog, *, stream: bool, model: str | None
    ) -> tuple[GenerateRequest, Job, bytes | None]:
        """Return the request, and the body for the endpoint where the engine's own answer will do.

        `model` is the one that is named beside the body.
        """
        request = parse_generate_request(document, stream=stream)
        if "max_new_tokens" not in (document.get("parameters") or {}):
            request = replace(request, max_new_tokens=default_length(request.max_new_tokens, tenant=caller.tenant))

        def generation(deployment: Deployment) -> Generation:
            passes = deployment.dialect in _TGI_DIALECTS and not request.extended
            # The prompt's tokens are in the engine's own answer only.
            asked = replace(request, decoder_input_details=False) if passes else request
            return asked.generation(deployment)

        ask = Ask(
            model=request.model if model is None else model,
            generation=generation,
            param="inputs",
            requests=request.extensions.max_requests,
            cacheable=not request.decoder_input_details and request.best_of == 1,
        )
        job = await self._service.prepare(ask, caller, log)
        if not _passes(request, job, document):
            return request, job, None
        # Refuses what the engine would ignore in silence.
        asked = job.dialect.body(job.generation, job.deployment)["parameters"]
        own = _own_body(document, stream=stream)
        for name in _DEFAULTS:
            if own["parameters"].get(name) is None and asked.get(name) is not None:
                own["parameters"][name] = asked[name]
        return request, job, endpoint_body(own)

    async def tokenize(self, _request: Request, body: bytes, log: RequestLog) -> Response:
        """Answer with the tokens of a text, as TGI's `/tokenize`."""
        caller = await self._service.caller(log)
        fields = Fields(parse_object(body))
        model, inputs = fields.text("model"), fields.required_text("inputs")
        parameters = fields.take("parameters")
        if parameters is not None:  # clients send the body of a generate request
            require_object(parameters, param="parameters")
        fields.refuse_rest()
        deployment = await self._service.deployment(model, caller, log)
        found = await self._service.services.tokens.tokenize(deployment, inputs)
        if found is None:
            raise ApiError(
                status=404,
                message=f"No fast tokenizer available: '{deployment.deployment}' has none, or it cannot be read.",
                code="tokenizer_not_found",
                error_type="no fast tokenizer",
            )
        log.prompt_tokens = len(found)
        return json_response(found, headers=deployment_headers(deployment))

    async def info(self, request: Request, _body: bytes, log: RequestLog) -> Response:
        """Describe a deployment with the words of TGI's `/info`, as far as the gateway knows them."""
        caller = await self._service.caller(log)
        deployment = await self._service.deployment(request.query_params.get("model"), caller, log)
        document = {
            "model_id": deployment.model_id,
            "max_input_tokens": deployment.max_input_tokens,
            # Its name before TGI 2.1.
            "max_input_length": deployment.max_input_tokens,
            "max_total_tokens": deployment.max_total_tokens,
            "max_stop_sequences": MAX_STOP_SEQUENCES,
            "version": deployment.engine_version,
            "router": "modelzone",
            "environment": self._service.services.environment,
            "deployment": deployment.deployment,
            "engine": deployment.engine,
            "features": sorted(deployment.features),
        }
        return json_response(document, headers=deployment_headers(deployment))


def _passes(request: GenerateRequest, job: Job, document: Mapping[str, Any]) -> bool:
    """Whether the engine's own answer will do: it understands all, and the gateway need not look into it.

    What only the engine's own answer has (the prompt's tokens, the other sequences of `best_of`) comes in whole answers
    that are never kept in the cache: these always pass.
    """
    dialect = job.deployment.dialect
    foreign = _FOREIGN.get(dialect)
    return (
        dialect in _TGI_DIALECTS
        and not request.extended
        and job.cache_key is None
        and not (request.stream and job.log.log_content)
        and (document.get("parameters") or {}).get(foreign) is None
    )


def _named(request: Request) -> str | None:
    """Return the model that a request names beside its body, which TGI's clients have no word for."""
    return request.headers.get("x-modelzone-model", request.query_params.get("model"))


def _own_body(document: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    given = document.get("parameters")
    if given is None:
        return generate_body(document, stream=stream)
    parameters = {name: value for name, value in given.items() if name not in _OURS}
    return generate_body({**document, "parameters": parameters}, stream=stream)


async def _events(service: Service, job: Job, answer: GenerateAnswer) -> AsyncGenerator[bytes, None]:
    """Yield TGI's events from any engine's."""
    events = service.events(job)
    try:
        async for batch in events:
            out: list[bytes] = []
            for event in batch:
                if isinstance(event, Piece):
                    out.append(answer.piece_bytes(event))
                elif isinstance(event, Finish):
                    out += [f"data:{encode(last)}\n\n".encode() for last in answer.last_events(event)]
                else:
                    out.append(comment_bytes())
            data = b"".join(out)
            if data:
                yield data
    finally:
        await events.aclose()


class _Raw:
    """The engine's own stream: its bytes, unchanged; they are only counted."""

    def __init__(self, runtime: EndpointRuntime, job: Job, body: bytes) -> None:
        self._runtime = runtime
        self._job = job
        self._body = body
        self._stream: EndpointStream | None = None
        self._ahead: list[bytes] = []

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield whole events.

        Raises
        ------
        ApiError
            When the engine refuses, or breaks off.
        """
        log, complete = self._job.log, False
        try:
            stream = await until_ready(self._open, bound=self._job.call.wait_seconds)
            async for data in whole_events(self._chunks(stream)):
                if tokens := data.startswith(b"data:") + data.count(b"\ndata:"):
                    log.token(tokens)
                complete = complete or _LAST.search(data) is not None
                if b'"error"' in data and _ERROR.search(data) is not None:
                    log.error, complete = "model_error_event", True
                yield data
        finally:
            if self._stream is not None:
                self._stream.close()
        if not complete:
            raise incomplete()

    async def _open(self) -> EndpointStream:
        """Return the stream once its first event is there: the engine refuses in a stream of its own."""
        if self._stream is not None:
            self._stream.close()
        self._ahead = []
        parser = self._job.dialect.parser()
        self._stream = await self._runtime.stream(self._job.deployment.endpoint_name, self._body, call=self._job.call)
        async for chunk in self._stream:
            self._ahead.append(chunk)
            if next(parser.feed(chunk), None) is not None:
                return self._stream
        for _ in parser.end():
            pass
        return self._stream

    async def _chunks(self, stream: EndpointStream) -> AsyncGenerator[bytes, None]:
        for chunk in self._ahead:
            yield chunk
        async for chunk in stream:
            yield chunk
