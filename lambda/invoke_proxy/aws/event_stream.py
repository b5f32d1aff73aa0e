"""Messages of ``application/vnd.amazon.eventstream``, decoded from bytes that arrive in any pieces.

A message is: total length, headers' length, CRC-32 of these 8 bytes; headers; payload; CRC-32 of all before it.
All numbers are big-endian. Source: botocore's ``eventstream.py``, against which a contract test reads the same bytes;
https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable, Mapping
from struct import Struct
from typing import NamedTuple

from .errors import BadAnswerError

__all__ = ["EventDecoder", "HeaderValue", "Message"]

# botocore's limits.
MAX_HEADERS_BYTES = 128 * 1024
MAX_PAYLOAD_BYTES = 24 * 1024 * 1024

_PRELUDE = Struct("!III")
_CHECKSUM = Struct("!I")
_PRELUDE_BYTES, _CHECKSUM_BYTES = _PRELUDE.size, _CHECKSUM.size
_FRAME_BYTES = _PRELUDE_BYTES + _CHECKSUM_BYTES
_CHECKED_PRELUDE_BYTES = _PRELUDE_BYTES - _CHECKSUM_BYTES
_KNOWN_HEADERS = 64

HeaderValue = bool | int | bytes | str


class Message(NamedTuple):
    """One message: what its headers say, and its payload."""

    headers: Mapping[str, HeaderValue]
    payload: bytes


class EventDecoder:
    """Reads one stream."""

    def __init__(self) -> None:
        self._rest = bytearray()
        # How many bytes must be there before it is worth looking again.
        self._needed = _PRELUDE_BYTES
        # What is wrong with the stream: nothing after it can be read.
        self.failure: BadAnswerError | None = None
        # The headers of a stream's messages are the same bytes again and again.
        self._headers: dict[bytes, Mapping[str, HeaderValue]] = {}

    @property
    def at_boundary(self) -> bool:
        """Whether everything fed so far belongs to complete messages."""
        return not self._rest

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that the bytes complete.

        Raises
        ------
        BadAnswerError
            When a checksum, a length or a header is wrong. If there are messages before it, they are returned, and
            `failure` holds it.
        """
        if self.failure is not None:
            raise self.failure
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._needed:
                return []
            data = bytes(rest)
            rest.clear()
        messages: list[Message] = []
        try:
            start = self._decode(data, messages)
        except BadAnswerError as error:
            self.failure = error
            if not messages:
                raise
            return messages
        if start < len(data):
            rest += data[start:]
        return messages

    def _decode(self, data: bytes, messages: list[Message]) -> int:
        """Append all complete messages; return where the first incomplete one starts."""
        start, end = 0, len(data)
        self._needed = _PRELUDE_BYTES
        while end - start >= _PRELUDE_BYTES:
            total, headers_length, checksum = _PRELUDE.unpack_from(data, start)
            if crc32(data[start : start + _CHECKED_PRELUDE_BYTES]) != checksum:
                raise BadAnswerError("the checksum of an event's prelude is wrong")
            payload_length = total - headers_length - _FRAME_BYTES
            if payload_length < 0 or headers_length > MAX_HEADERS_BYTES or payload_length > MAX_PAYLOAD_BYTES:
                raise BadAnswerError("an event of the stream has an impossible length")
            if end - start < total:
                self._needed = total
                break
            headers_start = start + _PRELUDE_BYTES
            payload_start = headers_start + headers_length
            payload_end = payload_start + payload_length
            if crc32(data[start:payload_end]) != _CHECKSUM.unpack_from(data, payload_end)[0]:
                raise BadAnswerError("the checksum of an event is wrong")
            headers = self._parsed(data[headers_start:payload_start])
            messages.append(Message(headers, data[payload_start:payload_end]))
            start += total
        return start

    def _parsed(self, raw: bytes) -> Mapping[str, HeaderValue]:
        known = self._headers.get(raw)
        if known is None:
            try:
                known = _parse_headers(raw)
            except (IndexError, KeyError, ValueError) as error:
                raise BadAnswerError("the headers of an event cannot be read") from error
            if len(self._headers) < _KNOWN_HEADERS:
                self._headers[raw] = known
        return known


def _take(raw: bytes, start: int, length: int) -> bytes:
    if start + length > len(raw):
        raise IndexError
    return raw[start : start + length]


def _number(length: int) -> Callable[[bytes, int], tuple[HeaderValue, int]]:
    return lambda raw, at: (int.from_bytes(_take(raw, at, length), "big", signed=True), at + length)


def _array(raw: bytes, at: int) -> tuple[bytes, int]:
    length = int.from_bytes(_take(raw, at, 2), "big")
    return _take(raw, at + 2, length), at + 2 + length


def _text(raw: bytes, at: int) -> tuple[HeaderValue, int]:
    value, after = _array(raw, at)
    return value.decode(), after


# By the number of the type: true, false, byte, short, integer, long, bytes, text, timestamp in ms, UUID.
_READERS: Mapping[int, Callable[[bytes, int], tuple[HeaderValue, int]]] = {
    0: lambda _, at: (True, at),
    1: lambda _, at: (False, at),
    2: _number(1),
    3: _number(2),
    4: _number(4),
    5: _number(8),
    6: _array,
    7: _text,
    8: _number(8),
    9: lambda raw, at: (_take(raw, at, 16), at + 16),
}


def _parse_headers(raw: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    at = 0
    while at < len(raw):
        length = raw[at]
        name = _take(raw, at + 1, length).decode()
        at += 1 + length
        if name in headers:
            raise ValueError(name)
        headers[name], at = _READERS[raw[at]](raw, at + 1)
    return headers
