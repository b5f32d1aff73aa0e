"""The gateway's proxy beside others: ``python -m benchmarks.gateway [--rounds N] [--quick] [--json FILE]``.

Three proxies on one machine, over one fake SageMaker endpoint that answers at once in vLLM's OpenAI format: ours as
shipped, LiteLLM's with its own provider for such endpoints, and the field's common shape (FastAPI and boto3). The load
comes from a client that costs little, and the fake has a process of its own. The contenders take turns within each
round and begin each round with another one, so that a slow moment of the machine hits all; figures are medians over
the rounds. "Added" is what a proxy's figure has above the direct one of the same round, with the same client and
endpoint and nothing between.

The bare relay passes bytes on and reads nothing: what it adds is the machine's price for one more process, which no
proxy can be below. Where a system call costs much, as in many sandboxes, it is most of what a paced token costs.

A streamed token carries the time at which the endpoint sent it, so its way is measured one by one. Cold import is what
a fresh process needs to import the proxy, after the interpreter's start, many times.

Ours gets the caller's identity in a header, as from API Gateway, and the others ask for no key at all.
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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gateway.contenders import Contender, Running, contenders, direct
from benchmarks.gateway.measures import Round, Sizes, cold_import, measure, memory, percentile, warm_up
from tests.gateway.fake_process import running_fake

OURS, LITELLM, COMMON = "modelzone", "LiteLLM proxy", "FastAPI + boto3"
LITELLM_GOAL = 5.0
COMMON_GOAL = 2.0
IMPORT_GOAL = 3.0
QUICK = Sizes(
    requests=40, stream_tokens=30, streams_at_once=4, concurrencies=(1, 8), throughput_seconds=0.5, burst_tokens=200
)


@dataclass
class Found:
    """All that was found of one contender; memory in bytes, imports in seconds."""

    rounds: list[Round] = field(default_factory=list)
    imports: list[tuple[float, float]] = field(default_factory=list)
    memory_idle: int = 0
    memory_after: int = 0


@dataclass(frozen=True)
class Row:
    """A line of the table: the figure of each contender, where there is one."""

    title: str
    figures: Mapping[str, float]
    form: str = "{:.2f}"


def added(found: Mapping[str, Found], name: str, values: str, at: float) -> float:
    """Return how many milliseconds a contender adds to a percentile, as the median over the rounds."""
    pairs = zip(found[name].rounds, found["direct"].rounds, strict=True)
    return 1000 * statistics.median(
        percentile(getattr(own, values), at) - percentile(getattr(base, values), at) for own, base in pairs
    )


def rows(found: Mapping[str, Found]) -> list[Row]:
    """Return the table."""
    names = [name for name in found if name != "direct"]
    table = []
    for title, values in (
        ("request", "requests"),
        ("first token", "first_tokens"),
        ("token, one stream", "tokens"),
        ("token, busy", "busy_tokens"),
    ):
        for mark, at in (("p50", 0.5), ("p99", 0.99)):
            if values == "first_tokens" and mark == "p99":
                continue  # one for each round
            base = 1000 * statistics.median(percentile(getattr(r, values), at) for r in found["direct"].rounds)
            figures = {"direct": base} | {name: added(found, name, values, at) for name in names}
            table.append(Row(f"added ms, {title}, {mark}", figures, "{:.3f}"))
    base = 1000 * statistics.median(r.burst[0] for r in found["direct"].rounds)
    burst = {"direct": base} | {name: added(found, name, "burst", 0.5) for name in names}
    table.append(Row("added ms, token of a burst", burst, "{:.3f}"))
    for title, values in (("request", "request_cpu"), ("streamed token", "token_cpu")):
        used = {name: 1000 * statistics.median(getattr(r, values)[0] for r in found[name].rounds) for name in names}
        table.append(Row(f"processor ms, {title}", used, "{:.3f}"))
    for concurrency in found["direct"].rounds[0].throughput:
        figures = {
            name: statistics.median(r.throughput[concurrency] for r in item.rounds) for name, item in found.items()
        }
        table.append(Row(f"requests/s, {concurrency} at once", figures, "{:.0f}"))
    mib = 1024**2
    table.append(Row("memory MiB, idle", {name: found[name].memory_idle / mib for name in names}, "{:.0f}"))
    table.append(Row("memory MiB, after", {name: found[name].memory_after / mib for name in names}, "{:.0f}"))
    imported = [name for name in names if found[name].imports]
    for title, place in (("cold import ms", 0), ("cold import, processor ms", 1)):
        imports = {name: 1000 * statistics.median(item[place] for item in found[name].imports) for name in imported}
        table.append(Row(title, imports, "{:.0f}"))
    return table


@dataclass(frozen=True)
class Goal:
    """What was promised, and what was measured: how many times less than another."""

    words: str
    wanted: float
    times: float

    @property
    def holds(self) -> bool:
        """Whether it is so."""
        return self.times >= self.wanted


def goals(table: Sequence[Row]) -> list[Goal]:
    """Return the goals and what came of them."""
    by_title = {row.title: row.figures for row in table}
    found = []
    for other, wanted in ((LITELLM, LITELLM_GOAL), (COMMON, COMMON_GOAL)):
        for title in ("added ms, request, p50", "added ms, token, one stream, p50", "added ms, token of a burst"):
            figures = by_title[title]
            # What is too small to be seen is not divided by.
            times = figures[other] / max(figures[OURS], 0.001)
            found.append(Goal(f"{title}: ours is {wanted:.0f} times less than {other}", wanted, times))
    figures = by_title["cold import ms"]
    words = f"cold import: ours is {IMPORT_GOAL:.0f} times less than {COMMON}"
    return [*found, Goal(words, IMPORT_GOAL, figures[COMMON] / figures[OURS])]


def show(found: Mapping[str, Found], *, rounds: int, imports: int) -> list[Goal]:
    """Print the table and the goals."""
    table = rows(found)
    names = list(found)
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs, median of {rounds} rounds, {imports} imports")
    print(f"{'':<34}" + "".join(f"{name:>18}" for name in names))
    for row in table:
        cells = [row.form.format(row.figures[name]) if name in row.figures else "" for name in names]
        print(f"{row.title:<34}" + "".join(f"{cell:>18}" for cell in cells))
    print("direct: the figure itself, not what is added")
    kept = goals(table)
    for goal in kept:
        print(f"{'holds' if goal.holds else 'FAILS':<6}{goal.words}: {goal.times:.1f} times")
    return kept


async def run_rounds(
    running: Sequence[tuple[Contender, Running]], found: Mapping[str, Found], *, rounds: int, sizes: Sizes
) -> None:
    """Measure all of them in turns."""
    for contender, place in running:
        await warm_up(contender, place, requests=max(10, sizes.requests // 5))
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        turn = number % len(running)
        for contender, place in (*running[turn:], *running[:turn]):
            found[contender.name].rounds.append(await measure(contender, place, sizes))


def as_document(found: Mapping[str, Found], kept: Sequence[Goal]) -> dict[str, Any]:
    """Return everything that was measured."""
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "table": [asdict(row) for row in rows(found)],
        "goals": [{**asdict(goal), "holds": goal.holds} for goal in kept],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description="The gateway's proxy beside LiteLLM's and a FastAPI and boto3 one.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--imports", type=int, default=11)
    parser.add_argument("--quick", action="store_true", help="see that it works; its figures say nothing, nor its end")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    rounds, imports, sizes = (2, 2, QUICK) if options.quick else (options.rounds, options.imports, Sizes())
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        aws_url = stack.enter_context(running_fake(folder))
        all_of_them = [direct(), *contenders(folder)]
        found = {contender.name: Found() for contender in all_of_them}
        for _ in range(imports + 1):
            for contender in all_of_them:
                if contender.cold is not None:
                    found[contender.name].imports.append(cold_import(contender.cold))
        for item in found.values():
            del item.imports[:1]  # it wrote the bytecode
        running = [(contender, stack.enter_context(contender.start(aws_url))) for contender in all_of_them]
        for contender, place in running:
            found[contender.name].memory_idle = memory(place)
        asyncio.run(run_rounds(running, found, rounds=rounds, sizes=sizes))
        for contender, place in running:
            found[contender.name].memory_after = memory(place)
    kept = show(found, rounds=rounds, imports=imports)
    if options.json:
        options.json.write_text(json.dumps(as_document(found, kept), indent=1) + "\n", encoding="utf-8")
    return 0 if options.quick or all(goal.holds for goal in kept) else 1


if __name__ == "__main__":
    sys.exit(main())
