"""Runs generations: as many at once as the batch has slots, the others wait in order of arrival."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from modelzone.local.model_server.errors import GenerationFailed, Overloaded
from modelzone.local.model_server.generation import Step, generate
from modelzone.local.model_server.metrics import Metrics
from modelzone.local.model_server.mixtral import Mixtral
from modelzone.local.model_server.tokenizer import TextTokenizer
from modelzone.local.model_server.validation import ValidRequest

__all__ = ["Generation", "Scheduler"]


@dataclass(frozen=True)
class _Started:
    """The generation has a slot."""


@dataclass(frozen=True)
class _Failed:
    """The generation raised."""

    error: Exception


class Generation:
    """One request on its way: its steps arrive from a worker thread."""

    def __init__(self, *, request: ValidRequest, metrics: Metrics) -> None:
        self.request = request
        self.queued_at = time.monotonic()
        self.started_at = self.queued_at
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._arrivals: asyncio.Queue[_Started | Step | _Failed] = asyncio.Queue()
        self._cancelled = threading.Event()
        self._running = False
        self._over = False
        metrics.waiting += 1

    async def steps(self, *, heartbeat: float | None = None) -> AsyncGenerator[Step | None]:
        """Yield the steps as they are made; with `heartbeat`, None after that many seconds without a step.

        Leaving the iteration early, or cancelling it, stops the generation at its next token.
        """
        try:
            while True:
                try:
                    arrival = await asyncio.wait_for(self._arrivals.get(), heartbeat)
                except TimeoutError:
                    yield None
                    continue
                match arrival:
                    case _Started():
                        self._start()
                    case _Failed(error):
                        raise GenerationFailed(type(error).__name__) from error
                    case Step():
                        yield arrival
                        if arrival.finish_reason:
                            return
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give the slot, or the place in the queue, back."""
        self._cancelled.set()
        if self._over:
            return
        self._over = True
        if self._running:
            self._metrics.running -= 1
        else:
            self._metrics.waiting -= 1

    def run(self, make_steps: Callable[[ValidRequest], Iterator[Step]], delay: float) -> None:
        """Generate; called in a worker thread."""
        if self._cancelled.is_set():
            return
        self._deliver(_Started())
        try:
            for step in make_steps(self.request):
                if self._cancelled.wait(delay) if delay else self._cancelled.is_set():
                    return
                self._deliver(step)
        except Exception as error:  # whatever it is, the client is told and the slot lives on
            self._deliver(_Failed(error))

    def _start(self) -> None:
        self.started_at = time.monotonic()
        self._running = True
        self._metrics.waiting -= 1
        self._metrics.running += 1

    def _deliver(self, arrival: _Started | Step | _Failed) -> None:
        if self._loop.is_closed():
            self._cancelled.set()
        else:
            self._loop.call_soon_threadsafe(self._arrivals.put_nowait, arrival)


class Scheduler:
    """The model, its batch slots and the limit on requests that run or wait.

    Parameters
    ----------
    slots
        Sequences that the model was compiled for; each runs in a worker thread.
    max_concurrent_requests
        Requests that may run or wait; more are refused with `Overloaded`.
    token_delay
        Seconds to wait before each token is delivered.
    """

    def __init__(
        self,
        *,
        model: Mixtral,
        tokenizer: TextTokenizer,
        metrics: Metrics,
        slots: int,
        max_concurrent_requests: int,
        token_delay: float,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._permits = max_concurrent_requests
        self._token_delay = token_delay
        self._workers = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="slot")
        self._generations: set[Generation] = set()

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Count one request in, until the end of the block."""
        if self._permits == 0:
            raise Overloaded
        self._permits -= 1
        try:
            yield
        finally:
            self._permits += 1

    @contextmanager
    def schedule(self, request: ValidRequest) -> Iterator[Generation]:
        """Queue a request; at the end of the block it is cancelled if it is not over."""
        generation = Generation(request=request, metrics=self._metrics)
        self._generations.add(generation)
        job = self._workers.submit(generation.run, self._steps, self._token_delay)
        try:
            yield generation
        finally:
            generation.cancel()
            job.cancel()
            self._generations.discard(generation)

    def close(self) -> None:
        """Stop all generations and the worker threads."""
        for generation in self._generations:
            generation.cancel()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def _steps(self, request: ValidRequest) -> Iterator[Step]:
        return generate(
            model=self._model,
            tokenizer=self._tokenizer,
            prompt=request.prompt,
            sampling=request.sampling,
            stopping=request.stopping,
            top_n_tokens=request.top_n_tokens,
        )
