"""The event stream that SageMaker's runtime answers with, written by hand so that no library of the proxy is in it."""

from __future__ import annotations

import binascii
import struct
from typing import Literal

__all__ = ["exception_message", "message"]

_STRING = b"\x07"


def message(payload: bytes, *, kind: Literal["event", "exception"] = "event", name: str = "PayloadPart") -> bytes:
    """Return one message of ``application/vnd.amazon.eventstream``."""
    head = _head(kind, name)
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    prelude += struct.pack(">I", binascii.crc32(prelude))
    return b"".join(
        (
            prelude,
            head,
            payload,
            struct.pack(">I", binascii.crc32(payload, binascii.crc32(head, binascii.crc32(prelude)))),
        )
    )


def exception_message(name: str, detail: bytes) -> bytes:
    """Return the message that ends a stream with a failure, as ``ModelStreamError`` does."""
    return message(detail, kind="exception", name=name)


_heads: dict[tuple[str, str], bytes] = {}


def _head(kind: str, name: str) -> bytes:
    """Return the headers of a message; there are few, so they are kept."""
    found = _heads.get((kind, name))
    if found is None:
        content = "application/octet-stream" if kind == "event" else "application/json"
        pairs = ((":message-type", kind), (f":{kind}-type", name), (":content-type", content))
        found = b"".join(
            bytes([len(key)]) + key.encode() + _STRING + struct.pack(">H", len(value)) + value.encode()
            for key, value in pairs
        )
        _heads[kind, name] = found
    return found
