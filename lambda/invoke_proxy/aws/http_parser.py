"""Answers of HTTP/1.1 (RFC 9112), parsed from bytes that arrive in any pieces. No input or output of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import BadAnswerError

__all__ = ["AnswerParser", "Head"]

MAX_HEAD_BYTES = 64 * 1024
# Of a chunk's size line, with its extensions, and of one trailer.
MAX_LINE_BYTES = 4096

_SHORT_LINE_BYTES = 16
_KNOWN_SIZES = 256

_START = b"HTTP/1."
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00\r\n]*)?")
_SWITCHING = 101
_INFORMATIONAL_END = 200
_BODILESS = frozenset({204, 304})

# What the parser waits for.
_HEAD, _FIXED, _CHUNK_LINE, _CHUNK_DATA, _CHUNK_END, _TRAILERS, _UNTIL_CLOSE, _ENDED = range(8)


@dataclass(frozen=True, kw_only=True)
class Head:
    """Status and headers; names in lower case, values of repeated ones joined by a comma."""

    status: int
    headers: Mapping[str, str]


class AnswerParser:
    """Reads one answer.

    `head` is None until it is complete. Informational answers (100, 103) before it are read and dropped.
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        self.keep_alive = False
        self._state = _HEAD
        self._rest = b""
        self._left = 0
        self._head_bytes = 0
        # Size lines that have been read, without those of empty chunks.
        self._sizes: dict[bytes, int] = {}

    @property
    def ended(self) -> bool:
        """Whether the answer is complete."""
        return self._state == _ENDED

    @property
    def started(self) -> bool:
        """Whether any byte has come."""
        return self._head_bytes > 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the pieces of the body in the bytes, as they came, without framing.

        Raises
        ------
        BadAnswerError
            When this is not HTTP/1.1, or a head is larger than 64 KiB. No piece of such bytes is returned.
        """
        if self._state == _CHUNK_LINE and not self._rest:
            # Nearly all reads of a stream bring one whole chunk.
            end = data.find(b"\r\n", 0, _SHORT_LINE_BYTES)
            size = self._sizes.get(data[:end]) if end > 0 else None
            if size is not None and len(data) == end + size + 4 and data.endswith(b"\r\n"):
                return [data[end + 2 : -2]]
        pieces: list[bytes] = []
        at = 0
        if self._state == _HEAD:
            data = self._read_head(data)
        elif self._rest:
            data, self._rest = self._rest + data, b""
        while at < len(data):
            state = self._state
            if state in (_CHUNK_DATA, _FIXED):
                piece = data[at : at + self._left] if at or self._left < len(data) else data
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _CHUNK_END if state == _CHUNK_DATA else _ENDED
            elif state == _UNTIL_CLOSE:
                pieces.append(data[at:])
                break
            elif state == _ENDED:
                # More than was promised: what it belongs to is unknown, so the connection is of no further use.
                self.keep_alive = False
                break
            else:
                after = self._read_line(data, at)
                if not after:
                    self._rest = data[at:]
                    break
                at = after
        return pieces

    def end_of_input(self) -> bool:
        """Note that the other side has closed; return whether the answer is complete by that."""
        if self._state == _UNTIL_CLOSE:
            self._state = _ENDED
        return self._state == _ENDED

    # ---- head ------------------------------------------------------------------------------------------------------

    def _read_head(self, data: bytes) -> bytes:
        """Read up to the end of the head; return the bytes after it."""
        while True:
            # The blank line may have been cut: look again a little before the new bytes.
            known = max(len(self._rest) - 3, 0)
            self._head_bytes += len(data)
            data = self._rest + data
            self._rest = b""
            end = data.find(b"\r\n\r\n", known)
            if end < 0:
                if len(data) > MAX_HEAD_BYTES:
                    raise BadAnswerError(f"the head of an answer is larger than {MAX_HEAD_BYTES} bytes")
                if not _START.startswith(data[: len(_START)]):
                    raise BadAnswerError("the answer is not HTTP/1.1")
                self._rest = data
                return b""
            if end > MAX_HEAD_BYTES:
                raise BadAnswerError(f"the head of an answer is larger than {MAX_HEAD_BYTES} bytes")
            version, head = _parse_head(data[:end])
            data = data[end + 4 :]
            if head.status == _SWITCHING:
                raise BadAnswerError("the server wants to switch to another protocol")
            if head.status >= _INFORMATIONAL_END:
                self._begin_body(version, head)
                self.head = head
                return data
            self._head_bytes -= len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                raise BadAnswerError(f"the informational answers are larger than {MAX_HEAD_BYTES} bytes")

    def _begin_body(self, version: str, head: Head) -> None:
        headers = head.headers
        connection = headers.get("connection", "").lower()
        self.keep_alive = "close" not in connection and (version == "1" or "keep-alive" in connection)
        coding = headers.get("transfer-encoding")
        length = headers.get("content-length")
        if head.status in _BODILESS:
            self._state = _ENDED
        elif coding is not None:
            if coding.strip().lower() != "chunked" or version == "0":
                raise BadAnswerError("the transfer encoding of an answer is not 'chunked'")
            if length is not None:
                # Two framings at once are how requests are smuggled: read it, and never use the connection again.
                self.keep_alive = False
            self._state = _CHUNK_LINE
        elif length is not None:
            self._left = _content_length(length)
            self._state = _FIXED if self._left else _ENDED
        else:
            self.keep_alive = False
            self._state = _UNTIL_CLOSE

    # ---- chunks ----------------------------------------------------------------------------------------------------

    def _read_line(self, data: bytes, at: int) -> int:
        """Read one line of the chunked framing; return where the next starts, 0 when the line is not complete."""
        if self._state == _CHUNK_END and not b"\r\n".startswith(data[at : at + 2]):
            raise BadAnswerError("a chunk is longer than its size")
        end = data.find(b"\r\n", at, at + MAX_LINE_BYTES)
        if end < 0:
            if len(data) - at >= MAX_LINE_BYTES:
                raise BadAnswerError("a line of the chunked body is too long")
            return 0
        if self._state == _CHUNK_LINE:
            match = _CHUNK_SIZE.fullmatch(data, at, end)
            if match is None:
                raise BadAnswerError("the size of a chunk cannot be read")
            self._left = int(match[1], 16)
            self._state = _CHUNK_DATA if self._left else _TRAILERS
            if self._left and end - at < _SHORT_LINE_BYTES and len(self._sizes) < _KNOWN_SIZES:
                self._sizes[data[at:end]] = self._left
        elif self._state == _CHUNK_END:
            self._state = _CHUNK_LINE
        elif end == at:
            self._state = _ENDED
        else:
            self._head_bytes += end - at
            if self._head_bytes > MAX_HEAD_BYTES:
                raise BadAnswerError(f"head and trailers of an answer are larger than {MAX_HEAD_BYTES} bytes")
        return end + 2


def _parse_head(raw: bytes) -> tuple[str, Head]:
    """Return the digit after ``HTTP/1.`` and the head."""
    first, *lines = raw.decode("latin-1").split("\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise BadAnswerError("the answer is not HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        # A line that begins with a space would go on with the one before it: obsolete, and a way to hide headers.
        if not colon or _NAME.fullmatch(name) is None:
            raise BadAnswerError("a header of the answer cannot be read")
        if "\n" in value or "\r" in value or "\0" in value:
            raise BadAnswerError("a header of the answer holds a control character")
        name = name.lower()
        value = value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return match[1], Head(status=int(match[2]), headers=headers)


def _content_length(text: str) -> int:
    """Return the length; one that is repeated must be the same each time."""
    first, *others = (part.strip(" \t") for part in text.split(","))
    if not (first.isascii() and first.isdecimal()) or len(first) > 18 or any(other != first for other in others):  # noqa: PLR2004
        raise BadAnswerError("the length of the answer cannot be read")
    return int(first)
