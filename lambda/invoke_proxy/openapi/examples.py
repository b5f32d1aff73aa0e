"""Examples of requests and answers; tests send and check them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "CHAT",
    "COMPLETION",
    "EMBEDDING",
    "ERRORS",
    "GENERATE",
    "INFO",
    "MODELS",
    "TOKENIZE",
    "Route",
]


@dataclass(frozen=True, kw_only=True)
class Route:
    """What is sent to a route, by name, and what comes back, whole and as a stream."""

    requests: Mapping[str, Any]
    answer: Any
    stream: str = ""


def _stream(events: Sequence[Any]) -> str:
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)


def _head(prefix: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-7d0f1c",
        "object": kind,
        "created": 1767225600,
        "model": "mixtral",
        "system_fingerprint": "tgi-neuronx-0.0.25",
    }


_USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
_MESSAGES = [{"role": "user", "content": "Name a river in one word."}]


def _chat_chunk(delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {**_head("chatcmpl", "chat.completion.chunk"), "choices": [choice]}


CHAT = Route(
    requests={
        "shortest": {"messages": _MESSAGES},
        "sampled": {
            "model": "mixtral",
            "messages": [{"role": "system", "content": "Be brief."}, *_MESSAGES],
            "max_tokens": 64,
            "temperature": 0.7,
            "top_p": 0.9,
            "stop": ["\n\n"],
        },
        "streamed": {
            "model": "mixtral",
            "messages": _MESSAGES,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        "continued": {"model": "mixtral", "messages": _MESSAGES, "continue_until_stop": True, "max_continuations": 4},
    },
    answer={
        **_head("chatcmpl", "chat.completion"),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Elbe", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
    },
    stream=_stream(
        [
            _chat_chunk({"role": "assistant", "content": "", "refusal": None}),
            _chat_chunk({"content": "El"}),
            _chat_chunk({"content": "be"}),
            _chat_chunk({}, "stop"),
            "[DONE]",
        ]
    ),
)


def _text_choice(words: str, reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "text": words, "logprobs": None, "finish_reason": reason}


COMPLETION = Route(
    requests={
        "shortest": {"prompt": "The longest river of Germany is the"},
        "streamed": {"model": "mixtral", "prompt": "The Elbe", "max_tokens": 32, "temperature": 0, "stream": True},
    },
    answer={
        **_head("cmpl", "text_completion"),
        "choices": [_text_choice(" Rhine.", "stop")],
        "usage": _USAGE,
    },
    stream=_stream(
        [
            {**_head("cmpl", "text_completion"), "choices": [_text_choice(" Rhine.")]},
            {**_head("cmpl", "text_completion"), "choices": [_text_choice("", "stop")]},
            "[DONE]",
        ]
    ),
)

EMBEDDING = Route(
    requests={
        "one": {"model": "embedder", "input": "a river"},
        "several": {"model": "embedder", "input": ["a river", "a lake"], "encoding_format": "base64"},
    },
    answer={
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
        "model": "embedder",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    },
)

MODELS: dict[str, Any] = {
    "object": "list",
    "data": [
        {
            "id": "mixtral",
            "object": "model",
            "created": 1767225600,
            "owned_by": "modelzone",
            "root": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        }
    ],
}


def _token(number: int, words: str, *, special: bool = False) -> dict[str, Any]:
    return {"id": number, "text": words, "logprob": -0.25, "special": special}


GENERATE = Route(
    requests={
        "shortest": {"inputs": "The longest river of Germany is the"},
        "sampled": {
            "inputs": "The longest river of Germany is the",
            "parameters": {"max_new_tokens": 20, "do_sample": True, "temperature": 0.7, "details": True},
        },
    },
    answer={"generated_text": " Rhine."},
    stream=_stream(
        [
            {"index": 1, "token": _token(17042, " Rhine"), "generated_text": None, "details": None},
            {
                "index": 2,
                "token": _token(2, "</s>", special=True),
                "generated_text": " Rhine",
                "details": {"finish_reason": "eos_token", "generated_tokens": 2, "seed": None},
            },
        ]
    ),
)

TOKENIZE = Route(
    requests={"text": {"inputs": "a river"}},
    answer=[
        {"id": 1, "text": "", "start": 0, "stop": 0},
        {"id": 264, "text": "a", "start": 0, "stop": 1},
        {"id": 9571, "text": " river", "start": 1, "stop": 7},
    ],
)

INFO: dict[str, Any] = {
    "model_id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "max_input_tokens": 4095,
    "max_input_length": 4095,
    "max_total_tokens": 4096,
    "max_stop_sequences": 4,
    "version": "0.0.25",
    "router": "modelzone",
    "environment": "dev",
    "deployment": "mixtral",
    "engine": "tgi-neuronx",
    "features": ["seed", "stop", "top_k"],
}

_SAID: tuple[tuple[str, str, str, str | None, str], ...] = (
    (
        "400",
        "invalid_request_error",
        "invalid_value",
        "temperature",
        "temperature is 3, expected at least 0 and at most 2.",
    ),
    ("401", "authentication_error", "invalid_api_key", None, "The key is not valid."),
    ("403", "permission_error", "unknown_tenant", None, "The caller belongs to no tenant of this gateway."),
    ("404", "invalid_request_error", "model_not_found", "model", "The model 'x' does not exist here."),
    ("413", "invalid_request_error", "request_too_large", None, "The request body is larger than 6291456 bytes."),
    ("429", "rate_limit_error", "rate_limit_exceeded", None, "Too many requests for this model. Try again soon."),
    ("4XX", "invalid_request_error", "model_refused", None, "The model server refused the request with HTTP 422."),
    ("500", "server_error", "internal_error", None, "The gateway failed on this request."),
    ("502", "server_error", "model_failed", None, "The model server failed on this request."),
    ("503", "server_error", "no_capacity", None, "The model has no running instance; one is being started."),
    ("504", "server_error", "timeout", None, "The model did not answer in time."),
)

ERRORS: dict[str, dict[str, Any]] = {
    "OpenAi": {
        status: {"error": {"message": message, "type": kind, "param": param, "code": code}}
        for status, kind, code, param, message in _SAID
    },
    "Tgi": {status: {"error": message, "error_type": code} for status, _, code, _, message in _SAID},
}
