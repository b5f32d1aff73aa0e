"""What the templates share: messages, and the order of roles that some models insist on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from invoke_proxy.errors import bad_request

__all__ = ["Message", "Template", "open_end", "turns"]


@dataclass(frozen=True)
class Message:
    """One message of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


class Template(Protocol):
    """Renders a conversation, see `invoke_proxy.chat_templates.render`."""

    def __call__(self, messages: Sequence[Message], *, continue_final: bool) -> str:
        """Return the text for the model."""
        ...


def turns(messages: Sequence[Message], *, continue_final: bool) -> tuple[str | None, Sequence[Message]]:
    """Return the leading system message's text and the messages after it, user and assistant in turn.

    Raises
    ------
    ApiError
        400 when the messages are in another order.
    """
    first = 1 if messages and messages[0].role == "system" else 0
    for index, message in enumerate(messages[first:], start=first):
        wanted = "user" if (index - first) % 2 == 0 else "assistant"
        if message.role != wanted:
            raise bad_request(
                f"messages[{index}].role is '{message.role}', expected '{wanted}': after one optional leading system "
                "message this model takes user and assistant messages in turn, beginning with user.",
                param=f"messages[{index}].role",
            )
    last = len(messages) - 1
    wanted = "assistant" if continue_final else "user"
    if last < first or messages[last].role != wanted:
        at = f"messages[{max(last, 0)}].role"
        raise bad_request(f"{at}: the conversation must end with a message of the {wanted}.", param=at)
    return (messages[0].content if first else None), messages[first:]


def open_end(messages: Sequence[Message], *, continue_final: bool) -> int:
    """Return the index of the message that stays open; past the end when none does.

    Raises
    ------
    ApiError
        400 when there is no message, or the last one should stay open and is not the assistant's.
    """
    last = len(messages) - 1
    if last < 0:
        raise bad_request("messages is empty: send at least one user message.", param="messages")
    if not continue_final:
        return len(messages)
    if messages[last].role != "assistant":
        at = f"messages[{last}].role"
        raise bad_request(f"{at}: only an assistant message can be continued.", param=at)
    return last
