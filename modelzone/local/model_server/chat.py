"""The chat template of Mixtral-8x7B-Instruct-v0.1 and the OpenAI objects of TGI 2.1.1."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from modelzone.local.model_server.bodies import ChatBody, ChatMessage, Parameters
from modelzone.local.model_server.errors import TemplateFailed
from modelzone.local.model_server.generation import Step, Token
from modelzone.local.model_server.settings import ServerSettings

__all__ = ["DOCKER_LABEL", "VERSION", "chat_chunk", "chat_completion", "chat_parameters", "render_chat"]

VERSION = "2.1.1"
DOCKER_LABEL = "modelzone-cpu-stand-in"


def render_chat(messages: Sequence[ChatMessage], *, bos_token: str, eos_token: str) -> str:
    """Render messages as the template in `tokenizer_config.json` does; it knows no system role."""
    parts = [bos_token]
    for index, message in enumerate(messages):
        if (message.role == "user") != (index % 2 == 0):
            raise TemplateFailed("Conversation roles must alternate user/assistant/user/assistant/...")
        if message.role == "user":
            parts.append(f"[INST] {message.content} [/INST]")
        elif message.role == "assistant":
            parts.append(message.content + eos_token)
        else:
            raise TemplateFailed("Only user and assistant roles are supported!")
    return "".join(parts)


def chat_parameters(body: ChatBody) -> Parameters:
    """Translate OpenAI's parameters as the router does: a temperature of 0 means greedy, anything else sampling."""
    greedy = body.temperature == 0
    return Parameters(
        temperature=None if greedy else body.temperature,
        repetition_penalty=None if body.presence_penalty is None else body.presence_penalty + 2.0,
        frequency_penalty=body.frequency_penalty,
        top_p=body.top_p,
        do_sample=not greedy,
        max_new_tokens=body.max_tokens,
        stop=body.stop,
        details=True,
        seed=body.seed,
        top_n_tokens=body.top_logprobs,
        grammar=body.grammar,
    )


def chat_completion(steps: Sequence[Step], text: str, *, settings: ServerSettings, logprobs: bool) -> dict[str, Any]:
    """Return the answer as one object. The prompt's tokens are unknown on Neuron and count as 0."""
    return {
        "object": "chat.completion",
        **_head(settings),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "logprobs": {"content": [_logprob(step) for step in steps]} if logprobs else None,
                "finish_reason": steps[-1].finish_reason,
            }
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": len(steps), "total_tokens": len(steps)},
    }


def chat_chunk(step: Step, *, settings: ServerSettings, logprobs: bool) -> dict[str, Any]:
    """Return one token as a chunk of a stream; special tokens have no content."""
    return {
        "object": "chat.completion.chunk",
        **_head(settings),
        "choices": [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": "" if step.token.special else step.token.text},
                "logprobs": {"content": [_logprob(step)]} if logprobs else None,
                "finish_reason": step.finish_reason,
            }
        ],
    }


def _head(settings: ServerSettings) -> dict[str, Any]:
    return {
        "id": "",
        "created": int(time.time()),
        "model": settings.model_id,
        "system_fingerprint": f"{VERSION}-{DOCKER_LABEL}",
    }


def _logprob(step: Step) -> dict[str, Any]:
    def entry(token: Token) -> dict[str, Any]:
        return {"token": token.text, "logprob": token.logprob}

    return {**entry(step.token), "top_logprobs": [entry(token) for token in step.top_tokens]}
