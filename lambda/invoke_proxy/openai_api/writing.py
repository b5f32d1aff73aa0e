"""What chat and completion answers share in being written: JSON, events, usage, and tokens' bytes."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any

from invoke_proxy.generation import Finish

from .visible_text import valid_unicode

__all__ = ["encode", "encode_text", "event", "finite", "head", "number", "token_bytes", "token_json", "usage"]

# OpenAI's word for "very unlikely", since JSON has no infinity.
_VERY_UNLIKELY = -9999.0

encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""JSON as it goes over the wire."""

encode_text: Callable[[str], str] = encode_basestring
"""The same for a text, without what decides that it is one."""


def event(document: dict[str, Any]) -> bytes:
    """Return a server-sent event with the document."""
    return f"data: {encode(document)}\n\n".encode()


def head(*, prefix: str, kind: str, model: str, fingerprint: str, answer_id: str | None) -> dict[str, Any]:
    """Return the fields that begin every object of one answer."""
    return {
        "id": answer_id or f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint,
    }


def usage(finish: Finish) -> dict[str, int] | None:
    """Return OpenAI's usage, None when one of the counts is unknown."""
    if finish.prompt_tokens is None or finish.completion_tokens is None:
        return None
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }


def finite(logprob: float) -> float:
    """Return a log probability that JSON can hold."""
    return logprob if math.isfinite(logprob) else _VERY_UNLIKELY


def token_bytes(text: str) -> tuple[str, list[int] | None]:
    """Return a token's text and its bytes; None for these when the token is only a part of a character."""
    if text.isascii():
        return text, list(text.encode())
    whole = valid_unicode(text)
    return whole, None if "\ufffd" in whole else list(whole.encode())


@lru_cache(maxsize=4096)
def token_json(text: str) -> tuple[str, str]:
    """Return `token_bytes` as JSON. Kept: an answer's tokens are few different ones, and most come again."""
    whole, raw = token_bytes(text)
    return encode(whole), encode(raw)


def number(logprob: float) -> str:
    """Return `finite` as JSON."""
    return repr(logprob) if math.isfinite(logprob) else repr(_VERY_UNLIKELY)
