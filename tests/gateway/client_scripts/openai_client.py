"""OpenAI's client against a gateway: prints one line of JSON with what it got.

Environment: MODELZONE_BASE_URL (without ``/v1``), MODELZONE_API_KEY, MODELZONE_MODEL, and MODELZONE_EMBEDDING_MODEL
where there is one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import openai

BASE = f"{os.environ['MODELZONE_BASE_URL']}/v1"
KEY = os.environ["MODELZONE_API_KEY"]
MODEL = os.environ["MODELZONE_MODEL"]
HELLO: Any = [{"role": "user", "content": "Say hello."}]
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 8, "temperature": 0}


def refusal(client: openai.OpenAI, **changes: Any) -> dict[str, Any]:
    try:
        client.chat.completions.create(**{**ASKED, "messages": HELLO, **changes})
    except openai.APIStatusError as error:
        return {"error": type(error).__name__, "status": error.status_code, "code": error.code, "param": error.param}
    return {"error": None}


async def asynchronous() -> str:
    async with openai.AsyncOpenAI(base_url=BASE, api_key=KEY) as client:
        stream = await client.chat.completions.create(messages=HELLO, stream=True, **ASKED)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


def main() -> None:
    with openai.OpenAI(base_url=BASE, api_key=KEY) as client:
        whole = client.chat.completions.create(messages=HELLO, **ASKED)
        # The answer's message goes back as the client gives it.
        turns = [*HELLO, whole.choices[0].message, {"role": "user", "content": "Again."}]
        again = client.chat.completions.create(messages=turns, **ASKED)
        plain = [*HELLO, whole.choices[0].message.model_dump(), {"role": "user", "content": "Again."}]
        once_more = client.chat.completions.create(messages=plain, **ASKED)
        chunks = list(client.chat.completions.create(messages=HELLO, stream=True, **ASKED))
        completion = client.completions.create(prompt="Once upon a time", **ASKED)
        parts = list(client.completions.create(prompt="Once upon a time", stream=True, **ASKED))
        found: dict[str, Any] = {
            "models": [model.id for model in client.models.list()],
            "whole": whole.choices[0].message.content,
            "second_turn": [answer.choices[0].message.content for answer in (again, once_more)],
            "stream": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
            "chunks": len(chunks),
            "reasons": [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason],
            "asynchronous": asyncio.run(asynchronous()),
            "completion": completion.choices[0].text,
            "completion_stream": "".join(part.choices[0].text for part in parts if part.choices),
            "unknown_model": refusal(client, model="no-such-model"),
            "bad_parameter": refusal(client, temperature=-1),
        }
        if "MODELZONE_EMBEDDING_MODEL" in os.environ:
            vectors = client.embeddings.create(model=os.environ["MODELZONE_EMBEDDING_MODEL"], input=["one", "three"])
            found["embedding"] = [len(item.embedding) for item in vectors.data]
    with openai.OpenAI(base_url=BASE, api_key="mz_wrong", max_retries=0) as stranger:
        found["wrong_key"] = refusal(stranger)
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
