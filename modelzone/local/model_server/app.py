"""The web application: the routes and answers of TGI 2.1.1."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from modelzone.local.model_server.bodies import ChatBody, GenerateBody, InvalidBody, Parameters, parse_json
from modelzone.local.model_server.chat import (
    DOCKER_LABEL,
    VERSION,
    chat_chunk,
    chat_completion,
    chat_parameters,
    render_chat,
)
from modelzone.local.model_server.errors import InvalidRequest, RequestFailed
from modelzone.local.model_server.generation import Step
from modelzone.local.model_server.metrics import Metrics
from modelzone.local.model_server.mixtral import Mixtral
from modelzone.local.model_server.scheduler import Scheduler
from modelzone.local.model_server.settings import CHECKPOINT, ServerSettings
from modelzone.local.model_server.tokenizer import TextTokenizer
from modelzone.local.model_server.validation import ValidRequest, validate, validate_best_of, validate_stream

__all__ = ["create_app"]

T = TypeVar("T")
_LOGGER = logging.getLogger(__name__)
_COMPUTE_TYPE = "cpu"
_HEARTBEAT_SECONDS = 15.0
_CLIENT_CLOSED_REQUEST = 499


def create_app(*, settings: ServerSettings, folder: Path) -> Starlette:
    """Load the model of an artifact's folder and return the application that serves it."""
    return _ModelServer(settings=settings, folder=folder).app()


class _ClientGoneError(Exception):
    """The client closed the connection before its answer was ready."""


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """A complete answer and the seconds that it took."""

    request: ValidRequest
    steps: list[Step]
    validating: float
    queued: float
    inferring: float

    @property
    def text(self) -> str:
        return "".join(step.token.text for step in self.steps)

    @property
    def mean_logprob(self) -> float:
        return sum(step.token.logprob for step in self.steps) / len(self.steps)

    def details(self) -> dict[str, Any]:
        details: dict[str, Any] = {
            "finish_reason": self.steps[-1].finish_reason,
            "generated_tokens": len(self.steps),
            "seed": _seed(self.request),
            "prefill": [],
            "tokens": [asdict(step.token) for step in self.steps],
        }
        if self.request.top_n_tokens:
            details["top_tokens"] = [[asdict(token) for token in step.top_tokens] for step in self.steps]
        return details


class _ModelServer:
    """The handlers of the routes and what they share."""

    def __init__(self, *, settings: ServerSettings, folder: Path) -> None:
        self._settings = settings
        self._tokenizer = TextTokenizer.load(folder)
        self._metrics = Metrics(max_input_tokens=settings.max_input_tokens, max_total_tokens=settings.max_total_tokens)
        self._scheduler = Scheduler(
            model=Mixtral.load(folder / CHECKPOINT),
            tokenizer=self._tokenizer,
            metrics=self._metrics,
            slots=settings.max_batch_size,
            max_concurrent_requests=settings.max_concurrent_requests,
            token_delay=settings.token_delay,
        )

    def app(self) -> Starlette:
        """Return the application."""
        invocations = self._chat if self._settings.messages_api_enabled else self._compat
        return Starlette(
            routes=[
                Route("/", self._health, methods=["GET"]),
                Route("/", self._compat, methods=["POST"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/ping", self._health, methods=["GET"]),
                Route("/info", self._info, methods=["GET"]),
                Route("/metrics", self._render_metrics, methods=["GET"]),
                Route("/generate", self._generate, methods=["POST"]),
                Route("/generate_stream", self._generate_stream, methods=["POST"]),
                Route("/invocations", invocations, methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ],
            exception_handlers={
                InvalidBody: _answer_invalid_body,
                RequestFailed: self._answer_failure,
                _ClientGoneError: self._answer_nobody,
            },
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        _LOGGER.info("Connected")
        yield
        self._scheduler.close()

    # Routes

    async def _health(self, _request: Request) -> Response:
        return Response()

    async def _info(self, _request: Request) -> Response:
        settings = self._settings
        return _json(
            {
                "model_id": settings.model_id,
                "model_sha": None,
                "model_dtype": "float32",
                "model_device_type": "cpu",
                "model_pipeline_tag": None,
                "max_concurrent_requests": settings.max_concurrent_requests,
                "max_best_of": settings.max_best_of,
                "max_stop_sequences": settings.max_stop_sequences,
                "max_input_tokens": settings.max_input_tokens,
                "max_total_tokens": settings.max_total_tokens,
                "waiting_served_ratio": 0.3,
                "max_batch_total_tokens": settings.max_batch_size * settings.max_total_tokens,
                "max_waiting_tokens": 20,
                "max_batch_size": settings.max_batch_size,
                "validation_workers": 2,
                "max_client_batch_size": 4,
                "router": "text-generation-router",
                "version": VERSION,
                "sha": None,
                "docker_label": DOCKER_LABEL,
            }
        )

    async def _render_metrics(self, _request: Request) -> Response:
        return PlainTextResponse(self._metrics.render())

    async def _tokenize(self, request: Request) -> Response:
        body = GenerateBody.read(await _content(request))
        return _json([asdict(piece) for piece in self._tokenizer.pieces(body.inputs)])

    async def _generate(self, request: Request) -> Response:
        body = GenerateBody.read(await _content(request))
        return await self._whole(request, body, full_text=body.parameters.return_full_text or False)

    async def _generate_stream(self, request: Request) -> Response:
        body = GenerateBody.read(await _content(request))
        return self._streamed(body, full_text=body.parameters.return_full_text or False)

    async def _compat(self, request: Request) -> Response:
        """Answer `/` and `/invocations`: a list, or a stream if the body says so.

        A model in a folder has no pipeline tag, and then the router's default is the full text, prompt included.
        """
        body = GenerateBody.read(await _content(request))
        full_text = True if body.parameters.return_full_text is None else body.parameters.return_full_text
        if body.stream:
            return self._streamed(body, full_text=full_text)
        return await self._whole(request, body, full_text=full_text, as_list=True)

    async def _chat(self, request: Request) -> Response:
        body = ChatBody.read(await _content(request))
        if body.wants_tools:
            raise InvalidRequest("tools need grammars, which this server does not have")
        prompt = render_chat(body.messages, bos_token=self._tokenizer.bos_token, eos_token=self._tokenizer.eos_token)
        parameters = chat_parameters(body)
        if body.stream:

            def to_event(_index: int, step: Step, _text: str, _request: ValidRequest) -> dict[str, Any]:
                return chat_chunk(step, settings=self._settings, logprobs=body.logprobs)

            return self._event_stream(prompt, parameters, to_event)
        answers, headers = await self._answers(request, prompt, parameters)
        answer = answers[0]
        return _json(
            chat_completion(answer.steps, answer.text, settings=self._settings, logprobs=body.logprobs), headers
        )

    # Answers as a whole

    async def _whole(self, request: Request, body: GenerateBody, *, full_text: bool, as_list: bool = False) -> Response:
        prefix = body.inputs if full_text else ""
        answers, headers = await self._answers(request, body.inputs, body.parameters)
        best, *others = answers
        content: dict[str, Any] = {"generated_text": prefix + best.text}
        if body.parameters.details or body.parameters.decoder_input_details:
            content["details"] = best.details()
            if others:
                content["details"]["best_of_sequences"] = [
                    {"generated_text": prefix + other.text, **other.details()} for other in others
                ]
        return _json([content] if as_list else content, headers)

    async def _answers(
        self, request: Request, inputs: str, parameters: Parameters
    ) -> tuple[list[_Answer], dict[str, str]]:
        """Generate `best_of` answers, the best first, and the headers that describe it."""
        self._metrics.requests += 1
        begun = time.monotonic()
        best_of = max(1, parameters.best_of or 1)
        validate_best_of(best_of, self._settings)
        work = [self._answer(inputs, parameters) for _ in range(best_of)]
        answers = await _unless_gone(request, asyncio.ensure_future(_together(work)))
        answers.sort(key=lambda answer: answer.mean_logprob, reverse=True)
        best, total = answers[0], time.monotonic() - begun
        milliseconds = {
            "x-total-time": total,
            "x-validation-time": best.validating,
            "x-queue-time": best.queued,
            "x-inference-time": best.inferring,
            "x-time-per-token": best.inferring / len(best.steps),
        }
        return answers, {
            "x-compute-type": _COMPUTE_TYPE,
            "x-compute-time": f"{total:.6f}",
            "x-compute-characters": str(len(inputs)),
            **{name: str(int(seconds * 1000)) for name, seconds in milliseconds.items()},
            "x-prompt-tokens": str(len(best.request.prompt)),
            "x-generated-tokens": str(len(best.steps)),
        }

    async def _answer(self, inputs: str, parameters: Parameters) -> _Answer:
        arrived = time.monotonic()
        with self._scheduler.permit():
            valid = self._validate(inputs, parameters)
            with self._scheduler.schedule(valid) as generation:
                async with aclosing(generation.steps()) as steps:
                    made = [step async for step in steps if step is not None]
                answer = _Answer(
                    request=valid,
                    steps=made,
                    validating=generation.queued_at - arrived,
                    queued=generation.started_at - generation.queued_at,
                    inferring=time.monotonic() - generation.started_at,
                )
        self._succeed(len(made), answer.queued, answer.inferring)
        return answer

    # Streams

    def _streamed(self, body: GenerateBody, *, full_text: bool) -> Response:
        prefix = body.inputs if full_text else ""

        def to_event(index: int, step: Step, text: str, request: ValidRequest) -> dict[str, Any]:
            event: dict[str, Any] = {"index": index, "token": asdict(step.token)}
            if step.top_tokens:
                event["top_tokens"] = [asdict(token) for token in step.top_tokens]
            last = step.finish_reason is not None
            details = {"finish_reason": step.finish_reason, "generated_tokens": index, "seed": _seed(request)}
            event["generated_text"] = prefix + text if last else None
            event["details"] = details if last and body.parameters.details else None
            return event

        return self._event_stream(body.inputs, body.parameters, to_event)

    def _event_stream(
        self,
        inputs: str,
        parameters: Parameters,
        to_event: Callable[[int, Step, str, ValidRequest], dict[str, Any]],
    ) -> Response:
        headers = {
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            "x-compute-type": _COMPUTE_TYPE,
            "x-compute-characters": str(len(inputs)),
        }
        events = self._events(inputs, parameters, to_event)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _events(
        self,
        inputs: str,
        parameters: Parameters,
        to_event: Callable[[int, Step, str, ValidRequest], dict[str, Any]],
    ) -> AsyncIterator[str]:
        """Yield server-sent events. Whatever fails is an event too: the status 200 has gone out already."""
        self._metrics.requests += 1
        try:
            validate_stream(parameters)
            with self._scheduler.permit():
                valid = self._validate(inputs, parameters)
                with self._scheduler.schedule(valid) as generation:
                    index, text = 0, ""
                    async with aclosing(generation.steps(heartbeat=_HEARTBEAT_SECONDS)) as steps:
                        async for step in steps:
                            if step is None:
                                yield ":\n\n"
                                continue
                            index += 1
                            text += step.token.text
                            yield _event(to_event(index, step, text, valid))
                    queued = generation.started_at - generation.queued_at
                    self._succeed(index, queued, time.monotonic() - generation.started_at)
        except RequestFailed as error:
            self._fail(error)
            yield _event(error.body)
        except (asyncio.CancelledError, GeneratorExit):
            self._drop()
            raise

    # Shared

    def _validate(self, inputs: str, parameters: Parameters) -> ValidRequest:
        valid = validate(inputs, parameters, settings=self._settings, tokenizer=self._tokenizer)
        self._metrics.accept(input_length=len(valid.prompt), max_new_tokens=valid.stopping.max_new_tokens)
        return valid

    def _succeed(self, tokens: int, queued: float, inferring: float) -> None:
        self._metrics.succeed(queued=queued, inferring=inferring, generated_tokens=tokens)
        _LOGGER.info("Success: %d tokens, queue %.3f s, inference %.3f s", tokens, queued, inferring)

    def _fail(self, error: RequestFailed) -> None:
        self._metrics.fail(error.metric)
        _LOGGER.error("%s", error, exc_info=error.__cause__)

    def _drop(self) -> None:
        self._metrics.fail("dropped")
        _LOGGER.info("The client is gone")

    async def _answer_failure(self, _request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestFailed):
            raise error
        self._fail(error)
        return _json(error.body, status=error.status)

    async def _answer_nobody(self, _request: Request, _error: Exception) -> Response:
        self._drop()
        return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _content(request: Request) -> object:
    return parse_json(content_type=request.headers.get("content-type", ""), raw=await request.body())


async def _answer_invalid_body(_request: Request, error: Exception) -> Response:
    if not isinstance(error, InvalidBody):
        raise error
    return PlainTextResponse(str(error), status_code=error.status)


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all; when one fails the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _unless_gone(request: Request, work: asyncio.Future[T]) -> T:
    """Await the work, but cancel it when the client closes the connection."""
    gone = asyncio.ensure_future(_disconnection(request))
    try:
        either: list[asyncio.Future[Any]] = [work, gone]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise _ClientGoneError
        return await work
    finally:
        gone.cancel()
        work.cancel()


async def _disconnection(request: Request) -> None:
    # The body has been read, so the only message that can still come is the disconnection.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _seed(request: ValidRequest) -> int | None:
    return request.sampling.seed if request.sampling.do_sample else None


def _json(content: object, headers: dict[str, str] | None = None, *, status: int = 200) -> Response:
    return Response(_dump(content), status_code=status, headers=headers, media_type="application/json")


def _event(content: object) -> str:
    return f"data:{_dump(content)}\n\n"


def _dump(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
