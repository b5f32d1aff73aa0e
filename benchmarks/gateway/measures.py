"""What is measured of a proxy that runs: requests, streams, throughput, memory; and how long a cold start imports."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from benchmarks.gateway.contenders import Contender, Import, Running
from tests.gateway.raw_client import Answer, Connection, NumberedReader, post
from tests.gateway.scripts import numbered_prompt

__all__ = ["Round", "Sizes", "cold_import", "measure", "memory", "percentile", "warm_up"]

_TIMER = (
    "import sys, time; start, used = time.perf_counter(), time.process_time(); {program}; "
    "sys.stdout.write(f'{{time.perf_counter() - start}} {{time.process_time() - used}}')"
)
OK = 200


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured in a round: counts, and seconds."""

    requests: int = 300
    stream_tokens: int = 200
    stream_pace: float = 0.01
    streams_at_once: int = 16
    concurrencies: tuple[int, ...] = (1, 8, 32, 128)
    throughput_seconds: float = 2.0
    burst_tokens: int = 2000


@dataclass
class Round:
    """What one round found of one contender; seconds, and requests per second by concurrency.

    `requests`, `tokens` (of one stream), `busy_tokens` (of several at once) and `first_tokens` are latencies. `burst`
    has the seconds for each token of a stream that the endpoint sends without a pause. `request_cpu` and `token_cpu`
    are processor time of the proxy for each request and each token of a paced stream.
    """

    requests: list[float] = field(default_factory=list)
    burst: list[float] = field(default_factory=list)
    request_cpu: list[float] = field(default_factory=list)
    token_cpu: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    busy_tokens: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    throughput: dict[int, float] = field(default_factory=dict)


def percentile(values: Sequence[float], at: float) -> float:
    """Return a percentile; `at` is between 0 and 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(at * len(ordered)))]


def _request(contender: Contender, *, stream: bool, tokens: int, pace: float) -> bytes:
    body = {
        "model": contender.stream_model if stream else contender.whole_model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. " * 8},
            {"role": "user", "content": numbered_prompt(tokens=tokens, pace=pace)},
        ],
        "max_tokens": 256,
        "temperature": 0,
    }
    if stream:
        body["stream"] = True
    path = contender.stream_path if stream else contender.whole_path
    return post(path, json.dumps(body).encode(), contender.headers)


def _checked(contender: Contender, answer: Answer) -> Answer:
    if answer.status != OK or not answer.complete:
        raise RuntimeError(f"{contender.name} answered {answer.status}: {answer.body[:500].decode(errors='replace')}")
    return answer


async def warm_up(contender: Contender, running: Running, *, requests: int) -> None:
    """Let everything be loaded, connected and cached that later requests find there."""
    connection = await Connection.open(running.url)
    for stream in (False, True):
        request = _request(contender, stream=stream, tokens=8, pace=0)
        for _ in range(requests):
            _checked(contender, await connection.ask(request))
    connection.close()


async def measure(contender: Contender, running: Running, sizes: Sizes) -> Round:
    """Measure one round. The collector of this process is off meanwhile: its pauses are nobody's."""
    found = Round()
    gc.collect()
    gc.disable()
    try:
        await _requests(contender, running, sizes, found)
        await _streams(contender, running, sizes, found)
        for concurrency in sizes.concurrencies:
            found.throughput[concurrency] = await _throughput(contender, running, sizes, concurrency)
    finally:
        gc.enable()
    return found


async def _requests(contender: Contender, running: Running, sizes: Sizes, found: Round) -> None:
    """One after the other, on one connection."""
    request = _request(contender, stream=False, tokens=16, pace=0)
    connection = await Connection.open(running.url)
    before = _processor_seconds(running)
    for _ in range(sizes.requests):
        answer = _checked(contender, await connection.ask(request))
        found.requests.append(answer.ended - answer.started)
    found.request_cpu.append((_processor_seconds(running) - before) / sizes.requests)
    connection.close()


async def _streams(contender: Contender, running: Running, sizes: Sizes, found: Round) -> None:
    """One stream alone, several at once, and a burst; each token carries the time at which it was sent."""
    paced = _request(contender, stream=True, tokens=sizes.stream_tokens, pace=sizes.stream_pace)
    burst = _request(contender, stream=True, tokens=sizes.burst_tokens, pace=0)

    async def one(request: bytes, *, tokens: int) -> tuple[Answer, NumberedReader]:
        reader = NumberedReader()
        connection = await Connection.open(running.url)
        answer = _checked(contender, await connection.ask(request, on_data=reader))
        connection.close()
        if reader.numbers != list(range(tokens)):
            raise RuntimeError(f"{contender.name} lost, doubled or reordered tokens of a stream: {reader.numbers[:20]}")
        return answer, reader

    before = _processor_seconds(running)
    answer, alone = await one(paced, tokens=sizes.stream_tokens)
    found.token_cpu.append((_processor_seconds(running) - before) / sizes.stream_tokens)
    found.tokens += alone.delays
    found.first_tokens.append(alone.sent[0] + alone.delays[0] - answer.started)
    several = (one(paced, tokens=sizes.stream_tokens) for _ in range(sizes.streams_at_once))
    for _, reader in await asyncio.gather(*several):
        found.busy_tokens += reader.delays
    answer, _ = await one(burst, tokens=sizes.burst_tokens)
    found.burst.append((answer.ended - answer.started) / sizes.burst_tokens)


async def _throughput(contender: Contender, running: Running, sizes: Sizes, concurrency: int) -> float:
    """As many requests as go through while so many clients ask without a pause; requests per second."""
    request = _request(contender, stream=False, tokens=16, pace=0)
    connections = [await Connection.open(running.url) for _ in range(concurrency)]
    until = time.monotonic() + sizes.throughput_seconds
    count = 0

    async def client(connection: Connection) -> None:
        nonlocal count
        while time.monotonic() < until:
            _checked(contender, await connection.ask(request))
            count += 1

    started = time.monotonic()
    await asyncio.gather(*(client(connection) for connection in connections))
    seconds = time.monotonic() - started
    for connection in connections:
        connection.close()
    return count / seconds


def _processes(running: Running) -> list[psutil.Process]:
    if running.pid is None:
        return []
    process = psutil.Process(running.pid)
    return [process, *process.children(recursive=True)]


def _processor_seconds(running: Running) -> float:
    """Return the processor time that a proxy has used so far."""
    times = [process.cpu_times() for process in _processes(running)]
    return float(sum(item.user + item.system for item in times))


def memory(running: Running) -> int:
    """Return the resident memory of a proxy and its children, in bytes."""
    return sum(int(process.memory_info().rss) for process in _processes(running))


def cold_import(what: Import) -> tuple[float, float]:
    """Return what a fresh process takes to import a proxy, without the interpreter's own start.

    Seconds on the clock and of processor time; where others use the machine, the latter says more.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in {"PYTHONDONTWRITEBYTECODE"}}
    done = subprocess.run(
        [what.python, "-c", _TIMER.format(program=what.program)],
        env={**inherited, **what.variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{what.program} failed:\n{done.stderr[-2000:]}")
    clock, processor = done.stdout.splitlines()[-1].split()
    return float(clock), float(processor)
