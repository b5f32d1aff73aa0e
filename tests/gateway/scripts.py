"""What the fake AWS does for an endpoint: what it says, how fast, and how it breaks.

Two ways to say it. Tests set the `Script` of an endpoint. Whoever cannot reach the fake (a benchmark that runs through
a deployed API) writes `numbered` into the prompt, and the fake does that instead.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.gateway.engines import Said

__all__ = ["Cut", "Failure", "Numbered", "Script", "no_capacity", "numbered_prompt", "throttled"]

How = Literal["reset", "close", "end", "exception"]

PLACE = b"0000000000000000000"
_NUMBERED = re.compile(rb"numbered tokens=(\d+) pace=(\d*\.?\d+)(?: cut=(\d+) how=(reset|close|end|exception))?")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error of an AWS service, answered in place of what was asked."""

    status: int
    code: str
    detail: Mapping[str, Any] = field(default_factory=dict)


def throttled() -> Failure:
    """SageMaker's answer to too many requests."""
    return Failure(status=400, code="ThrottlingException", detail={"message": "Rate exceeded"})


def no_capacity() -> Failure:
    """SageMaker's answer while an inference component has no copies."""
    return Failure(
        status=400,
        code="ValidationError",
        detail={"message": "Inference Component mixtral has no capacity to process this request."},
    )


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a stream ends before it should.

    Attributes
    ----------
    after
        How many parts are sent before.
    how
        ``reset`` drops the connection with a TCP reset, ``close`` closes it in the middle of the chunked body, ``end``
        ends the body properly though the engine has not finished, ``exception`` sends SageMaker's event `code`.
    """

    after: int
    how: How = "reset"
    code: str = "ModelStreamError"
    detail: Mapping[str, Any] = field(default_factory=lambda: {"Message": "account 123456789012", "ErrorCode": "x"})


@dataclass(kw_only=True)
class Script:
    """What an endpoint answers until the test says something else.

    Attributes
    ----------
    said
        The answer, which the endpoint's dialect puts into words; `more` are those of later requests, first come first.
    parts, answer
        A stream's writes and a whole answer to send as they are, in place of what the dialect makes.
    pace, first_delay, delay, delays
        Seconds between parts, before the first part, and before the head of any answer; `delays` are those of the next
        requests, first come first.
    split
        Bytes of each PayloadPart; 0 sends the engine's writes as they are.
    failures
        Errors that the next requests get, first come first.
    capacity_at
        `time.monotonic()` from when on there is capacity.
    embeds
        Whether the endpoint's model makes vectors.
    """

    said: Said = field(default_factory=lambda: Said(tokens=("Good", " day")))
    more: list[Said] = field(default_factory=list)
    parts: Sequence[bytes] | None = None
    answer: bytes | None = None
    pace: float = 0.0
    first_delay: float = 0.0
    delay: float = 0.0
    delays: list[float] = field(default_factory=list)
    split: int = 0
    cut: Cut | None = None
    failures: list[Failure] = field(default_factory=list)
    capacity_at: float | None = None
    embeds: bool = False

    def failure(self) -> Failure | None:
        """Return the error that the next request gets, if it gets one."""
        if self.capacity_at is not None and time.monotonic() < self.capacity_at:
            return no_capacity()
        return self.failures.pop(0) if self.failures else None

    def next_delay(self) -> float:
        """Return how long the next request waits for the head of its answer."""
        return self.delays.pop(0) if self.delays else self.delay

    def next_said(self) -> Said:
        """Return what the next request is answered."""
        if self.more:
            said, self.said = self.said, self.more.pop(0)
            return said
        return self.said


@dataclass(frozen=True)
class Numbered:
    """What a prompt of `numbered_prompt` asks for."""

    tokens: int
    pace: float
    cut: Cut | None

    @classmethod
    def find(cls, body: bytes) -> Numbered | None:
        """Read the wish out of a request's bytes, wherever the prompt is in them."""
        found = _NUMBERED.search(body)
        if found is None:
            return None
        cut = None
        if found[3]:
            cut = Cut(after=int(found[3]), how=found[4].decode())  # type: ignore[arg-type]
        return cls(tokens=int(found[1]), pace=float(found[2]), cut=cut)

    def said(self) -> Said:
        """Return tokens with their number and a place for the time (ns, monotonic clock) at which each is sent."""
        return Said(tokens=[f" {number}@{PLACE.decode()};" for number in range(self.tokens)])


def numbered_prompt(*, tokens: int, pace: float, cut: Cut | None = None) -> str:
    """Return a prompt that makes the fake count: ``" 0@<ns>; 1@<ns>;"``, with the time at which each was sent."""
    text = f"numbered tokens={tokens} pace={pace:.6f}"
    return text if cut is None else f"{text} cut={cut.after} how={cut.how}"
