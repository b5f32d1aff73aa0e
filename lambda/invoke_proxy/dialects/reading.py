"""What every dialect needs to read bytes that come from an engine and may be anything.

Whatever is wrong with them becomes an ApiError: the engine's own failure in its words, or 502.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from math import isfinite
from typing import Any, cast

from invoke_proxy.endpoints.failures import engine_failure
from invoke_proxy.errors import ApiError
from invoke_proxy.generation import FinishReason

__all__ = [
    "MALFORMED",
    "count",
    "failure",
    "finish_reason",
    "incomplete",
    "load",
    "not_understood",
    "number",
    "raise_failure",
    "text",
    "whole_number",
]

# What reading a value of the wrong shape raises.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)

# DJL Serving writes its errors with this status where an engine has none.
_FAILED_GENERATION = 424
_FIRST_ERROR = 400
_LAST_ERROR = 599

_REASONS: Mapping[str, FinishReason] = {
    "content_filter": "content_filter",
    "eos_token": "stop",
    "function_call": "tool_calls",
    "length": "length",
    "stop": "stop",
    "stop_sequence": "stop",
    "tool_calls": "tool_calls",
}
# Engines end a request that they gave up with these instead of an error.
_FAILED = frozenset({"abort", "error"})

# Python's json writes NaN and Infinity, which are no JSON: a log probability that is none.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)
_LARGEST = sys.float_info.max
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def load(data: str | bytes) -> Any:
    """Return the value of a JSON text. NaN and infinities become None, half surrogate pairs U+FFFD.

    Raises
    ------
    ValueError, RecursionError
        When it is not JSON, or nested too deeply.
    """
    words = data if isinstance(data, str) else data.decode("utf-8")
    value = _DECODER.decode(words)
    # Half a pair cannot be encoded again; only an escape can bring one in.
    return _repaired(value) if _SURROGATE.search(words) else value


def _repaired(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_repaired(item) for item in value]
    if isinstance(value, dict):
        return {_repaired(key): _repaired(item) for key, item in value.items()}
    return value


def text(value: Any) -> str:
    """Return a value that has to be a text."""
    if not isinstance(value, str):
        message = "not a text"
        raise TypeError(message)
    return value


def number(value: Any) -> float | None:
    """Return a value that has to be a number or null; None for one that no float holds (1e999 is read as infinity)."""
    # One comparison each for what comes with every token.
    kind = type(value)
    if kind is float:
        return cast("float", value) if isfinite(value) else None
    if value is None:
        return None
    if kind is int:
        return cast("int", value) if -_LARGEST <= value <= _LARGEST else None
    message = "not a number"
    raise TypeError(message)


def whole_number(value: Any) -> int | None:
    """Return a value that has to be a whole number or null."""
    if value is None or type(value) is int:
        return value
    message = "not a whole number"
    raise TypeError(message)


def count(value: Any) -> int | None:
    """Return a value that has to be a number of things or null."""
    found = whole_number(value)
    if found is not None and found < 0:
        message = "a negative count"
        raise ValueError(message)
    return found


def finish_reason(word: Any, *, words: str = "") -> FinishReason:
    """Return the reason in OpenAI's words; engines that give none (null) have stopped by themselves.

    Raises
    ------
    ApiError
        When the engine's word says that it failed; `words` are what it says about it.
    """
    if word is None:
        return "stop"
    reason = text(word)
    if reason in _FAILED:
        raise failure(_FAILED_GENERATION, words or "The model server gave up on this request.")
    return _REASONS.get(reason, "stop")


def raise_failure(document: Mapping[str, Any]) -> None:
    """Raise the failure that a document describes, if it does.

    `{"error": "…", "error_type": …}` is TGI's, `{"code": 424, "error": "…"}` DJL Serving's, `{"error": {"message",
    "code"}}` and `{"object": "error", "message", "code"}` are vLLM's and TensorRT-LLM's.

    Raises
    ------
    ApiError
        The failure, with the engine's status where it names one.
    """
    error = document.get("error")
    if error is None and not ("code" in document and "choices" not in document and "token" not in document):
        return
    detail = error if isinstance(error, dict) else document
    code = detail.get("code")
    known = isinstance(code, int) and _FIRST_ERROR <= code <= _LAST_ERROR
    words = error if isinstance(error, str) else detail.get("message")
    raise failure(cast("int", code) if known else _LAST_ERROR, words, kind=document.get("error_type"))


def failure(status: int, words: Any, *, kind: Any = None) -> ApiError:
    """Return the failure that an engine reports with this status, in its words where it has some."""
    said = {"error": words} if isinstance(words, str) and words else {}
    typed = {"error_type": kind} if isinstance(kind, str) else {}
    return engine_failure(status, json.dumps({**said, **typed}))


def not_understood(engine: str) -> ApiError:
    """Return the 502 for an answer in another format. `engine` says whose format was expected."""
    return ApiError(
        status=502,
        message=f"The model server answered something that is not {engine}'s format.",
        code="engine_answer_not_understood",
    )


def incomplete() -> ApiError:
    """Return the 502 for an answer without an end."""
    return ApiError(
        status=502, message="The model server broke off in the middle of its answer.", code="incomplete_answer"
    )
