"""The streams of this folder, and what the dialects' tests share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from invoke_proxy.dialects import DIALECTS, StreamParser
from invoke_proxy.errors import ApiError
from invoke_proxy.generation import Finish, Generation, Piece, StreamEvent, Token, ToolCall
from invoke_proxy.registry import Deployment

FOLDER = Path(__file__).parent
TEXT = ' Grüße aus "Köln", 😀\n{日本語}'

# Each recorded stream that ends well, by the file's name, with the dialect that reads it.
COMPLETE = {
    "tgi-generate.neuron-2.1.1.sse": "tgi-generate",
    "tgi-generate.3.3.6.sse": "tgi-generate",
    "lorax.sse": "lorax",
    "lmi-jsonlines.lmi-dist.jsonl": "lmi-jsonlines",
    "lmi-jsonlines.lmi-vllm.jsonl": "lmi-jsonlines",
    "lmi-json.json": "lmi-json",
    "lmi-rolling-batch.jsonl": "lmi-rolling-batch",
    "lmi-async-vllm.chat.jsonl": "lmi-async-vllm",
    "lmi-async-vllm.inputs.jsonl": "lmi-async-vllm",
    "lmi-async-trtllm.chat.jsonl": "lmi-async-trtllm",
    "lmi-async-trtllm.inputs.jsonl": "lmi-async-trtllm",
    "vllm-openai.chat.sse": "vllm-openai",
    "vllm-openai.completion.sse": "vllm-openai",
    "vllm-openai.tools.sse": "vllm-openai",
}
# Each that breaks off with the engine's own error.
FAILED = {
    "tgi-generate.error.sse": "tgi-generate",
    "lmi-jsonlines.error.jsonl": "lmi-jsonlines",
    "lmi-json.error.json": "lmi-json",
    "lmi-rolling-batch.error.jsonl": "lmi-rolling-batch",
    "lmi-async-vllm.error.jsonl": "lmi-async-vllm",
    "lmi-async-vllm.failed.jsonl": "lmi-async-vllm",
    "vllm-openai.error.sse": "vllm-openai",
}


def recorded(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def parser_for(name: str) -> StreamParser:
    return DIALECTS[{**COMPLETE, **FAILED}[name]].parser()


def read(parser: StreamParser, chunks: Iterable[bytes]) -> list[StreamEvent]:
    events: list[StreamEvent] = []
    for chunk in chunks:
        events += parser.feed(chunk)
    events += parser.end()
    return events


def outcome(parser: StreamParser, chunks: Iterable[bytes]) -> tuple[list[StreamEvent], ApiError | None]:
    """What came before the failure, and the failure. Everything but an ApiError fails the test."""
    events: list[StreamEvent] = []
    try:
        for chunk in chunks:
            for event in parser.feed(chunk):
                events.append(event)  # noqa: PERF402 - what came before an error counts
        for event in parser.end():
            events.append(event)  # noqa: PERF402
    except ApiError as error:
        return events, error
    return events, None


def cut(payload: bytes, places: Iterable[int]) -> list[bytes]:
    """The payload in pieces that end at the places, empty ones included."""
    ends = [0, *sorted(place % (len(payload) + 1) for place in places), len(payload)]
    return [payload[start:end] for start, end in pairwise(ends)]


def text_of(events: Iterable[StreamEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


def tokens_of(events: Iterable[StreamEvent]) -> list[Token]:
    return [token for event in events if isinstance(event, Piece) for token in event.tokens]


def calls_of(events: Iterable[StreamEvent]) -> list[ToolCall]:
    return [call for event in events if isinstance(event, Piece) for call in event.tool_calls]


def finish_of(events: list[StreamEvent]) -> Finish:
    """The finish, which is the last event and the only one of its kind."""
    assert [isinstance(event, Finish) for event in events].index(True) == len(events) - 1
    last = events[-1]
    assert isinstance(last, Finish)
    return last


def merged(events: Iterable[StreamEvent]) -> list[StreamEvent]:
    """Events with pieces of text only put together: how text is cut depends on how the bytes were."""
    found: list[StreamEvent] = []
    for event in events:
        before = found[-1] if found else None
        if isinstance(event, Piece) and isinstance(before, Piece) and not (event.tokens or before.tokens):
            found[-1] = replace(before, text=before.text + event.text, tool_calls=before.tool_calls + event.tool_calls)
        else:
            found.append(event)
    return found


def deployment(engine: str = "tgi-neuronx", version: str = "0.0.25", **more: Any) -> Deployment:
    values: dict[str, Any] = {
        "deployment": "mixtral",
        "model_id": "acme/model",
        "endpoint_name": "endpoint",
        "engine": engine,
        "engine_version": version,
        "dialect": "tgi-generate",
        "chat_template": "mistral-instruct",
        "max_input_tokens": 700,
        "max_total_tokens": 1024,
        "registered": 0,
    }
    return Deployment(**{**values, **more})


def generation(**values: Any) -> Generation:
    return Generation(**{"stream": False, **({} if "messages" in values else {"prompt": "Hi"}), **values})
