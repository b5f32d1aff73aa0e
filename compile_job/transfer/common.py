"""What both directions share: sizes of parts, checksums of files, the client's settings."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.config import Config

from compile_job.errors import StepError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = [
    "BLOCK",
    "PART",
    "ChecksumError",
    "Hasher",
    "block_buffer",
    "client_config",
    "cores",
    "part_size",
    "sha256_of",
    "transfers_of",
]

MIB = 1024**2
# What is read, hashed or sent at a time. It stays in a core's cache, and between two blocks we look whether to stop.
BLOCK = MIB
# Large enough that S3's latency and botocore's two milliseconds of Python do not count.
PART = 32 * MIB
_MOST_PARTS = 10_000
_MOST_TRANSFERS = 64
_LEAST_TRANSFERS = 8

_local = threading.local()


class ChecksumError(StepError):
    """What arrived is not what was asked for; the text names the object and both sums."""


def cores() -> int:
    """Return how many cores we may use."""
    return len(os.sched_getaffinity(0))


def transfers() -> int:
    """Return how many requests run at a time: about 90 MB/s each on S3, so that 64 of them fill 50 Gbit/s."""
    return max(_LEAST_TRANSFERS, min(_MOST_TRANSFERS, 2 * cores()))


def transfers_of(s3: S3Client) -> int:
    """Return the same, and no more than the client's pool has connections: the others would be made anew each time."""
    config: Any = s3.meta.config
    return min(transfers(), int(config.max_pool_connections))


def client_config() -> Config:
    """Return the settings of an S3 client that these transfers are fast with.

    Botocore's own checksums are switched off where they are not required: every part carries one of ours, and what is
    fetched is compared here. Nor is the content signed: TLS guards it, and botocore, which does so by itself only
    when it computed the checksum itself, would hash it once more.
    """
    return Config(
        max_pool_connections=transfers(),
        retries={"mode": "standard", "max_attempts": 6},
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": False},
    )


def part_size(size: int) -> int:
    """Return the size of the parts of an object, in whole MiB: S3 takes at most 10,000."""
    least = -(-size // _MOST_PARTS)
    return max(PART, -(-least // MIB) * MIB)


def block_buffer() -> memoryview:
    """Return this thread's buffer of one block."""
    found: memoryview | None = getattr(_local, "block", None)
    if found is None:
        found = _local.block = memoryview(bytearray(BLOCK))
    return found


class Hasher:
    """The SHA-256 of a file, block by block, as far as the file is there."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.offset = 0

    def read(
        self,
        descriptor: int,
        end: int,
        check: Callable[[], None],
        also: Callable[[memoryview], None] = lambda _: None,
    ) -> None:
        """Go on to an offset, or to the end of the file if that comes first; `also` gets each block too."""
        buffer = block_buffer()
        while self.offset < end:
            check()
            count = os.preadv(descriptor, [buffer[: min(BLOCK, end - self.offset)]], self.offset)
            if not count:
                return
            self._digest.update(buffer[:count])
            also(buffer[:count])
            self.offset += count

    def update(self, block: memoryview | bytes) -> None:
        """Go on with what is in memory."""
        self._digest.update(block)
        self.offset += len(block)

    def hexdigest(self) -> str:
        """Return the sum so far."""
        return self._digest.hexdigest()


def sha256_of(path: Path, check: Callable[[], None]) -> tuple[int, str]:
    """Return a file's size as it was read, and its SHA-256."""
    hasher = Hasher()
    with path.open("rb", buffering=0) as file:
        hasher.read(file.fileno(), 1 << 62, check)
    return hasher.offset, hasher.hexdigest()
