"""Nothing is held back: what the engine has sent is with the client before the engine sends more."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from invoke_proxy.chat_answer import ChatAnswer
from invoke_proxy.chat_request import parse_chat_request
from invoke_proxy.dialects import DIALECTS
from invoke_proxy.logs import RequestLog
from invoke_proxy.sagemaker import EndpointStream
from invoke_proxy.streams import chat_events, first_event, parsed_events, tgi_events

WORDS = [" one", " two", " three", " four", " five", " six"]
# A stop sequence may begin at the end of a token, so one of them may wait for the next.
MAY_WAIT = 1


def event(number: int) -> bytes:
    last = number == len(WORDS) - 1
    data = {
        "index": number + 1,
        "token": {"id": number, "text": WORDS[number], "logprob": -0.5, "special": False},
        "generated_text": "".join(WORDS) if last else None,
        "details": {"finish_reason": "length", "generated_tokens": len(WORDS), "seed": None} if last else None,
    }
    return f"data:{json.dumps(data)}\n\n".encode()


class Engine:
    """Gives an event when asked for one, and counts."""

    def __init__(self) -> None:
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number in range(len(WORDS)):
            self.sent += 1
            yield event(number)

    @property
    def stream(self) -> EndpointStream:
        return cast("EndpointStream", self)


@pytest.fixture
def log() -> RequestLog:
    return RequestLog(request_id="r", route="/v1/chat/completions")


async def test_chat_chunks_go_out_one_by_one(log: RequestLog) -> None:
    engine, dialect = Engine(), DIALECTS["tgi-generate"]
    request = parse_chat_request({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True})
    events = parsed_events(engine.stream)
    first = await first_event(events, dialect)
    answer = ChatAnswer(request=request, fingerprint="tgi-1")
    seen: list[tuple[str, int]] = []
    async for line in chat_events(first, events, dialect=dialect, answer=answer, log=log):
        data = line.decode().removeprefix("data: ").strip()
        chunk: Any = {} if data == "[DONE]" else json.loads(data)
        texts = (choice["delta"].get("content") for choice in chunk.get("choices", []))
        seen.extend((text, engine.sent) for text in texts if text)
    assert [text for text, _ in seen] == WORDS
    assert all(sent <= number + MAY_WAIT for number, (_, sent) in enumerate(seen, start=1))


async def test_tgi_bytes_go_out_one_by_one(log: RequestLog) -> None:
    engine = Engine()
    seen = [(piece, engine.sent) async for piece in tgi_events(engine.stream, log=log)]
    assert seen == [(event(number), number + 1) for number in range(len(WORDS))]
