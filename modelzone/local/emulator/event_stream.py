"""Messages of ``application/vnd.amazon.eventstream``, the framing of AWS's streaming answers."""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import Mapping

__all__ = ["CONTENT_TYPE", "event_message", "exception_message"]

CONTENT_TYPE = "application/vnd.amazon.eventstream"

_STRING_HEADER = 7
_CHECKSUM_BYTES = 4
_PRELUDE_BYTES = 12


def event_message(event_type: str, payload: bytes, *, content_type: str = "application/octet-stream") -> bytes:
    """One message that carries an event of the stream."""
    headers = {":event-type": event_type, ":content-type": content_type, ":message-type": "event"}
    return _message(headers, payload)


def exception_message(exception_type: str, payload: bytes) -> bytes:
    """One message that ends the stream with a modelled exception; the payload is its JSON."""
    headers = {":exception-type": exception_type, ":content-type": "application/json", ":message-type": "exception"}
    return _message(headers, payload)


def _message(headers: Mapping[str, str], payload: bytes) -> bytes:
    encoded = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", _STRING_HEADER, len(value)) + value.encode()
        for name, value in headers.items()
    )
    total = _PRELUDE_BYTES + len(encoded) + len(payload) + _CHECKSUM_BYTES
    prelude = struct.pack(">II", total, len(encoded))
    message = prelude + struct.pack(">I", crc32(prelude)) + encoded + payload
    return message + struct.pack(">I", crc32(message))
