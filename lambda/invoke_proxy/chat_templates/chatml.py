"""`chatml`: OpenHermes, Dolphin and others that were trained on OpenAI's chat markup.

Qwen's templates add a system message of their own when there is none, this one does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from .conversation import Message, open_end

__all__ = ["render"]

END = "<|im_end|>\n"


def render(messages: Sequence[Message], *, continue_final: bool) -> str:
    """Render every message between its two marks; roles come in any order."""
    still_open = open_end(messages, continue_final=continue_final)
    parts = [
        f"<|im_start|>{message.role}\n{message.content}{'' if index == still_open else END}"
        for index, message in enumerate(messages)
    ]
    if not continue_final:
        parts.append("<|im_start|>assistant\n")
    return "".join(parts)
