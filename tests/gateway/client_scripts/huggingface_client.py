"""huggingface_hub's client against a gateway: prints one line of JSON with what it got.

Environment: MODELZONE_BASE_URL (without ``/v1``), MODELZONE_API_KEY, MODELZONE_MODEL. Text generation goes to the
gateway's default model, because the client has no word for another.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from huggingface_hub import InferenceClient

BASE = os.environ["MODELZONE_BASE_URL"]
KEY = os.environ["MODELZONE_API_KEY"]
MODEL = os.environ["MODELZONE_MODEL"]
HELLO = [{"role": "user", "content": "Say hello."}]
PROMPT = "Once upon a time"


def main() -> None:
    found: dict[str, Any] = {}
    with InferenceClient(base_url=f"{BASE}/v1", api_key=KEY) as client:
        whole = client.chat_completion(HELLO, model=MODEL, max_tokens=8, temperature=0)
        chunks = list(client.chat_completion(HELLO, model=MODEL, max_tokens=8, temperature=0, stream=True))
        found["whole"] = whole.choices[0].message.content
        found["stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    with InferenceClient(f"{BASE}/generate", token=KEY) as client:
        answer = client.text_generation(PROMPT, details=True, max_new_tokens=8)
        found["generated"] = answer.generated_text
        found["tokens"] = [token.text for token in answer.details.tokens]
        found["count"] = answer.details.generated_tokens
    with InferenceClient(f"{BASE}/generate_stream", token=KEY) as client:
        events = list(client.text_generation(PROMPT, details=True, max_new_tokens=8, stream=True))
        found["streamed"] = events[-1].generated_text
        found["streamed_tokens"] = [event.token.text for event in events]
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
