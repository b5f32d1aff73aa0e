"""The client of text-generation-inference, `text-generation`, against a gateway: prints one line of JSON.

The client sends everything to its base URL and reads a list, as TGI's own ``POST /`` answers: the gateway's
``/invocations`` passes a TGI container's list on. Its chat goes to ``/v1/chat/completions`` as model ``tgi``; its
streamed chat is left out, because it demands fields that OpenAI does not have and stumbles over ``[DONE]``.

Environment: MODELZONE_BASE_URL, MODELZONE_API_KEY, MODELZONE_MODEL (one that TGI serves), and MODELZONE_TGI_ALIAS
(any value) when the gateway knows a model ``tgi``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")  # the client is of 2024 and uses what pydantic has since deprecated

from text_generation import AsyncClient, Client  # noqa: E402
from text_generation.errors import NotFoundError, ValidationError  # noqa: E402

BASE = os.environ["MODELZONE_BASE_URL"]
HEADERS = {"x-api-key": os.environ["MODELZONE_API_KEY"], "x-modelzone-model": os.environ["MODELZONE_MODEL"]}
PROMPT = "Once upon a time"


def described(details: Any) -> dict[str, Any]:
    return {
        "reason": details.finish_reason,
        "count": details.generated_tokens,
        "texts": [token.text for token in getattr(details, "tokens", [])],
        "special": [token.special for token in getattr(details, "tokens", [])],
        "logprobs": [token.logprob for token in getattr(details, "tokens", [])],
    }


def streamed(events: list[Any]) -> dict[str, Any]:
    return {
        "texts": [event.token.text for event in events],
        "text": events[-1].generated_text,
        "reason": events[-1].details.finish_reason,
        "count": events[-1].details.generated_tokens,
    }


def main() -> None:
    client = Client(f"{BASE}/invocations", headers=HEADERS, timeout=60)
    answer = client.generate(PROMPT, max_new_tokens=8)
    found: dict[str, Any] = {"generate": {"text": answer.generated_text, **described(answer.details)}}
    found["generate_stream"] = streamed(list(client.generate_stream(PROMPT, max_new_tokens=8)))

    async def run() -> dict[str, Any]:
        other = AsyncClient(f"{BASE}/invocations", headers=HEADERS, timeout=60)
        return streamed([event async for event in other.generate_stream(PROMPT, max_new_tokens=8)])

    found["asynchronous"] = asyncio.run(run())
    if "MODELZONE_TGI_ALIAS" in os.environ:
        chat = Client(BASE, headers=HEADERS, timeout=60)
        whole = chat.chat([{"role": "user", "content": "Say hello."}], max_tokens=8)
        found["chat"] = {"text": whole.choices[0].message.content}
    unknown = Client(f"{BASE}/invocations", headers={**HEADERS, "x-modelzone-model": "no-such-model"}, timeout=60)
    try:
        unknown.generate(PROMPT)
    except (NotFoundError, ValidationError) as error:
        found["unknown_model"] = {"error": type(error).__name__, "words": str(error)}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
