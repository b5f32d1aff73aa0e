"""Chat templates: from a conversation to the text that a model was trained on.

Engines without the feature ``chat`` take plain text (`/invocations` of TGI 2.1.1 offers chat only if `/generate` is
given up), so the template is applied here. The begin-of-sequence token at the very start is left out: the engine's
tokenizer adds it. Each template is compared with what the model's own gives, in tests/contract.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import chatml, llama_2_chat, llama_3_instruct, mistral_instruct, zephyr
from .conversation import Message, Template

__all__ = ["Message", "Template", "render", "template_names"]

_TEMPLATES: dict[str, Template] = {
    "chatml": chatml.render,
    "llama-2-chat": llama_2_chat.render,
    "llama-3-instruct": llama_3_instruct.render,
    "mistral-instruct": mistral_instruct.render,
    "zephyr": zephyr.render,
}


def render(template: str, messages: Sequence[Message], *, continue_final: bool = False) -> str:
    """Render a conversation with the named template, up to where the assistant's answer begins.

    With `continue_final` the last message, which is the assistant's, stays open: the model goes on with its text.

    Raises
    ------
    KeyError
        When the template is unknown.
    ApiError
        400 when the template cannot express the order of the roles; it names the message.
    """
    return _TEMPLATES[template](messages, continue_final=continue_final)


def template_names() -> frozenset[str]:
    """Return the templates that this gateway knows."""
    return frozenset(_TEMPLATES)
