"""What engines of every dialect send, byte for byte in the shape of their sources.

Only text, counts and log probabilities come from the caller; field names, their order, which of them are left out, and
the ends of lines are the engines':

- ``tgi-generate``: text-generation-inference 2.1.1, ``router/src/lib.rs`` and ``server.rs`` (the recordings that the
  tests had before come from the Neuron container 0.0.25).
- ``lmi-jsonlines``, ``lmi-json``: deepjavalibrary/djl-serving at 1635512c (0.26.0), ``rolling_batch/rolling_batch.py``.
- ``lmi-rolling-batch``: the same repository at d21927c4, ``output_formatter.py`` and ``request_io.py``.
- ``lmi-async-vllm``, ``lmi-async-trtllm``: at d21927c4, ``lmi_vllm/request_response_utils.py``,
  ``lmi_trtllm/request_response_utils.py`` and ``async_utils.py``.
- ``lorax``: predibase/lorax at a7394ba3, ``router/src/lib.rs``.
- ``vllm-openai``: OpenAI's objects, as vLLM writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["DIALECTS", "Said", "embeddings_answer", "stream_parts", "whole_answer"]

Reason = Literal["length", "stop"]
DIALECTS = (
    "tgi-generate",
    "lmi-jsonlines",
    "lmi-json",
    "lmi-rolling-batch",
    "lmi-async-vllm",
    "lmi-async-trtllm",
    "vllm-openai",
    "lorax",
)
_CREATED = 1_700_000_000


@dataclass(frozen=True, kw_only=True)
class Said:
    """An answer, before an engine's words are put around it.

    Attributes
    ----------
    tokens
        The tokens' texts. The end-of-sequence token is not among them: engines that send it add it for ``stop``.
    reason
        Why the answer ended.
    stop_sequence
        Whether a ``stop`` is a stop sequence's and not the end-of-sequence token's.
    prompt_tokens
        How many tokens the prompt had, for engines that say so.
    logprob
        Natural logarithm of each token's probability.
    tool_calls
        Names and arguments (JSON text) of functions to call; only ``vllm-openai`` and the async handlers' chats.
    """

    tokens: Sequence[str]
    reason: Reason = "length"
    stop_sequence: bool = False
    prompt_tokens: int = 6
    logprob: float = -0.5
    tool_calls: Sequence[tuple[str, str]] = ()


def stream_parts(dialect: str, said: Said, body: Mapping[str, Any]) -> list[bytes]:
    """Return a streamed answer to this request, one item for each write of the engine: a token, or an end."""
    return list(_STREAMS[dialect](said, body))


def whole_answer(dialect: str, said: Said, body: Mapping[str, Any]) -> bytes:
    """Return the answer to this request in one piece."""
    return _WHOLES[dialect](said, body)


def embeddings_answer(body: Mapping[str, Any], *, dimensions: int = 4) -> bytes:
    """Return vectors for a request in OpenAI's shape (vLLM) or in LMI's (``inputs``), different for each text."""
    given = body.get("input", body.get("inputs"))
    texts = [given] if isinstance(given, str) else list(given or ())
    size = body.get("dimensions") or dimensions
    vectors = [[(len(text) + place) / 100 for place in range(size)] for text in texts]
    if "input" not in body:
        return _json(vectors)
    return _json(
        {
            "id": "embd-1",
            "object": "list",
            "created": _CREATED,
            "model": body.get("model") or "model",
            "data": [{"index": place, "object": "embedding", "embedding": v} for place, v in enumerate(vectors)],
            "usage": {"prompt_tokens": len(texts) * 2, "total_tokens": len(texts) * 2, "completion_tokens": 0},
        }
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _parameters(body: Mapping[str, Any]) -> Mapping[str, Any]:
    found = body.get("parameters")
    return found if isinstance(found, dict) else {}


def _line(value: Any) -> bytes:
    return _json(value) + b"\n"


# -- text-generation-inference and LoRAX ------------------------------------------------------------------------------


def _tgi_tokens(said: Said, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    tokens = [
        {"id": 100 + place, "text": text, "logprob": said.logprob, "special": False}
        for place, text in enumerate(said.tokens)
    ]
    if said.reason == "stop" and not said.stop_sequence:
        tokens.append({"id": 2, "text": "</s>", "logprob": said.logprob, "special": True})
    return tokens


def _tgi_reason(said: Said) -> str:
    if said.reason == "length":
        return "length"
    return "stop_sequence" if said.stop_sequence else "eos_token"


def _tgi_top(token: Mapping[str, Any], body: Mapping[str, Any]) -> list[dict[str, Any]]:
    count = _parameters(body).get("top_n_tokens") or 0
    others = [
        {"id": 900 + place, "text": f"~{place}", "logprob": token["logprob"] - place, "special": False}
        for place in range(1, count)
    ]
    return [dict(token), *others] if count else []


def _tgi_text(said: Said, body: Mapping[str, Any]) -> str:
    prompt = body.get("inputs", "") if _parameters(body).get("return_full_text") else ""
    return prompt + "".join(said.tokens)


def _tgi_stream(said: Said, body: Mapping[str, Any]) -> Iterator[bytes]:
    tokens = _tgi_tokens(said, body)
    for index, token in enumerate(tokens, start=1):
        last = index == len(tokens)
        details = {"finish_reason": _tgi_reason(said), "generated_tokens": len(tokens), "seed": 1}
        event: dict[str, Any] = {"index": index, "token": token}
        if top := _tgi_top(token, body):
            event["top_tokens"] = top
        event["generated_text"] = _tgi_text(said, body) if last else None
        event["details"] = details if last else None
        yield b"data:" + _compact(event) + b"\n\n"


def _tgi_whole(said: Said, body: Mapping[str, Any]) -> bytes:
    answer: dict[str, Any] = {"generated_text": _tgi_text(said, body)}
    if _parameters(body).get("details"):
        tokens = _tgi_tokens(said, body)
        asked = _parameters(body).get("decoder_input_details")
        prefill = [{"id": 1, "text": "x", "logprob": None}] * said.prompt_tokens
        answer["details"] = {
            "finish_reason": _tgi_reason(said),
            "generated_tokens": len(tokens),
            "seed": 1,
            "prefill": prefill if asked else [],
            "tokens": tokens,
        }
        if _parameters(body).get("top_n_tokens"):
            answer["details"]["top_tokens"] = [_tgi_top(token, body) for token in tokens]
    return _compact([answer])


def _lorax_stream(said: Said, body: Mapping[str, Any]) -> Iterator[bytes]:
    tokens = _tgi_tokens(said, body)
    for index, token in enumerate(tokens, start=1):
        last = index == len(tokens)
        details = {
            "finish_reason": _tgi_reason(said),
            "prompt_tokens": said.prompt_tokens,
            "generated_tokens": len(tokens),
            "seed": None,
        }
        event = {
            "token": token,
            "generated_text": _tgi_text(said, body) if last else None,
            "details": details if last else None,
        }
        yield b"data:" + _compact(event) + b"\n\n"


def _lorax_whole(said: Said, body: Mapping[str, Any]) -> bytes:
    answer: dict[str, Any] = {"generated_text": _tgi_text(said, body)}
    if _parameters(body).get("details"):
        tokens = _tgi_tokens(said, body)
        answer["details"] = {
            "finish_reason": _tgi_reason(said),
            "prompt_tokens": said.prompt_tokens,
            "generated_tokens": len(tokens),
            "skipped_tokens": 0,
            "seed": None,
            "prefill": [],
            "tokens": tokens,
        }
    return _compact([answer])


# -- LMI's rolling batch, old and new -----------------------------------------------------------------------------


def _old_lmi_token(said: Said, place: int, text: str) -> dict[str, Any]:
    """Return a token of 0.26: what is 0 or empty is left out."""
    fields = {"id": 100 + place, "text": text, "log_prob": said.logprob}
    return {name: value for name, value in fields.items() if value}


def _old_lmi_reason(said: Said) -> str:
    # Its vLLM backend calls every stop an end of sequence.
    return "length" if said.reason == "length" else "eos_token"


def _jsonlines_stream(said: Said, body: Mapping[str, Any]) -> Iterator[bytes]:
    for place, text in enumerate(said.tokens):
        event: dict[str, Any] = {"token": _old_lmi_token(said, place, text)}
        if place == len(said.tokens) - 1:
            event["generated_text"] = "".join(said.tokens)
            if _parameters(body).get("details"):
                event["details"] = {"finish_reason": _old_lmi_reason(said)}
        yield _line(event)


def _jsonlines_whole(said: Said, body: Mapping[str, Any]) -> bytes:
    return b"".join(_jsonlines_stream(said, body))


def _old_json_stream(said: Said, body: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield one JSON object, written piece by piece."""
    for place, text in enumerate(said.tokens):
        piece = '{"generated_text": "' if place == 0 else ""
        piece += json.dumps(text, ensure_ascii=False)[1:-1]
        if place == len(said.tokens) - 1:
            if _parameters(body).get("details"):
                tokens = [_old_lmi_token(said, at, word) for at, word in enumerate(said.tokens)]
                details = {"finish_reason": _old_lmi_reason(said), "tokens": tokens}
                piece += f'", "details": {json.dumps(details, ensure_ascii=False)}}}'
            else:
                piece += '"}'
        yield piece.encode()


def _old_json_whole(said: Said, body: Mapping[str, Any]) -> bytes:
    return b"".join(_old_json_stream(said, body))


def _new_lmi_token(said: Said, place: int, text: str) -> dict[str, Any]:
    return {"id": 100 + place, "text": text, "log_prob": said.logprob}


def _rolling_details(said: Said, body: Mapping[str, Any], *, tokens: bool) -> dict[str, Any]:
    if not _parameters(body).get("details"):
        return {}
    details: dict[str, Any] = {
        "finish_reason": _tgi_reason(said),
        "generated_tokens": len(said.tokens),
        "inputs": body.get("inputs"),
    }
    if tokens:
        details["tokens"] = [_new_lmi_token(said, place, text) for place, text in enumerate(said.tokens)]
    if tokens and _parameters(body).get("decoder_input_details"):
        details["prefill"] = [{"id": 1, "text": "x", "log_prob": None}] * said.prompt_tokens
    return details


def _rolling_stream(said: Said, body: Mapping[str, Any]) -> Iterator[bytes]:
    if "messages" in body:
        yield from _chat_lines(said, body)
        return
    for place, text in enumerate(said.tokens):
        event: dict[str, Any] = {"token": _new_lmi_token(said, place, text)}
        if place == len(said.tokens) - 1:
            event["generated_text"] = "".join(said.tokens)
            if details := _rolling_details(said, body, tokens=False):
                event["details"] = details
        yield _line(event)


def _rolling_whole(said: Said, body: Mapping[str, Any]) -> bytes:
    if "messages" in body:
        return _json(_chat_object(said, body))
    answer: dict[str, Any] = {"generated_text": "".join(said.tokens)}
    if details := _rolling_details(said, body, tokens=True):
        answer["details"] = details
    return _json(answer)


# -- LMI's asynchronous handlers ------------------------------------------------------------------------------------


def _async_stream(said: Said, body: Mapping[str, Any], *, tokens: bool) -> Iterator[bytes]:
    """Yield lines; the handler adds an empty one for the chunk with the usage and one for the end."""
    if "messages" in body or "prompt" in body:
        yield from _chat_lines(said, body) if "messages" in body else _completion_lines(said, body)
        return
    words = _words(said)
    for place, (text, _) in enumerate(words):
        last = place == len(words) - 1
        details = {
            "finish_reason": said.reason,
            "seed": _parameters(body).get("seed"),
            "generated_tokens": len(words),
            "input_length": said.prompt_tokens,
        }
        yield _line(
            {
                "index": 0,
                "token": {
                    "id": 100 + place if tokens else None,
                    "text": text,
                    "logprob": said.logprob if tokens else None,
                },
                "generated_text": "".join(said.tokens) if last else None,
                "details": details if last and _parameters(body).get("details") else None,
            }
        )
    yield b"\n"
    yield b"\n"


def _async_whole(said: Said, body: Mapping[str, Any], *, tokens: bool) -> bytes:
    if "messages" in body:
        return _line(_chat_object(said, body))
    if "prompt" in body:
        return _line(_completion_object(said, body))
    answer: dict[str, Any] = {"generated_text": "".join(said.tokens)}
    if _parameters(body).get("details"):
        # The handler fills finish_reason from vLLM's stop_reason, which is null unless a stop string matched.
        details: dict[str, Any] = {
            "finish_reason": "stop" if said.stop_sequence else None,
            "generated_tokens": len(_words(said)),
            "seed": _parameters(body).get("seed"),
        }
        if tokens:
            asked = _parameters(body).get("decoder_input_details")
            details["prefill"] = [{"id": 1, "text": "x", "logprob": -1.0}] * said.prompt_tokens if asked else []
            details["tokens"] = [
                {"id": 100 + place, "text": token, "logprob": said.logprob}
                for place, (_, token) in enumerate(_words(said))
            ]
        answer["details"] = details
    return _line(answer)


# -- OpenAI's objects ---------------------------------------------------------------------------------------------


def _words(said: Said) -> list[tuple[str, str]]:
    """Return each token's text as shown, and the token: vLLM counts the end of the sequence, but shows none."""
    words = [(text, text) for text in said.tokens]
    if said.reason == "stop" and not said.stop_sequence and not said.tool_calls:
        words.append(("", "</s>"))
    return words


def _logprob_entry(said: Said, text: str, count: int) -> dict[str, Any]:
    entry = {"token": text, "logprob": said.logprob, "bytes": list(text.encode())}
    others = [{"token": f"~{n}", "logprob": said.logprob - n, "bytes": list(f"~{n}".encode())} for n in range(1, count)]
    return {**entry, "top_logprobs": [entry, *others] if count else []}


def _usage(said: Said) -> dict[str, int]:
    count = len(_words(said))
    return {
        "prompt_tokens": said.prompt_tokens,
        "total_tokens": said.prompt_tokens + count,
        "completion_tokens": count,
    }


def _calls(said: Said) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{place}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for place, (name, arguments) in enumerate(said.tool_calls)
    ]


def _chat_object(said: Said, body: Mapping[str, Any]) -> dict[str, Any]:
    logprobs = None
    if body.get("logprobs"):
        count = body.get("top_logprobs") or 0
        logprobs = {"content": [_logprob_entry(said, token, count) for _, token in _words(said)]}
    calls = _calls(said)
    text = "".join(said.tokens)
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": _CREATED,
        "model": body.get("model") or "model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None if calls else text, "tool_calls": calls},
                "logprobs": logprobs,
                "finish_reason": "tool_calls" if calls else said.reason,
                "stop_reason": None,
            }
        ],
        "usage": {**_usage(said), "prompt_tokens_details": None},
        "prompt_logprobs": None,
    }


def _chat_deltas(said: Said) -> Iterator[tuple[dict[str, Any], str | None, str | None]]:
    """Yield deltas, each with its token and the finish reason."""
    yield {"role": "assistant", "content": ""}, None, None
    for place, (name, arguments) in enumerate(said.tool_calls):
        head = {"id": f"call_{place}", "type": "function", "index": place, "function": {"name": name, "arguments": ""}}
        yield {"tool_calls": [head]}, None, None
        half = len(arguments) // 2
        for piece in (arguments[:half], arguments[half:]):
            yield {"tool_calls": [{"index": place, "function": {"arguments": piece}}]}, None, None
    if said.tool_calls:
        yield {"content": ""}, None, "tool_calls"
        return
    words = _words(said)
    for place, (text, token) in enumerate(words):
        yield {"content": text}, token, said.reason if place == len(words) - 1 else None


def _chat_chunks(said: Said, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    base = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": body.get("model") or "model",
    }
    for delta, text, reason in _chat_deltas(said):
        logprobs = None
        if body.get("logprobs") and text is not None:
            logprobs = {"content": [_logprob_entry(said, text, body.get("top_logprobs") or 0)]}
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        if reason is not None:
            choice["stop_reason"] = None
        yield {**base, "choices": [choice]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**base, "choices": [], "usage": _usage(said)}


def _chat_lines(said: Said, body: Mapping[str, Any]) -> Iterator[bytes]:
    for chunk in _chat_chunks(said, body):
        yield _line(chunk)
    yield b"\n"


def _legacy_logprobs(said: Said, places: Sequence[int]) -> dict[str, Any]:
    words = _words(said)
    tokens = [words[place][1] for place in places]
    return {
        "text_offset": [len("".join(said.tokens[:place])) for place in places],
        "token_logprobs": [said.logprob for _ in places],
        "tokens": tokens,
        "top_logprobs": [{token: said.logprob} for token in tokens],
    }


def _completion_object(said: Said, body: Mapping[str, Any]) -> dict[str, Any]:
    asked = body.get("logprobs") is not None
    choice = {
        "index": 0,
        "text": "".join(said.tokens),
        "logprobs": _legacy_logprobs(said, range(len(_words(said)))) if asked else None,
        "finish_reason": said.reason,
        "stop_reason": None,
        "prompt_logprobs": None,
    }
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": _CREATED,
        "model": body.get("model") or "model",
        "choices": [choice],
        "usage": _usage(said),
    }


def _completion_chunks(said: Said, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    base = {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": _CREATED,
        "model": body.get("model") or "model",
    }
    asked = body.get("logprobs") is not None
    words = _words(said)
    for place, (text, _) in enumerate(words):
        choice = {
            "index": 0,
            "text": text,
            "logprobs": _legacy_logprobs(said, [place]) if asked else None,
            "finish_reason": said.reason if place == len(words) - 1 else None,
            "stop_reason": None,
        }
        yield {**base, "choices": [choice]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**base, "choices": [], "usage": _usage(said)}


def _completion_lines(said: Said, body: Mapping[str, Any]) -> Iterator[bytes]:
    for chunk in _completion_chunks(said, body):
        yield _line(chunk)
    yield b"\n"


def _vllm_stream(said: Said, body: Mapping[str, Any]) -> Iterator[bytes]:
    chunks = _chat_chunks(said, body) if "messages" in body else _completion_chunks(said, body)
    for chunk in chunks:
        yield b"data: " + _compact(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _vllm_whole(said: Said, body: Mapping[str, Any]) -> bytes:
    return _compact(_chat_object(said, body) if "messages" in body else _completion_object(said, body))


_STREAMS: Mapping[str, Callable[[Said, Mapping[str, Any]], Iterator[bytes]]] = {
    "tgi-generate": _tgi_stream,
    "lorax": _lorax_stream,
    "lmi-jsonlines": _jsonlines_stream,
    "lmi-json": _old_json_stream,
    "lmi-rolling-batch": _rolling_stream,
    "lmi-async-vllm": lambda said, body: _async_stream(said, body, tokens=True),
    "lmi-async-trtllm": lambda said, body: _async_stream(said, body, tokens=False),
    "vllm-openai": _vllm_stream,
}
_WHOLES: Mapping[str, Callable[[Said, Mapping[str, Any]], bytes]] = {
    "tgi-generate": _tgi_whole,
    "lorax": _lorax_whole,
    "lmi-jsonlines": _jsonlines_whole,
    "lmi-json": _old_json_whole,
    "lmi-rolling-batch": _rolling_whole,
    "lmi-async-vllm": lambda said, body: _async_whole(said, body, tokens=True),
    "lmi-async-trtllm": lambda said, body: _async_whole(said, body, tokens=False),
    "vllm-openai": _vllm_whole,
}
