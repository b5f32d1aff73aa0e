"""The way of a request through the gateway, the same for all routes that generate.

Tenant, model, features, limits, cache, endpoint, dialect, continuation: in this order, so that nothing is spent on a
request that would be refused, and nothing is found in the cache that its asker may not have.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import cast

from .bodies import endpoint_body
from .cache import CachedAnswer, ResponseCache
from .continuation import continued_answer, continued_events
from .dialects import DIALECTS
from .dialects.base import Dialect, StreamParser
from .endpoints.call import Call
from .endpoints.runtime import EndpointRuntime, EndpointStream
from .endpoints.waiting import until_ready
from .errors import ApiError, bad_request
from .generation import Answer, Finish, Generation, Piece, StreamEvent, Token, ToolCall
from .limits import fit, prompt_text
from .logs import RequestLog
from .registry import Deployment, Registry, Snapshot, Tenant
from .tenants import identify
from .tokens import TokenCounter

__all__ = ["Ask", "Caller", "Job", "Service", "Services"]

# How long an answer that is complete may wait for the count of its prompt.
_COUNT_SECONDS = 2.0
# How long the end of an endpoint's stream is waited for once the answer is complete.
_DRAIN_SECONDS = 0.25

_TOO_MANY = 429
_SERVER_ERROR = 500


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the routes work with."""

    registry: Registry
    runtime: EndpointRuntime
    tokens: TokenCounter
    cache: ResponseCache
    environment: str


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whose request it is, and what the gateway knew when it came."""

    tenant: Tenant
    snapshot: Snapshot


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a route makes of its request's body.

    Attributes
    ----------
    model
        As the client named it.
    generation
        Returns the neutral request for a deployment; refuses what the deployment cannot do.
    param
        The field that holds the prompt.
    requests
        How many requests to the endpoint the answer may take.
    cacheable
        Whether an answer from the cache would do.
    """

    model: str | None
    generation: Callable[[Deployment], Generation]
    param: str
    requests: int = 1
    cacheable: bool = True


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request that nothing stands in the way of.

    Attributes
    ----------
    text
        What the model reads, as far as the gateway knows it.
    prompt_tokens
        How many tokens that is, where it had to be counted before.
    requests
        How many requests to the endpoint the answer may take.
    limit
        The most tokens that they may bring together.
    cache_key, cached
        Where the answer is kept, and the one that was found there.
    """

    deployment: Deployment
    dialect: Dialect
    generation: Generation
    text: str
    prompt_tokens: int | None
    requests: int
    limit: int | None
    call: Call
    cache_key: str | None
    cached: CachedAnswer | None
    log: RequestLog

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = deployment_headers(self.deployment)
        if self.cache_key is not None:
            headers["x-modelzone-cache"] = "miss" if self.cached is None else "hit"
        return headers


def deployment_headers(deployment: Deployment) -> dict[str, str]:
    """Return the headers that say who answers."""
    return {"x-modelzone-deployment": deployment.deployment}


class Service:
    """The steps, for the routes to put together."""

    def __init__(self, services: Services) -> None:
        self.services = services

    async def caller(self, log: RequestLog) -> Caller:
        """Return who asks.

        Raises
        ------
        ApiError
            401 or 403 when the caller is no tenant, 503 when the tenants are not known.
        """
        snapshot = await self.services.registry.snapshot()
        tenant = identify(log.identity, snapshot)
        log.tenant, log.log_content = tenant.name, tenant.log_content
        return Caller(tenant=tenant, snapshot=snapshot)

    async def deployment(
        self, model: str | None, caller: Caller, log: RequestLog, *, param: str = "model"
    ) -> Deployment:
        """Return the deployment that a request goes to.

        Raises
        ------
        ApiError
            404 for one that does not exist or is not the tenant's, 400 when it has to be named.
        """
        registry = self.services.registry
        if model is None:
            found = await registry.default(tenant=caller.tenant)
        else:
            found = await registry.find(model, tenant=caller.tenant, param=param)
            if model in caller.snapshot.settings.aliases:
                log.alias = model
        log.deployment, log.model_id = found.deployment, found.model_id
        return found

    def call(self, caller: Caller, log: RequestLog) -> Call:
        """Return what the endpoint is told of the request."""
        settings = caller.snapshot.settings
        return Call(
            request_id=log.request_id,
            trace_id=log.trace_id,
            wait_seconds=settings.wait_seconds,
            hedge_after_seconds=settings.hedge_after_seconds,
        )

    async def prepare(self, ask: Ask, caller: Caller, log: RequestLog) -> Job:
        """Return the request, checked; its answer may be at hand already.

        Raises
        ------
        ApiError
            With the status and the words for the client.
        """
        deployment = await self.deployment(ask.model, caller, log)
        dialect = dialect_of(deployment)
        asked = ask.generation(deployment)
        text = prompt_text(asked)
        log.keep_prompt(text)
        fitted = await fit(
            asked,
            deployment=deployment,
            tenant=caller.tenant,
            tokens=self.services.tokens,
            text=text,
            param=ask.param,
        )
        generation = fitted.generation
        key = self._cache_key(ask, generation, deployment, caller) if ask.cacheable else None
        cached = None if key is None else await self.services.cache.get(key)
        if key is not None:
            log.cache = "miss" if cached is None else "hit"
        return Job(
            deployment=deployment,
            dialect=dialect,
            generation=generation,
            text=text,
            prompt_tokens=fitted.prompt_tokens,
            requests=ask.requests,
            limit=caller.tenant.max_output_tokens,
            call=self.call(caller, log),
            cache_key=key,
            cached=cached,
            log=log,
        )

    def _cache_key(self, ask: Ask, generation: Generation, deployment: Deployment, caller: Caller) -> str | None:
        if deployment.cache_ttl_seconds <= 0:
            return None
        body = {item.name: getattr(generation, item.name) for item in fields(generation)}
        # The same neutral request has the same answer on every route; each writes it in its own form.
        extended = {**body, "requests": ask.requests, "limit": caller.tenant.max_output_tokens}
        return self.services.cache.key(caller.tenant.name, deployment, "generate", extended)

    async def answer(self, job: Job) -> Answer:
        """Return the whole answer, its counts filled in where they can be known.

        Raises
        ------
        ApiError
            With the status and the words for the client.
        """
        if job.cached is not None:
            _note_answer(job.cached.answer, job.log)
            return job.cached.answer
        counting = _Counting(job, self.services.tokens)
        budget = _Budget(job.limit)

        async def ask(generation: Generation) -> Answer:
            with budget.spent_on(generation) as bounded:
                body = endpoint_body(job.dialect.body(bounded, job.deployment))
                payload = await self.services.runtime.invoke(job.deployment.endpoint_name, body, call=job.call)
                return job.dialect.answer(payload)

        try:
            if job.requests > 1:
                answer, requests = await continued_answer(
                    ask,
                    job.generation,
                    max_requests=job.requests,
                    max_input_tokens=job.deployment.max_input_tokens,
                    tokens_are_counted=job.dialect.tokens_are_counted,
                )
                job.log.continuations = requests - 1
            else:
                answer, requests = await ask(job.generation), 1
            finish = await counting.completed(answer.finish, tokens=len(answer.tokens), text=answer.text)
            answer = replace(answer, finish=finish)
        finally:
            counting.stop()
        _note_answer(answer, job.log)
        if not budget.failed:
            await self._keep(job, CachedAnswer(answer=answer, requests=requests))
        return answer

    async def events(self, job: Job) -> AsyncGenerator[list[StreamEvent], None]:
        """Yield the events of a streamed answer, together what came together; the last one is the finish.

        The first are there only when the engine has said something: until then it may refuse.

        Raises
        ------
        ApiError
            With the status and the words for the client.
        """
        log = job.log
        if job.cached is not None:
            log.token(len(job.cached.answer.tokens))
            _note_answer(job.cached.answer, log)
            yield list(_replayed(job.cached.answer))
            return
        counting = _Counting(job, self.services.tokens)
        upstream = _Upstream(self.services.runtime, job)
        recorder = _Recorder() if job.cache_key is not None else None
        seen = 0
        texts: list[str] | None = [] if counting.counts_text else None
        batches = upstream.batches()
        try:
            async for batch in batches:
                for index, event in enumerate(batch):
                    if isinstance(event, Piece):
                        seen += len(event.tokens)
                        log.token(len(event.tokens))
                        if texts is not None:
                            texts.append(event.text)
                        if log.log_content:
                            log.keep_answer(event.text)
                    elif isinstance(event, Finish):
                        finish = await counting.completed(event, tokens=seen, text="".join(texts or ()))
                        batch[index] = finish
                        _note_counts(finish, log)
                    if recorder is not None:
                        recorder.add(batch[index])
                yield batch
        finally:
            counting.stop()
            upstream.close()
            await batches.aclose()
            if job.requests > 1:
                log.continuations = max(0, upstream.requests - 1)
        if recorder is not None and recorder.answer is not None and not upstream.failed:
            await self._keep(job, CachedAnswer(answer=recorder.answer, requests=upstream.requests))

    async def _keep(self, job: Job, answer: CachedAnswer) -> None:
        if job.cache_key is not None:
            await self.services.cache.put(job.cache_key, answer, job.deployment.cache_ttl_seconds)


def dialect_of(deployment: Deployment) -> Dialect:
    """Return how a deployment's engine is asked.

    Raises
    ------
    ApiError
        400 for a deployment that this gateway is too old for.
    """
    dialect = DIALECTS.get(deployment.dialect)
    if dialect is None:
        raise bad_request(
            f"'{deployment.deployment}' speaks '{deployment.dialect}', which this gateway does not know. "
            "Deploy the gateway again.",
            param="model",
            code="dialect_not_supported",
        )
    return dialect


class _Budget:
    """Bounds what all requests for one answer may bring together.

    Attributes
    ----------
    failed
        Whether a request failed for another reason than the request itself: the answer may be shorter for it.
    """

    def __init__(self, limit: int | None) -> None:
        self._left = limit
        self._refused: int | None = None
        self.failed = False

    @contextmanager
    def spent_on(self, generation: Generation) -> Iterator[Generation]:
        """Give the request with no more tokens than are left; they are given back when it fails.

        Raises
        ------
        ApiError
            400 when none are left: the continuation takes it as the end of the room.
        """
        left = self._left
        bounded, tokens = self._bounded(generation)
        if left is not None:
            self._left = left - tokens
        try:
            yield bounded
        except ApiError as error:
            self._left = left
            # What there is no room for is more than what the context leaves.
            self._refused = bounded.max_tokens
            self.failed |= error.status == _TOO_MANY or error.status >= _SERVER_ERROR
            raise

    def _bounded(self, generation: Generation) -> tuple[Generation, int]:
        if self._left is None:
            return generation, 0
        if self._left < 1:
            raise bad_request("The tenant's limit on output tokens is reached.", param=generation.max_tokens_param)
        if generation.max_tokens is None and self._refused is not None and self._refused <= self._left:
            # Once more without a limit: what the context leaves is less than what was refused, so within the budget.
            return generation, self._refused
        tokens = min(self._left, generation.max_tokens or self._left)
        return replace(generation, max_tokens=tokens), tokens


class _Upstream:
    """The endpoint's stream of a request; with continuations, one after the other, `requests` so far."""

    def __init__(self, runtime: EndpointRuntime, job: Job) -> None:
        self._runtime = runtime
        self._job = job
        self._budget = _Budget(job.limit)
        self._open: _Parsed | None = None
        self.requests = 0

    @property
    def failed(self) -> bool:
        """Whether the answer may be shorter because an endpoint failed."""
        return self._budget.failed

    async def batches(self) -> AsyncGenerator[list[StreamEvent], None]:
        """Yield the events of the whole answer."""
        job = self._job
        if job.requests == 1 and not job.generation.stop:
            stream = await self.open(job.generation)
            while batch := await stream.batch():
                yield batch
            await stream.aclose()
            return
        # It also ends what an engine goes on with after a stop sequence.
        events = continued_events(
            self.open,
            job.generation,
            max_requests=job.requests,
            max_input_tokens=job.deployment.max_input_tokens,
            tokens_are_counted=job.dialect.tokens_are_counted,
        )
        try:
            async for event in events:
                yield [event]
        finally:
            await cast("AsyncGenerator[StreamEvent, None]", events).aclose()

    async def open(self, generation: Generation) -> _Parsed:
        """Open a stream and return it once its first events are there.

        Engines answer 200 to a stream and then refuse it. An endpoint without an instance is waited for.
        """
        job = self._job
        with self._budget.spent_on(generation) as bounded:
            body = endpoint_body(job.dialect.body(bounded, job.deployment))

            async def attempt() -> _Parsed:
                self.close()
                stream = await self._runtime.stream(job.deployment.endpoint_name, body, call=job.call)
                self._open = _Parsed(stream, job.dialect.parser())
                await self._open.read_ahead()
                return self._open

            opened = await until_ready(attempt, bound=job.call.wait_seconds)
        self.requests += 1
        return opened

    def close(self) -> None:
        """Drop the endpoint's stream."""
        if self._open is not None:
            self._open.close()
            self._open = None


class _Parsed:
    """One stream of an endpoint as events: in batches, as they came, or one by one."""

    def __init__(self, stream: EndpointStream, parser: StreamParser) -> None:
        self._stream = stream
        self._parser = parser
        self._ahead: list[StreamEvent] = []
        self._single: Iterator[StreamEvent] = iter(())
        self._failure: ApiError | None = None
        self._finished = False

    async def read_ahead(self) -> None:
        """Wait for the first events; `batch` returns them."""
        self._ahead = await self.batch()

    async def batch(self) -> list[StreamEvent]:
        """Return the next events; an empty list after the finish."""
        if self._ahead:
            batch, self._ahead = self._ahead, []
            return batch
        if self._finished:
            return []
        if self._failure is not None:
            raise self._failure
        while chunks := await self._stream.next_pieces():
            batch = []
            try:
                # Not list(): an error must not take the events before it along.
                for chunk in chunks:
                    for event in self._parser.feed(chunk):
                        batch.append(event)
            except ApiError as error:
                if not batch:
                    raise
                self._failure = error
            if batch:
                self._finished = isinstance(batch[-1], Finish)
                return batch
        self._finished = True
        return list(self._parser.end())

    def __aiter__(self) -> _Parsed:
        return self

    async def __anext__(self) -> StreamEvent:
        for event in self._single:
            return event
        batch = await self.batch()
        if not batch:
            raise StopAsyncIteration
        self._single = iter(batch)
        return next(self._single)

    async def aclose(self) -> None:
        """End the stream. A finished one is read to its last byte, so that its connection can be used again."""
        if self._finished:
            with suppress(ApiError, TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    while await self._stream.next_pieces():
                        pass
        self.close()

    def close(self) -> None:
        """Drop the stream; nothing when it has ended."""
        self._stream.close()


class _Counting:
    """Counts the prompt while the model works, and in the end the answer, where the engine does not."""

    def __init__(self, job: Job, tokens: TokenCounter) -> None:
        self._tokens = tokens
        self._deployment = job.deployment
        self._tokens_are_counted = job.dialect.tokens_are_counted
        self._known = job.prompt_tokens
        self._task: asyncio.Task[int | None] | None = None
        wanted = self._known is None and job.generation.prompt is not None and "usage" not in job.deployment.features
        if wanted and job.deployment.tokenizer:
            self._task = asyncio.create_task(tokens.count(job.deployment, job.text))

    @property
    def counts_text(self) -> bool:
        """Whether the answer's text may be needed to count its tokens."""
        return not self._tokens_are_counted and bool(self._deployment.tokenizer)

    async def completed(self, finish: Finish, *, tokens: int, text: str) -> Finish:
        """Return the finish with the counts that the engine left out, as far as they are known.

        Parameters
        ----------
        tokens, text
            What the answer has; the text only where `counts_text` says so.
        """
        if finish.completion_tokens is None:
            made = tokens if self._tokens_are_counted else await self._count(text)
            finish = replace(finish, completion_tokens=made or None)
        if finish.prompt_tokens is None:
            if self._task is not None:
                with suppress(TimeoutError):
                    self._known = await asyncio.wait_for(self._task, _COUNT_SECONDS)
            if self._known is not None:
                finish = replace(finish, prompt_tokens=self._known)
        return finish

    async def _count(self, text: str) -> int | None:
        """Return how many tokens the model's tokenizer makes of an answer."""
        if not text or not self.counts_text:
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout(_COUNT_SECONDS):
                whole = await self._tokens.count(self._deployment, text)
                # A prompt begins with special tokens; an answer has none of them.
                begun = await self._tokens.count(self._deployment, "")
                if whole is not None and begun is not None:
                    return whole - begun
        return None

    def stop(self) -> None:
        """Count no more."""
        if self._task is not None:
            self._task.cancel()


class _Recorder:
    """Puts a streamed answer together for the cache."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._tokens: list[Token] = []
        self._calls: dict[int, ToolCall] = {}
        self.answer: Answer | None = None

    def add(self, event: StreamEvent) -> None:
        if isinstance(event, Piece):
            self._texts.append(event.text)
            self._tokens += event.tokens
            for call in event.tool_calls:
                known = self._calls.get(call.index)
                self._calls[call.index] = (
                    call
                    if known is None
                    else replace(
                        known,
                        id=known.id or call.id,
                        name=known.name or call.name,
                        arguments=known.arguments + call.arguments,
                    )
                )
        elif isinstance(event, Finish):
            calls = tuple(self._calls[index] for index in sorted(self._calls))
            self.answer = Answer(text="".join(self._texts), finish=event, tokens=tuple(self._tokens), tool_calls=calls)


def _replayed(answer: Answer) -> Iterator[StreamEvent]:
    """Yield a whole answer as a stream: token by token where the tokens are the text."""
    if "".join(token.text for token in answer.tokens if not token.special) == answer.text:
        for token in answer.tokens:
            yield Piece(text="" if token.special else token.text, tokens=(token,))
    else:
        yield Piece(text=answer.text, tokens=answer.tokens)
    if answer.tool_calls:
        yield Piece(tool_calls=answer.tool_calls)
    yield answer.finish


def _note_answer(answer: Answer, log: RequestLog) -> None:
    _note_counts(answer.finish, log)
    if log.log_content:
        log.keep_answer(answer.text)


def _note_counts(finish: Finish, log: RequestLog) -> None:
    log.prompt_tokens, log.completion_tokens = finish.prompt_tokens, finish.completion_tokens
