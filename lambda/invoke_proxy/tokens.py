"""Counts tokens with the model's own tokenizer, where its deployment has put one into S3.

For engines that do not count the prompt, and for TGI's `/tokenize`. A count is worth little waiting and no failure:
what cannot be counted is unknown.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .registry import Deployment

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["MAX_TOKENIZER_BYTES", "ObjectStore", "TokenCounter"]

logger = logging.getLogger(__name__)

MAX_TOKENIZER_BYTES = 32 * 1024 * 1024
RETRY_SECONDS = 300.0
WAIT_SECONDS = 5.0
# A vocabulary of 128 000 tokens takes about 60 MB.
_MOST_TOKENIZERS = 8
# Shorter texts are tokenized (measured: 1 ms for 4 KiB) in less time than a thread's round trip is worth.
_LONGEST_INLINE = 4096

_T = TypeVar("_T")


class ObjectStore(Protocol):
    """What is needed of the AWS client."""

    async def get_object(self, bucket: str, key: str, *, limit: int) -> bytes:
        """Return an object of S3; an error when it is larger than `limit` bytes."""
        ...


class TokenCounter:
    """The tokenizers of the deployments, each loaded when it is first needed.

    Nothing here raises: what is not known is None, and why is logged once for each attempt to load. A failed attempt
    is repeated after `retry` seconds (by the time of day: a monotonic clock may stand still while Lambda has the
    function frozen). A request waits at most `wait` seconds for a tokenizer; loading goes on for the next one.
    """

    def __init__(
        self,
        client: ObjectStore,
        *,
        retry: float = RETRY_SECONDS,
        wait: float = WAIT_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._retry = retry
        self._wait = wait
        self._clock = clock
        # By address, the one used last at the end.
        self._loads: dict[str, asyncio.Task[_Vocabulary | None]] = {}
        self._failed_at: dict[str, float] = {}

    async def count(self, deployment: Deployment, text: str) -> int | None:
        """Return how many tokens the engine makes of a prompt, its begin-of-sequence token included."""
        return await self._apply(deployment, text, lambda vocabulary: vocabulary.count(text))

    async def id_of(self, deployment: Deployment, text: str) -> int | None:
        """Return the id of the one token whose text this is, as engines report texts; None if it is none."""
        return await self._apply(deployment, text, lambda vocabulary: vocabulary.id_of(text))

    async def tokenize(self, deployment: Deployment, text: str) -> list[dict[str, Any]] | None:
        """Return the tokens of a prompt as TGI's `/tokenize` does: ``id``, ``text``, ``start`` and ``stop``.

        Positions count bytes of the text's UTF-8, as TGI's; tokens that stand for no part of it are at 0 to 0.
        """
        return await self._apply(deployment, text, lambda vocabulary: vocabulary.tokenize(text))

    async def _apply(self, deployment: Deployment, text: str, use: Callable[[_Vocabulary], _T]) -> _T | None:
        vocabulary = await self._vocabulary(deployment.tokenizer) if deployment.tokenizer else None
        if vocabulary is None:
            return None
        try:
            if len(text) <= _LONGEST_INLINE:
                return use(vocabulary)
            return await asyncio.to_thread(use, vocabulary)
        except Exception as failure:
            # The text may be what the tokenizer chokes on, so only the kind of failure is told.
            _warn("tokenizer failed", deployment.tokenizer, failure)
            return None

    async def _vocabulary(self, address: str) -> _Vocabulary | None:
        load = self._loads.pop(address, None)
        if load is None or (load.done() and self._lost(address, load)):
            load = asyncio.create_task(self._load(address))
        self._loads[address] = load
        while len(self._loads) > _MOST_TOKENIZERS:
            oldest = next(iter(self._loads))
            self._loads.pop(oldest).cancel()
        if not load.done():
            await asyncio.wait((load,), timeout=self._wait)
        return load.result() if load.done() and not load.cancelled() else None

    def _lost(self, address: str, load: asyncio.Task[_Vocabulary | None]) -> bool:
        """Whether a finished load gave nothing and it is time for another."""
        if load.cancelled():
            return True
        # A clock that was set back makes a failure old, not young.
        return load.result() is None and not 0 <= self._clock() - self._failed_at.get(address, 0.0) < self._retry

    async def _load(self, address: str) -> _Vocabulary | None:
        try:
            bucket, _, key = address.removeprefix("s3://").partition("/")
            if not address.startswith("s3://") or not bucket or not key:
                message = "not an address s3://bucket/key"
                raise ValueError(message)  # noqa: TRY301 - all failures end alike
            data = await self._client.get_object(bucket, key, limit=MAX_TOKENIZER_BYTES)
            return await asyncio.to_thread(_Vocabulary, data)
        except Exception as failure:
            self._failed_at[address] = self._clock()
            _warn("tokenizer not loaded", address, failure)
            return None


class _Vocabulary:
    """A loaded tokenizer. Its methods may be called from any thread."""

    def __init__(self, data: bytes) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 - 20 MB of native code that most requests do not need

        self._tokenizer: Tokenizer = Tokenizer.from_buffer(data)
        # A file may bring the lengths it was trained with; a prompt is counted whole.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        decoder = self._tokenizer.decoder
        self._byte_level = decoder is not None and b'"ByteLevel"' in bytes(decoder.__getstate__())

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text).ids)

    def id_of(self, text: str) -> int | None:
        # Vocabularies have their own spellings: a character for each byte; or a low line for a space, bytes by number.
        if self._byte_level:
            written = [_in_byte_characters(text), text]
        else:
            written = [text.replace(" ", "▁"), text]
            data = text.encode()
            if len(data) == 1:
                written.append(f"<0x{data[0]:02X}>")
        for name in written:
            found = self._tokenizer.token_to_id(name)
            if found is not None:
                return int(found)
        return None

    def tokenize(self, text: str) -> list[dict[str, Any]]:
        encoding = self._tokenizer.encode(text)
        spans = encoding.offsets
        places = _byte_positions(text, {position for span in spans for position in span})
        return [
            {"id": number, "text": text[start:stop], "start": places[start], "stop": places[stop]}
            for number, (start, stop) in zip(encoding.ids, spans, strict=True)
        ]


def _byte_positions(text: str, positions: set[int]) -> dict[int, int]:
    """Return where these characters begin in the text's UTF-8."""
    places: dict[int, int] = {}
    character = byte = 0
    for position in sorted(positions):
        byte += len(text[character:position].encode())
        character = position
        places[position] = byte
    return places


def _in_byte_characters(text: str) -> str:
    """Return the text as byte-level vocabularies write it: one visible character for each byte (GPT-2's table)."""
    return "".join(_BYTE_CHARACTERS[byte] for byte in text.encode())


def _byte_characters() -> str:
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    shown = set(visible)
    return "".join(chr(byte if byte in shown else next(hidden)) for byte in range(0x100))


_BYTE_CHARACTERS = _byte_characters()


def _warn(what: str, address: str, failure: Exception) -> None:
    logger.warning(what, extra={"fields": {"tokenizer": address, "error": type(failure).__name__}})
