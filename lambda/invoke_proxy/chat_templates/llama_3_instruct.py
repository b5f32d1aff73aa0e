"""`llama-3-instruct`: Llama 3 Instruct."""

from __future__ import annotations

from collections.abc import Sequence

from .conversation import Message, open_end

__all__ = ["render"]


def render(messages: Sequence[Message], *, continue_final: bool) -> str:
    """Render as the models' own template does: texts are stripped, roles come in any order."""
    still_open = open_end(messages, continue_final=continue_final)
    parts: list[str] = []
    for index, message in enumerate(messages):
        parts.append(f"<|start_header_id|>{message.role}<|end_header_id|>\n\n")
        # Space at the end of an open message may be the beginning of the model's next word.
        parts.append(message.content.lstrip() if index == still_open else f"{message.content.strip()}<|eot_id|>")
    if not continue_final:
        parts.append("<|start_header_id|>assistant<|end_header_id|>\n\n")
    return "".join(parts)
