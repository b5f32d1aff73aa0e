"""`zephyr`: Zephyr 7B beta."""

from __future__ import annotations

from collections.abc import Sequence

from .conversation import Message, open_end

__all__ = ["render"]


def render(messages: Sequence[Message], *, continue_final: bool) -> str:
    """Render as the model's own template does under transformers, which drops the newlines after Jinja's blocks."""
    still_open = open_end(messages, continue_final=continue_final)
    parts: list[str] = []
    for index, message in enumerate(messages):
        parts.append(f"<|{message.role}|>\n{message.content}")
        if index != still_open:
            parts.append("</s>\n")
    if not continue_final:
        parts.append("<|assistant|>\n")
    return "".join(parts)
