"""Requests in OpenAI's own format: chat when there are messages, a completion when there is a prompt.

Read from vLLM 0.11.0's and today's protocol (`ChatCompletionRequest`, `CompletionRequest`, `SamplingParams`) and from
TensorRT-LLM's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from invoke_proxy.errors import bad_request
from invoke_proxy.generation import Generation
from invoke_proxy.registry import Deployment

from .asking import check_range, check_room, is_greedy, refuse_unmapped, unsupported

__all__ = ["VLLM_FIELDS", "VLLM_STOPPING", "only_adapter", "openai_body"]

VLLM_FIELDS = frozenset(
    {"top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias", "stop", "seed"}
    | {"logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "response_format", "adapters"}
    | {"continue_final"}
)
# Where vLLM leaves stop sequences out it holds back as many characters as may begin one (`stop_buffer_length` in its
# detokenizer): text comes later than its tokens. With the sequence in the answer both come together; the gateway cuts.
VLLM_STOPPING: Mapping[str, Any] = MappingProxyType({"include_stop_str_in_output": True})
# vLLM's default of --max-logprobs.
MAX_TOP_LOGPROBS = 20

_SEEDS = 2**64
_LEAST_SEED = -(2**63)
_INFINITY = float("inf")
_COPIED = ("repetition_penalty", "frequency_penalty", "presence_penalty", "min_p")


def openai_body(
    generation: Generation,
    deployment: Deployment,
    *,
    mapped: frozenset[str],
    greedy: dict[str, Any],
    stopping: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the body, without what names an adapter.

    Parameters
    ----------
    mapped
        The fields of `Generation` that the engine has a word for.
    greedy
        What makes it take the likeliest token.
    stopping
        What goes with stop sequences.

    Raises
    ------
    ApiError
        400 for what the engine cannot do or take.
    """
    refuse_unmapped(generation, deployment, mapped=mapped)
    check_room(generation, deployment)
    check_range("repetition_penalty", generation.repetition_penalty, least=0, most=_INFINITY, above=True)
    # A stream has its usage in a chunk of its own, when asked.
    body: dict[str, Any] = {"stream": generation.stream}
    if generation.stream:
        body["stream_options"] = {"include_usage": True}
    body |= _chat(generation) if generation.messages is not None else _completion(generation, deployment)
    body |= greedy if is_greedy(generation) else _sampling(generation)
    for name in _COPIED:
        value = getattr(generation, name)
        if value and not (name == "min_p" and is_greedy(generation)):
            body[name] = value
    if generation.logit_bias:
        body["logit_bias"] = dict(generation.logit_bias)
    if generation.stop:
        body |= {"stop": list(generation.stop), **stopping}
    if generation.seed is not None:
        # Theirs is a signed number of 64 bits; a larger one keeps its own place.
        body["seed"] = (generation.seed - _LEAST_SEED) % _SEEDS + _LEAST_SEED
    if generation.response_format is not None and generation.response_format.get("type") != "text":
        body["response_format"] = dict(generation.response_format)
    return body


def _sampling(generation: Generation) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if generation.temperature is not None:
        asked["temperature"] = generation.temperature
    if generation.top_p is not None:
        asked["top_p"] = generation.top_p
    if generation.top_k is not None and generation.top_k > 0:
        asked["top_k"] = generation.top_k
    return asked


def _chat(generation: Generation) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [dict(message) for message in generation.messages or ()]}
    if generation.max_tokens is not None:
        body["max_tokens"] = generation.max_tokens
    if generation.continue_final:
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    if generation.logprobs:
        body |= {"logprobs": True, "top_logprobs": _top_logprobs(generation)}
    if generation.tools:
        body["tools"] = [dict(tool) for tool in generation.tools]
        # vLLM's own default is "none".
        body["tool_choice"] = generation.tool_choice if generation.tool_choice is not None else "auto"
        if generation.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = generation.parallel_tool_calls
    return body


def _completion(generation: Generation, deployment: Deployment) -> dict[str, Any]:
    if generation.tools:
        raise unsupported(deployment, "tools", "calls tools in chats only")
    # null is "what the prompt leaves of the context"; leaving it out is 16 tokens.
    body: dict[str, Any] = {"prompt": generation.prompt, "max_tokens": generation.max_tokens}
    if generation.logprobs:
        body["logprobs"] = _top_logprobs(generation)
    return body


def _top_logprobs(generation: Generation) -> int:
    if generation.top_logprobs > MAX_TOP_LOGPROBS:
        raise bad_request(
            f"top_logprobs is {generation.top_logprobs}, this engine returns {MAX_TOP_LOGPROBS} at most.",
            param="top_logprobs",
        )
    return generation.top_logprobs


def only_adapter(generation: Generation) -> str | None:
    """Return the adapter to apply.

    Raises
    ------
    ApiError
        400 for more than one.
    """
    if len(generation.adapters) > 1:
        raise bad_request(
            f"adapters names {len(generation.adapters)}; this engine applies one to a request.", param="adapters"
        )
    return generation.adapters[0] if generation.adapters else None
