"""What a dialect is: how a family of engines is asked, and what its answers are turned into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from invoke_proxy.chat_answer import Finish, Token
from invoke_proxy.chat_request import ChatRequest
from invoke_proxy.registry import Deployment

__all__ = ["Dialect", "StreamEvent", "WholeAnswer"]


@dataclass(frozen=True, kw_only=True)
class WholeAnswer:
    """An answer that came in one piece; `text` has no special tokens."""

    text: str
    tokens: tuple[Token, ...]
    finish: Finish


@dataclass(frozen=True, kw_only=True)
class StreamEvent:
    """One event of a stream: a token, the end, both, or nothing of interest."""

    token: Token | None = None
    finish: Finish | None = None


class Dialect(Protocol):
    """A dialect is a module with these functions; all raise ApiError."""

    def chat_body(self, request: ChatRequest, *, prompt: str, deployment: Deployment) -> dict[str, Any]:
        """Return the JSON body that asks the engine for what the chat request asks for."""
        ...

    def whole_answer(self, payload: bytes) -> WholeAnswer:
        """Read an answer that came in one piece."""
        ...

    def stream_event(self, data: str) -> StreamEvent:
        """Read the data of one server-sent event."""
        ...
