"""A client of the gateway for Python programs: plain calls, no packages besides the standard library.

OpenAI's client works too; this one adds what that does not know: confidence, answers that go on until they are
complete, TGI's routes, tokens with their log probabilities in one shape for all of them.
"""

from __future__ import annotations

from modelzone.client.answers import (
    Alternative,
    Answer,
    Model,
    Piece,
    Sentence,
    TextToken,
    Token,
    ToolCall,
    Usage,
)
from modelzone.client.client import Client
from modelzone.client.conversation import Conversation, Turn
from modelzone.client.errors import ApiError
from modelzone.client.stream import AnswerStream

__all__ = [
    "Alternative",
    "Answer",
    "AnswerStream",
    "ApiError",
    "Client",
    "Conversation",
    "Model",
    "Piece",
    "Sentence",
    "TextToken",
    "Token",
    "ToolCall",
    "Turn",
    "Usage",
]
