"""The answer of `POST /v1/embeddings`."""

from __future__ import annotations

import base64
import sys
from array import array
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invoke_proxy.dialects.base import Embeddings

    from .embedding_request import EmbeddingRequest

__all__ = ["embedding_answer"]


def embedding_answer(request: EmbeddingRequest, embeddings: Embeddings, *, model: str | None = None) -> dict[str, Any]:
    """Return OpenAI's list of embeddings; `usage` is left out when the engine does not count tokens.

    `model` is the model's name when the request names none.
    Base64 holds little-endian 32-bit floats, which is what OpenAI's clients decode.
    """
    encode = _base64 if request.encoding_format == "base64" else list
    answer = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(embeddings.vectors)
        ],
        "model": request.model or model or "",
    }
    count = embeddings.prompt_tokens
    return answer if count is None else {**answer, "usage": {"prompt_tokens": count, "total_tokens": count}}


def _base64(vector: tuple[float, ...]) -> str:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")
