"""huggingface_hub's InferenceClient against the proxy as shipped: chat, and text generation as TGI's."""

from __future__ import annotations

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import TextGenerationError

from tests.gateway.engines import Said
from tests.gateway.places import run_script
from tests.gateway.scripts import throttled
from tests.gateway.stack import SINGLE_KEY, Gateway

HELLO = [{"role": "user", "content": "Hello"}]


def test_chat(gateway: Gateway) -> None:
    gateway.script("gpu").said = Said(tokens=("Good", " day"))

    with InferenceClient(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
        whole = client.chat_completion(HELLO, model="gpu", max_tokens=4)
        chunks = list(client.chat_completion(HELLO, model="gpu", max_tokens=4, stream=True))

    assert whole.choices[0].message.content == "Good day"
    assert whole.usage.completion_tokens == 2
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Good day"


def test_chat_under_openais_names(gateway: Gateway) -> None:
    with InferenceClient(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
        answer = client.chat.completions.create(model="vllm", messages=HELLO, logprobs=True, top_logprobs=2)

    assert answer.choices[0].message.content == "Good day"
    assert [item.token for item in answer.choices[0].logprobs.content] == ["Good", " day"]


def test_text_generation_with_details(gateway: Gateway) -> None:
    gateway.script("mixtral").said = Said(tokens=("Good", " day"))

    with InferenceClient(f"{gateway.url}/generate", token=gateway.key) as client:
        plain = client.text_generation("Hi", max_new_tokens=2)
        whole = client.text_generation("Hi", max_new_tokens=2, details=True)

    assert plain == "Good day"
    assert (whole.generated_text, whole.details.generated_tokens) == ("Good day", 2)
    assert [token.text for token in whole.details.tokens] == ["Good", " day"]
    assert gateway.seen[0].body["inputs"] == "Hi"


def test_text_generation_as_a_stream(gateway: Gateway) -> None:
    gateway.script("mixtral").said = Said(tokens=("a", "b"))

    with InferenceClient(f"{gateway.url}/generate_stream", token=gateway.key) as client:
        detailed = list(client.text_generation("Hi", stream=True, details=True, max_new_tokens=2))
        plain = list(client.text_generation("Hi", stream=True, max_new_tokens=2))

    assert [item.token.text for item in detailed] == ["a", "b"]
    assert detailed[-1].generated_text == "ab"
    assert detailed[-1].details.finish_reason == "length"
    assert plain == ["a", "b"]


def test_text_generation_of_an_engine_that_is_not_tgi(gateway: Gateway) -> None:
    """The client cannot name the model here; the tenant has one only."""
    gateway.script("vllm").said = Said(tokens=("a", "b"), reason="stop")

    with InferenceClient(f"{gateway.url}/generate", token=SINGLE_KEY) as client:
        whole = client.text_generation("Hi", details=True, max_new_tokens=2)
    with InferenceClient(f"{gateway.url}/generate_stream", token=SINGLE_KEY) as client:
        events = list(client.text_generation("Hi", stream=True, details=True, max_new_tokens=2))

    assert whole.generated_text == "ab"
    assert [token.logprob for token in whole.details.tokens if not token.special] == [-0.5, -0.5]
    assert "".join(event.token.text for event in events if not event.token.special) == "ab"
    assert events[-1].generated_text == "ab"
    assert {seen.endpoint for seen in gateway.seen} == {"endpoint-vllm"}


def test_errors_are_the_clients_own(gateway: Gateway) -> None:
    gateway.script("mixtral").failures = [throttled()]

    client = InferenceClient(f"{gateway.url}/generate", token=gateway.key)
    with client, pytest.raises(TextGenerationError, match="Too many requests"):
        client.text_generation("Hi", max_new_tokens=2)


async def test_the_asynchronous_client(gateway: Gateway) -> None:
    gateway.script("gpu").said = Said(tokens=("Good", " day"))

    async with AsyncInferenceClient(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
        stream = await client.chat_completion(HELLO, model="gpu", stream=True)
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]

    assert "".join(texts) == "Good day"


def test_the_script_that_also_runs_against_deployed_gateways(gateway: Gateway) -> None:
    gateway.script("mixtral").said = Said(tokens=("Once", " more"))
    variables = {"MODELZONE_BASE_URL": gateway.url, "MODELZONE_API_KEY": gateway.key, "MODELZONE_MODEL": "vllm"}

    found = run_script("huggingface_client", pins=None, variables=variables)

    assert found["whole"] == found["stream"] == "Good day"
    assert found["generated"] == found["streamed"] == "Once more"
    assert found["tokens"] == found["streamed_tokens"] == ["Once", " more"]
    assert found["count"] == 2
