"""Checksums as S3 has them: of a part, of a whole object, of an object that came in parts."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Crc32", "checksum_of", "composite_crc32", "same_checksum"]

# S3 keeps one of them for each object; the order matters only for a store that answers several.
_ALGORITHMS = ("SHA256", "CRC64NVME", "CRC32C", "CRC32", "SHA1")


class Crc32:
    """The CRC-32 of what it is given."""

    def __init__(self) -> None:
        self._sum = 0

    def update(self, block: memoryview | bytes) -> None:
        """Go on."""
        self._sum = zlib.crc32(block, self._sum)

    def text(self) -> str:
        """Return the sum so far as S3 writes it."""
        return base64.b64encode(self._sum.to_bytes(4, "big")).decode()


def composite_crc32(parts: Iterable[str]) -> str:
    """Return what S3 has for an object that came in parts: the sum of their sums, and their number."""
    sums = [base64.b64decode(text) for text in parts]
    whole = Crc32()
    whole.update(b"".join(sums))
    return f"{whole.text()}-{len(sums)}"


def checksum_of(answer: Mapping[str, Any]) -> str:
    """Return the checksum that S3 told of an object, as ``<ALGORITHM>:<value>``; "" when it told none."""
    for algorithm in _ALGORITHMS:
        if value := answer.get(f"Checksum{algorithm}"):
            return f"{algorithm}:{value}"
    return ""


def same_checksum(recorded: str, told: str) -> bool:
    """Return whether an object's checksum is the one that a manifest recorded; "" there means unknown.

    Manifests that were written before algorithms were recorded have nothing but a SHA-256.
    """
    return not recorded or told == (recorded if ":" in recorded else f"SHA256:{recorded}")
