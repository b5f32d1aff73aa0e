"""Chat templates: from OpenAI messages to the text a model was trained on.

The endpoints take plain text (`/invocations` of TGI 2.1.1 offers chat only if `/generate` is given up), so the
template is applied here. The begin-of-sequence token is left out: the engine's tokenizer adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .errors import bad_request

__all__ = ["Message", "render", "template_names"]


@dataclass(frozen=True)
class Message:
    """One message of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


def render(template: str, messages: Sequence[Message]) -> str:
    """Render a conversation with the named template.

    Raises
    ------
    KeyError
        When the template is unknown.
    ApiError
        When the template cannot express the order of the roles; it names the message.
    """
    return _TEMPLATES[template](messages)


def template_names() -> frozenset[str]:
    """Return the templates that this gateway knows."""
    return frozenset(_TEMPLATES)


def _mistral_instruct(messages: Sequence[Message]) -> str:
    """Render as the official template of Mixtral-8x7B-Instruct-v0.1 does.

    It has no system role: a leading system message is put before the first user message.
    """
    system = ""
    first = 0
    if messages and messages[0].role == "system":
        system = messages[0].content + "\n\n"
        first = 1
    parts: list[str] = []
    for index, message in enumerate(messages[first:], start=first):
        wanted = "user" if (index - first) % 2 == 0 else "assistant"
        if message.role != wanted:
            raise bad_request(
                f"messages[{index}].role is '{message.role}', expected '{wanted}': after one optional leading system "
                "message this model takes user and assistant messages in turn, beginning with user.",
                param=f"messages[{index}].role",
            )
        if message.role == "assistant":
            parts.append(f" {message.content}</s>")
        else:
            lead = "" if index == first else " "
            parts.append(f"{lead}[INST] {system if index == first else ''}{message.content} [/INST]")
    last = len(messages) - 1
    if last < first or messages[last].role != "user":
        at = f"messages[{max(last, 0)}].role"
        raise bad_request(f"{at}: the conversation must end with a user message.", param=at)
    return "".join(parts)


_TEMPLATES: dict[str, Callable[[Sequence[Message]], str]] = {"mistral-instruct": _mistral_instruct}
