"""Streams under load and under fire: ``python benchmarks/gateway_streams.py [--streams N] [--tokens N] [--kills N]``.

First N streams at once, each of many numbered tokens: none may be lost, come twice or out of order, and each stream
must end with ``[DONE]``. Then streams whose upstream connection is killed in the middle (reset, closed, ended early, or
with an exception of SageMaker's): each must end with an error event within a second of the kill, and with no
``[DONE]``. Tokens carry the time at which the endpoint sent them, so the table also says how long they were on the way.
Ends with status 1 when anything is not so.

The proxy is started as shipped over a fake SageMaker. With ``--deployed`` the streams go all the way: an environment is
deployed to the embedded AWS with the CDK CLI, with the same counting fake in the model server's place, and asked
through the API with a key. There the emulator, one Python process, takes most of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.gateway.api_gateway import CONTEXT_HEADER, request_context  # noqa: E402
from tests.gateway.fake_process import running_fake  # noqa: E402
from tests.gateway.proxy import running_proxy  # noqa: E402
from tests.gateway.raw_client import Answer, Connection, NumberedReader, post  # noqa: E402
from tests.gateway.scripts import Cut, numbered_prompt  # noqa: E402

KILLS = ("reset", "close", "end", "exception")
GOAL_SECONDS = 1.0
_ENVIRONMENT = """
name: streams
description: many streams at once
region: us-east-1
retain_data: false
network:
  new_vpc: {cidr: 10.43.0.0/16, zones: 2}
gateway: {rate_limit_per_second: 1000, burst_limit: 1000}
deployments:
  mixtral: {profile: mixtral-8x7b-instruct}
"""
TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A gateway, and what its requests need."""

    url: str
    headers: Mapping[str, str]
    model: str


@dataclass
class Outcome:
    """What was seen: violations in words, and times in seconds."""

    violations: list[str] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    seconds: float = 0.0


def chat_request(target: Target, *, tokens: int, pace: float, cut: Cut | None = None) -> bytes:
    """Return a streamed chat request that makes the endpoint count."""
    prompt = numbered_prompt(tokens=tokens, pace=pace, cut=cut)
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "temperature": 0,
    }
    return post(f"{urlsplit(target.url).path}/v1/chat/completions", json.dumps(body).encode(), target.headers)


async def one_stream(target: Target, request: bytes) -> tuple[Answer, NumberedReader]:
    """Send a request on a connection of its own and read all of the answer."""
    reader = NumberedReader()
    connection = await Connection.open(target.url)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            answer = await connection.ask(request, on_data=reader)
    finally:
        connection.close()
    return answer, reader


def events(answer: Answer) -> list[str]:
    """Return the data of the answer's events."""
    text = answer.body.decode()
    return [line.removeprefix("data:").strip() for line in text.split("\n") if line.startswith("data:")]


def error_code(answer: Answer) -> str | None:
    """Return the code of the error event that ends a stream, if one does."""
    found = events(answer)
    if not found or found[-1] == "[DONE]":
        return None
    last = json.loads(found[-1])
    return str(last["error"].get("code")) if "error" in last else None


async def run_streams(target: Target, *, streams: int, tokens: int, pace: float) -> Outcome:
    """Run all streams at once and compare every token's number."""
    outcome = Outcome()
    request = chat_request(target, tokens=tokens, pace=pace)
    started = time.monotonic()
    found = await asyncio.gather(*(one_stream(target, request) for _ in range(streams)), return_exceptions=True)
    outcome.seconds = time.monotonic() - started
    for number, item in enumerate(found):
        if isinstance(item, BaseException):
            outcome.violations.append(f"stream {number}: {type(item).__name__}: {item}")
            continue
        answer, reader = item
        if (wrong := _wrong(answer, reader.numbers, tokens)) is not None:
            outcome.violations.append(f"stream {number}: {wrong}")
        outcome.delays += reader.delays
        outcome.tokens += len(reader.numbers)
        outcome.first_tokens.append(answer.first_byte - answer.started)
    return outcome


def _wrong(answer: Answer, numbers: Sequence[int], tokens: int) -> str | None:
    if answer.status != 200:  # noqa: PLR2004 - HTTP's
        return f"status {answer.status}: {answer.body[:200].decode(errors='replace')}"
    if (problem := _disorder(numbers)) is not None:
        return problem
    if len(numbers) != tokens:
        return f"{len(numbers)} of {tokens} tokens came"
    if not answer.complete or events(answer)[-1] != "[DONE]":
        return "it did not end with [DONE]"
    return None


def _disorder(numbers: Sequence[int]) -> str | None:
    for expected, number in enumerate(numbers):
        if number != expected:
            return f"token {number} came where {expected} was due"
    return None


async def run_kills(target: Target, *, kills: int, tokens: int, pace: float, together: int) -> Outcome:
    """Kill the upstream connection of each stream somewhere in the middle; some run at the same time."""
    outcome = Outcome()
    gate = asyncio.Semaphore(together)

    async def one(number: int) -> None:
        # Somewhere else in each, also right after the first token and right before the last.
        after = 1 + number * (tokens - 2) // max(1, kills - 1)
        cut = Cut(after=after, how=KILLS[number % len(KILLS)])  # type: ignore[arg-type]
        async with gate:
            try:
                answer, reader = await one_stream(target, chat_request(target, tokens=tokens, pace=pace, cut=cut))
            except (OSError, TimeoutError) as error:
                outcome.violations.append(f"kill {number} ({cut.how} after {after}): {type(error).__name__}: {error}")
                return
        _judge_kill(outcome, f"kill {number} ({cut.how} after {after})", answer, reader, after=after, pace=pace)

    started = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(kills)))
    outcome.seconds = time.monotonic() - started
    return outcome


def _judge_kill(
    outcome: Outcome, name: str, answer: Answer, reader: NumberedReader, *, after: int, pace: float
) -> None:
    outcome.tokens += len(reader.numbers)
    code = error_code(answer) if answer.status == 200 else f"HTTP {answer.status}"  # noqa: PLR2004 - HTTP's
    outcome.codes[str(code)] += 1
    problem = _disorder(reader.numbers) if reader.sent else "no token came"
    if problem is not None:
        outcome.violations.append(f"{name}: {problem}")
        return
    # The kill is due one pace after the last token that was sent; a reset may lose what was still on its way.
    killed = reader.sent[-1] + (after - len(reader.numbers) + 1) * pace
    outcome.errors.append(max(0.0, answer.ended - killed))
    if code is None:
        outcome.violations.append(f"{name}: it ended without an error event")
    elif answer.ended - killed > GOAL_SECONDS:
        outcome.violations.append(f"{name}: the error came after {answer.ended - killed:.2f} s")


@contextlib.contextmanager
def own_target() -> Iterator[Target]:
    """Start the proxy over a fake SageMaker, each in a process of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_fake(Path(folder)) as aws_url,
        running_proxy(aws_url) as proxy,
    ):
        yield Target(url=proxy.url, headers={CONTEXT_HEADER: request_context("default")}, model="gpu")


@contextlib.contextmanager
def deployed_target() -> Iterator[Target]:
    """Deploy an environment whose endpoint counts, with limits that these streams do not meet."""
    from tests.gateway.deployed import counting_model_server, deployed  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            counting_model_server(folder),
            deployed(folder, name="streams", environment=_ENVIRONMENT) as embedded,
        ):
            headers = {"authorization": f"Bearer {embedded.api_key}"}
            yield Target(url=embedded.base_url.removesuffix("/v1"), headers=headers, model="mixtral")


def milliseconds(values: Sequence[float]) -> str:
    """Return a distribution in milliseconds."""
    if not values:
        return "nothing came"
    ordered = sorted(values)
    marks = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    parts = [
        f"{name} {1000 * ordered[min(len(ordered) - 1, int(at * len(ordered)))]:.1f}" for name, at in marks.items()
    ]
    return f"{', '.join(parts)}, max {1000 * ordered[-1]:.1f} ms (mean {1000 * statistics.fmean(ordered):.1f})"


def report(streams: Outcome, kills: Outcome, options: argparse.Namespace) -> list[str]:
    """Print what was seen and return what was wrong."""
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs; the endpoint sends a token every "
        f"{1000 * options.pace:.0f} ms in each stream"
    )
    print(
        f"{options.streams} streams at once, {options.tokens} tokens each: {streams.tokens} tokens came in "
        f"{streams.seconds:.1f} s ({streams.tokens / max(streams.seconds, 1e-9):.0f} a second)"
    )
    print(f"  head of the answer  {milliseconds(streams.first_tokens)}")
    print(f"  each token's way    {milliseconds(streams.delays)}")
    if options.kills:
        print(
            f"{options.kills} kills in the middle: {sum(kills.codes.values())} streams ended, "
            f"{len(kills.errors)} after tokens, with {dict(kills.codes)}"
        )
        print(f"  error event after   {milliseconds(kills.errors)}")
    return streams.violations + kills.violations


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both parts; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pace", type=float, default=0.05, help="seconds between the tokens of a stream")
    parser.add_argument("--together", type=int, default=20, help="how many of the killed streams run at once")
    parser.add_argument("--deployed", action="store_true", help="through an environment on the embedded AWS")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(deployed_target() if options.deployed else own_target())
        streams = asyncio.run(run_streams(target, streams=options.streams, tokens=options.tokens, pace=options.pace))
        kills = asyncio.run(
            run_kills(
                target,
                kills=options.kills,
                tokens=min(options.tokens, 50),
                pace=min(options.pace, 0.02),
                together=options.together,
            )
        )
    violations = report(streams, kills, options)
    for line in violations[:20]:
        print(f"VIOLATION {line}")
    if len(violations) > 20:  # noqa: PLR2004 - as many as are shown
        print(f"and {len(violations) - 20} more")
    print("holds" if not violations else f"{len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
