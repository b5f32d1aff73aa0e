"""Keeps deterministic answers in a DynamoDB table, so that the same question is not generated twice.

Off unless a deployment asks for it. An answer is found only by the same tenant, for the same deployment, artifact and
request; the table has no prompt, only its digest.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from .generation import Alternative, Answer, Finish, Generation, Token, ToolCall
from .registry import Deployment

__all__ = ["MAX_ITEM_BYTES", "CachedAnswer", "Database", "ResponseCache"]

logger = logging.getLogger(__name__)

MAX_ITEM_BYTES = 390 * 1024
"""Of a compressed answer; an item of DynamoDB holds 400 KiB with the names of its attributes."""

# How long a request waits for the table. Both come before a whole answer is sent, and the answer is there without them.
GET_SECONDS = 1.0
PUT_SECONDS = 1.0
# How long the table is left alone after a failure, so that not every request waits for it.
PAUSE_SECONDS = 10.0

# Changes when answers are written differently, so that older entries are not found.
_FORMAT = 1
_LARGEST_ANSWER = 32 * 1024 * 1024
# How an answer is delivered does not change it.
_DELIVERY = frozenset({"stream", "stream_options", "max_tokens_param"})


class Database(Protocol):
    """What is needed of the AWS client."""

    async def json(self, service: Literal["ssm", "dynamodb"], target: str, document: dict[str, Any]) -> dict[str, Any]:
        """Call an operation of a JSON protocol and return its answer."""
        ...


@dataclass(frozen=True, kw_only=True)
class CachedAnswer:
    """An answer as it was generated. `requests` is how many requests to the endpoint it took."""

    answer: Answer
    requests: int = 1

    def to_bytes(self) -> bytes:
        """Write it as compressed JSON; what has its default value is left out."""
        import zlib  # noqa: PLC0415 - only where a deployment caches

        document = {"answer": _without_defaults(self.answer), "requests": self.requests}
        return zlib.compress(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())

    @classmethod
    def from_bytes(cls, data: bytes) -> CachedAnswer:
        """Read what `to_bytes` wrote.

        Raises
        ------
        ValueError, TypeError, LookupError
            When it is not that.
        """
        import zlib  # noqa: PLC0415 - only where a deployment caches

        reader = zlib.decompressobj()
        try:
            text = reader.decompress(data, _LARGEST_ANSWER)
        except zlib.error as error:
            message = "not compressed by zlib"
            raise ValueError(message) from error
        if not reader.eof:
            message = "cut off, or larger than any answer"
            raise ValueError(message)
        document = json.loads(text)
        return cls(answer=_answer(document["answer"]), requests=int(document["requests"]))


class ResponseCache:
    """Answers by key. Neither reading nor writing raises: without the table every answer is generated.

    A table that fails or is slow is left alone for `PAUSE_SECONDS`.

    Parameters
    ----------
    client
        Calls DynamoDB.
    table
        Name of the table: partition key ``cache_key`` (S), binary ``answer``, and ``expires`` (N, seconds since 1970)
        as its TTL attribute. None: nothing is cached.
    clock
        Seconds since 1970. Not a monotonic clock: that one may stand still while Lambda has the function frozen.
    """

    def __init__(self, client: Database, table: str | None, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._table = table or None
        self._clock = clock
        self._failed_at: float | None = None

    def key(self, tenant: str, deployment: Deployment, route: str, body: Mapping[str, Any] | Generation) -> str | None:
        """Return the key of a request's answer; None when it is not to be cached.

        An answer is deterministic when the client asks for temperature 0 or gives a seed. `body` is the neutral
        request, with whatever else changes the answer.
        """
        given = vars(body) if isinstance(body, Generation) else body
        deterministic = given.get("temperature") == 0 or given.get("seed") is not None
        if self._table is None or deployment.cache_ttl_seconds <= 0 or not deterministic:
            return None
        import hashlib  # noqa: PLC0415 - only where a deployment caches

        parts = [
            _FORMAT,
            tenant,
            deployment.deployment,
            deployment.model_id,
            deployment.engine,
            deployment.engine_version,
            deployment.artifact,
            route,
            {name: value for name, value in given.items() if name not in _DELIVERY},
        ]
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=dict)
        return hashlib.sha256(text.encode()).hexdigest()

    async def get(self, key: str) -> CachedAnswer | None:
        """Return the answer, if there is one that has not expired."""
        if self._table is None or self._paused():
            return None
        wanted = {"TableName": self._table, "Key": {"cache_key": {"S": key}}}
        try:
            found = await self._ask("GetItem", wanted, seconds=GET_SECONDS)
            item = found.get("Item")
            # DynamoDB deletes expired items only after a while.
            if not item or float(item["expires"]["N"]) <= self._clock():
                return None
            return CachedAnswer.from_bytes(base64.b64decode(item["answer"]["B"]))
        except Exception as failure:
            _warn("cache not readable", failure)
            return None

    async def put(self, key: str, answer: CachedAnswer, ttl: float) -> None:
        """Keep an answer for `ttl` seconds; one that is too large is not kept."""
        if self._table is None or ttl <= 0 or self._paused():
            return
        try:
            data = answer.to_bytes()
            if len(data) > MAX_ITEM_BYTES:
                return
            item = {
                "cache_key": {"S": key},
                "answer": {"B": base64.b64encode(data).decode()},
                "expires": {"N": str(int(self._clock() + ttl))},
            }
            await self._ask("PutItem", {"TableName": self._table, "Item": item}, seconds=PUT_SECONDS)
        except Exception as failure:
            _warn("cache not writable", failure)

    def _paused(self) -> bool:
        # A clock that was set back ends the pause.
        return self._failed_at is not None and 0 <= self._clock() - self._failed_at < PAUSE_SECONDS

    async def _ask(self, operation: str, document: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(seconds):
                answer = await self._client.json("dynamodb", f"DynamoDB_20120810.{operation}", document)
        except Exception:
            self._failed_at = self._clock()
            raise
        self._failed_at = None
        return answer


def _warn(what: str, failure: Exception) -> None:
    logger.warning(what, extra={"fields": {"error": type(failure).__name__}})


def _without_defaults(part: object) -> Any:
    """Return an answer or a part of it as JSON values.

    Tokens come by the thousand, so what they do not have is not written, and `dataclasses.asdict` is too slow for them.
    """
    if isinstance(part, tuple):
        return [_without_defaults(item) for item in part]
    if isinstance(part, Answer | Finish | Token | Alternative | ToolCall):
        return {
            name: _without_defaults(value)
            for name, value in vars(part).items()
            if value is not None and value is not False and value != ()
        }
    return part


def _answer(data: Mapping[str, Any]) -> Answer:
    return Answer(
        text=data["text"],
        finish=Finish(**data["finish"]),
        tokens=tuple(_token(item) for item in data.get("tokens", ())),
        tool_calls=tuple(ToolCall(**item) for item in data.get("tool_calls", ())),
    )


def _token(data: Mapping[str, Any]) -> Token:
    alternatives = tuple(Alternative(**item) for item in data.get("alternatives", ()))
    return Token(**{**data, "alternatives": alternatives})
