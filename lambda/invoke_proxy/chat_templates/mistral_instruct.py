"""`mistral-instruct`: Mixtral-8x7B-Instruct-v0.1 and Mistral-7B-Instruct-v0.2."""

from __future__ import annotations

from collections.abc import Sequence

from .conversation import Message, turns

__all__ = ["render"]


def render(messages: Sequence[Message], *, continue_final: bool) -> str:
    """Render as the models' own templates do; without a system role, it goes in front of the first user message."""
    system, conversation = turns(messages, continue_final=continue_final)
    lead = "" if system is None else f"{system}\n\n"
    parts: list[str] = []
    for index, message in enumerate(conversation):
        if message.role == "assistant":
            parts.append(f" {message.content}</s>")
        elif index == 0:
            parts.append(f"[INST] {lead}{message.content} [/INST]")
        else:
            parts.append(f" [INST] {message.content} [/INST]")
    text = "".join(parts)
    return text.removesuffix("</s>") if continue_final else text
