"""One streamed chat request, as any HTTP client would send it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from modelzone.errors import ModelzoneError

__all__ = ["ChatResult", "stream_chat"]

_TIMEOUT_S = 120


@dataclass(frozen=True, kw_only=True)
class ChatResult:
    """What came back: the text, how many pieces it came in, and seconds to the first and to the last of them."""

    text: str
    pieces: int
    first_s: float
    total_s: float
    finish_reason: str | None


def stream_chat(*, base_url: str, api_key: str, model: str, prompt: str, on_text: Callable[[str], None]) -> ChatResult:
    """POST ``/chat/completions`` with ``stream`` and hand each piece over as it arrives.

    Raises
    ------
    ModelzoneError
        The API refuses, or the stream ends with an error; the API's own message is in the text.
    """
    url = urlsplit(base_url)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True})
    started = time.monotonic()
    connection = http.client.HTTPConnection(url.netloc, timeout=_TIMEOUT_S)
    try:
        connection.request(
            "POST",
            f"{url.path}/chat/completions",
            body,
            {"content-type": "application/json", "x-api-key": api_key, "accept": "text/event-stream"},
        )
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise ModelzoneError(f"the API answered {answer.status}: {answer.read().decode(errors='replace')[:2000]}")
        text, pieces, first_s, reason, ended = "", 0, 0.0, None, False
        for raw in answer:
            line = raw.decode().strip()
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                ended = True
                break
            event = json.loads(data)
            if "error" in event:
                raise ModelzoneError(f"the stream broke off: {event['error']}")
            for choice in event.get("choices", []):
                reason = choice.get("finish_reason") or reason
                piece = choice["delta"].get("content")
                if piece:
                    first_s = first_s or time.monotonic() - started
                    text, pieces = text + piece, pieces + 1
                    on_text(piece)
        if not ended:
            raise ModelzoneError("the stream ended without [DONE]")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ModelzoneError(f"the request to {base_url} failed: {error}") from None
    finally:
        connection.close()
    return ChatResult(
        text=text, pieces=pieces, first_s=first_s, total_s=time.monotonic() - started, finish_reason=reason
    )
