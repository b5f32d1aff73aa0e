"""Reads logs in blocks: plain, gzip (CloudWatch export tasks), UTF-16 (a PowerShell redirection)."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

__all__ = ["ReadingError", "blocks_of_lines", "blocks_of_stream"]

_BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ANSI = re.compile(rb"\x1b(?:\[[0-9:;<=>?]*[ -/]*[@-~]|\][^\x07\x1b]{0,300}(?:\x07|\x1b\\)|[@-Z\\^_])")


class ReadingError(Exception):
    """The rest of a log cannot be read; its text says why."""


def blocks_of_stream(stream: BinaryIO) -> Iterator[bytes]:
    """Blocks of a file or pipe as UTF-8, without terminal colours.

    Raises
    ------
    ReadingError
        Part of the way: a compressed file that is cut off or broken, or an input error.
    """
    start = stream.read(2)
    raw = _raw(_Prefixed(start, stream))
    if start == _GZIP:
        raw = _unpacked(_Prefixed(start, stream))
    return _plain(raw, utf16=start in _UTF16)


def blocks_of_lines(lines: Iterable[str | bytes]) -> Iterator[bytes]:
    """Blocks of lines, with or without their line ends."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        raw = line if isinstance(line, bytes) else line.encode("utf-8", "surrogateescape")
        held.append(raw if raw.endswith(b"\n") else raw + b"\n")
        size += len(held[-1])
        if size >= _BLOCK:
            yield _without_colours(b"".join(held))
            held, size = [], 0
    if held:
        yield _without_colours(b"".join(held))


class _Prefixed:
    """A stream whose first bytes were read already."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start, self._rest = start, rest

    def read(self, size: int = -1) -> bytes:
        start, self._start = self._start, b""
        return start + self._rest.read(size - len(start) if size >= len(start) else size)


def _raw(stream: _Prefixed) -> Iterator[bytes]:
    try:
        while block := stream.read(_BLOCK):
            yield block
    except OSError as error:
        raise ReadingError(f"reading stopped: {error.strerror or error}") from error


def _unpacked(stream: _Prefixed) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=cast("BinaryIO", stream)) as file:
            while block := file.read(_BLOCK):
                yield block
    except (OSError, EOFError, zlib.error) as error:
        raise ReadingError(f"unpacking stopped: {error}") from error


def _plain(blocks: Iterator[bytes], *, utf16: bool) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-16")("replace") if utf16 else None
    rest = b""
    for raw in blocks:
        block = decoder.decode(raw).encode("utf-8") if decoder else raw
        # A colour sequence may be cut in two at the end of a block, but not at the end of a line.
        end = block.rfind(b"\n") + 1
        if end:
            yield _without_colours(rest + block[:end])
            rest = block[end:]
        else:
            rest += block
            if len(rest) >= _BLOCK:
                yield _without_colours(rest)
                rest = b""
    if rest:
        yield _without_colours(rest)


def _without_colours(block: bytes) -> bytes:
    return _ANSI.sub(b"", block) if b"\x1b" in block else block
