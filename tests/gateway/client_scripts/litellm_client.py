"""LiteLLM against a gateway: prints one line of JSON with what it got.

Environment: MODELZONE_BASE_URL (without ``/v1``), MODELZONE_API_KEY, MODELZONE_MODEL, and, to ask for more than text,
MODELZONE_TOOLS_MODEL and MODELZONE_EMBEDDING_MODEL.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm

litellm.telemetry = False
litellm.suppress_debug_info = True
API: dict[str, Any] = {
    "api_base": f"{os.environ['MODELZONE_BASE_URL']}/v1",
    "api_key": os.environ["MODELZONE_API_KEY"],
    "max_retries": 0,
    "timeout": 60,
}
MODEL = f"openai/{os.environ['MODELZONE_MODEL']}"
HELLO = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def whole() -> dict[str, Any]:
    answer = litellm.completion(model=MODEL, messages=HELLO, max_tokens=8, temperature=0, **API)
    choice = answer.choices[0]
    usage = getattr(answer, "usage", None)
    return {
        "text": choice.message.content,
        "reason": choice.finish_reason,
        "usage": usage.model_dump() if usage else None,
    }


def second_turn() -> dict[str, Any]:
    """The answer's message goes back as LiteLLM gives it, fields of its own included."""
    first = litellm.completion(model=MODEL, messages=HELLO, max_tokens=8, temperature=0, **API)
    turns = [*HELLO, first.choices[0].message, {"role": "user", "content": "Again."}]
    plain = [*HELLO, first.choices[0].message.model_dump(), {"role": "user", "content": "Again."}]
    answers = [litellm.completion(model=MODEL, messages=sent, max_tokens=8, **API) for sent in (turns, plain)]
    return {
        "texts": [answer.choices[0].message.content for answer in answers],
        "fields": sorted(first.choices[0].message.model_dump()),
    }


def collected(chunks: list[Any]) -> dict[str, Any]:
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    return {
        "texts": [choice.delta.content for choice in choices if choice.delta.content],
        "reasons": [choice.finish_reason for choice in choices if choice.finish_reason],
        "ids": len({chunk.id for chunk in chunks}),
    }


def stream() -> dict[str, Any]:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    return collected(list(litellm.completion(model=MODEL, messages=HELLO, max_tokens=8, **options, **API)))


def asynchronous() -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        answer = await litellm.acompletion(model=MODEL, messages=HELLO, max_tokens=8, stream=True, **API)
        return collected([chunk async for chunk in answer])

    return asyncio.run(run())


def text_completion() -> dict[str, Any]:
    answer = litellm.text_completion(
        model=f"text-completion-{MODEL}", prompt="Once upon a time", max_tokens=8, temperature=0, **API
    )
    return {"text": answer.choices[0].text, "reason": answer.choices[0].finish_reason}


def text_stream() -> dict[str, Any]:
    chunks = litellm.text_completion(
        model=f"text-completion-{MODEL}", prompt="Once upon a time", max_tokens=8, stream=True, **API
    )
    return {"texts": [chunk.choices[0].text for chunk in chunks if chunk.choices and chunk.choices[0].text]}


def refusal(**changes: Any) -> dict[str, Any]:
    try:
        litellm.completion(**{"model": MODEL, "messages": HELLO, **API, **changes})
    except Exception as error:
        return {"error": type(error).__name__, "status": getattr(error, "status_code", None), "words": str(error)}
    return {"error": None}


def tools() -> dict[str, Any]:
    model = f"openai/{os.environ['MODELZONE_TOOLS_MODEL']}"
    answer = litellm.completion(model=model, messages=HELLO, tools=[TOOL], tool_choice="auto", **API)
    calls = answer.choices[0].message.tool_calls or []
    results = [{"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "Rain."} for call in calls]
    told = litellm.completion(
        model=model, messages=[*HELLO, answer.choices[0].message, *results], tools=[TOOL], max_tokens=8, **API
    )
    pieces = list(litellm.completion(model=model, messages=HELLO, tools=[TOOL], stream=True, **API))
    rebuilt = litellm.stream_chunk_builder(pieces, messages=HELLO)
    streamed = rebuilt.choices[0].message.tool_calls or []
    return {
        "calls": [[call.function.name, call.function.arguments] for call in calls],
        "streamed": [[call.function.name, call.function.arguments] for call in streamed],
        "reason": answer.choices[0].finish_reason,
        "told": told.choices[0].finish_reason,
    }


def embedding() -> dict[str, Any]:
    model = f"openai/{os.environ['MODELZONE_EMBEDDING_MODEL']}"
    answer = litellm.embedding(model=model, input=["one", "three"], **API)
    return {"lengths": [len(item["embedding"]) for item in answer.data]}


def main() -> None:
    checks: dict[str, Callable[[], dict[str, Any]]] = {
        "whole": whole,
        "second_turn": second_turn,
        "stream": stream,
        "asynchronous": asynchronous,
        "text_completion": text_completion,
        "text_stream": text_stream,
        "unknown_model": lambda: refusal(model="openai/no-such-model"),
        "wrong_key": lambda: refusal(api_key="mz_wrong"),
    }
    if "MODELZONE_TOOLS_MODEL" in os.environ:
        checks["tools"] = tools
    if "MODELZONE_EMBEDDING_MODEL" in os.environ:
        checks["embedding"] = embedding
    sys.stdout.write(f"\n{json.dumps({name: check() for name, check in checks.items()})}\n")


if __name__ == "__main__":
    main()
