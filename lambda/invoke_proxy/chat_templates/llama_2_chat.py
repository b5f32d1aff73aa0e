"""`llama-2-chat`: Llama 2 Chat and Code Llama Instruct.

NOT VERIFIED: that Code Llama's repository has the same template as Llama 2's, which the contract test compares with;
Meta describes the same prompt for both.
"""

from __future__ import annotations

from collections.abc import Sequence

from .conversation import Message, turns

__all__ = ["render"]


def render(messages: Sequence[Message], *, continue_final: bool) -> str:
    """Render as the models' own templates do: texts are stripped, every turn is a sequence of its own."""
    system, conversation = turns(messages, continue_final=continue_final)
    lead = "" if system is None else f"<<SYS>>\n{system}\n<</SYS>>\n\n"
    last = len(conversation) - 1
    parts: list[str] = []
    for index, message in enumerate(conversation):
        if message.role == "user":
            begin = "" if index == 0 else "<s>"
            content = lead + message.content if index == 0 else message.content
            parts.append(f"{begin}[INST] {content.strip()} [/INST]")
        elif continue_final and index == last:
            # Space at its end may be the beginning of the model's next word.
            parts.append(f" {message.content.lstrip()}")
        else:
            parts.append(f" {message.content.strip()} </s>")
    return "".join(parts)
