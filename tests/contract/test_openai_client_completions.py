"""The official OpenAI client's completions and embeddings against the proxy as shipped."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.gateway.engines import Said
from tests.gateway.places import run_script
from tests.gateway.stack import Gateway
from tests.gateway.world import DEPLOYMENTS, Served

GENERATING = [item for item in DEPLOYMENTS if not item.embeds]
PROMPT = "Once upon"


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("served", GENERATING, ids=lambda item: item.dialect + "-" + item.name)
def test_completion_of_every_dialect(gateway: Gateway, client: openai.OpenAI, served: Served) -> None:
    gateway.script(served.name).said = Said(tokens=(" a", " tïme"), reason="length")

    whole = client.completions.create(model=served.name, prompt=PROMPT, max_tokens=2, temperature=0)
    chunks = list(client.completions.create(model=served.name, prompt=PROMPT, max_tokens=2, stream=True))

    assert whole.choices[0].text == " a tïme"
    assert whole.choices[0].finish_reason == "length"
    assert whole.object == "text_completion"
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == " a tïme"
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert PROMPT in json.dumps(gateway.seen[0].body), "a completion's prompt is not put into a chat template"
    assert "[INST]" not in json.dumps(gateway.seen[0].body)


@pytest.mark.parametrize("name", ["gpu", "vllm"])
def test_legacy_log_probabilities(gateway: Gateway, client: openai.OpenAI, name: str) -> None:
    gateway.script(name).said = Said(tokens=("a", "bc", "d"), logprob=-0.5)

    logprobs = client.completions.create(model=name, prompt=PROMPT, logprobs=1).choices[0].logprobs

    assert logprobs is not None
    assert logprobs.tokens == ["a", "bc", "d"]
    assert logprobs.token_logprobs == [-0.5, -0.5, -0.5]
    offsets = logprobs.text_offset or []
    assert [offset - offsets[0] for offset in offsets] == [0, 1, 3]


@pytest.mark.parametrize(
    ("parameter", "value"), [("n", 2), ("best_of", 3), ("echo", True), ("suffix", "end"), ("prompt", ["a", "b"])]
)
def test_what_no_engine_does_is_refused_by_name(client: openai.OpenAI, parameter: str, value: object) -> None:
    body = {"model": "gpu", "prompt": PROMPT, parameter: value}

    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/completions", body=body, cast_to=object)

    assert caught.value.param == parameter


def test_embeddings_in_both_encodings(gateway: Gateway, client: openai.OpenAI) -> None:
    # The client asks for base64 by itself, and decodes it.
    found = client.embeddings.create(model="vectors", input=["one", "three"])
    single = client.embeddings.create(model="text-embedding-3-small", input="one", encoding_format="float")

    assert [len(item.embedding) for item in found.data] == [4, 4]
    assert found.data[0].embedding == pytest.approx(single.data[0].embedding)
    assert [item.index for item in found.data] == [0, 1]
    assert found.usage.prompt_tokens == 4
    assert gateway.seen[0].body["input"] == ["one", "three"]


def test_embeddings_as_base64_on_the_wire(gateway: Gateway) -> None:
    body = {"model": "vectors", "input": ["one"], "encoding_format": "base64"}
    headers = {"authorization": f"Bearer {gateway.key}"}

    answer = httpx.post(f"{gateway.url}/v1/embeddings", json=body, headers=headers).json()

    raw = base64.b64decode(answer["data"][0]["embedding"])
    assert list(struct.unpack("<4f", raw)) == pytest.approx([0.03, 0.04, 0.05, 0.06])


def test_a_model_that_generates_embeds_nothing(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="gpu", input="one")

    assert caught.value.param == "model"


async def test_the_asynchronous_client_completes_and_embeds(gateway: Gateway) -> None:
    gateway.script("gpu").said = Said(tokens=(" a", " time"))

    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        stream = await client.completions.create(model="gpu", prompt=PROMPT, stream=True)
        parts = [chunk.choices[0].text async for chunk in stream if chunk.choices]
        vectors = await client.embeddings.create(model="vectors", input="one")

    assert "".join(parts) == " a time"
    assert len(vectors.data[0].embedding) == 4


def test_the_script_that_also_runs_against_deployed_gateways(gateway: Gateway) -> None:
    variables = {
        "MODELZONE_BASE_URL": gateway.url,
        "MODELZONE_API_KEY": gateway.key,
        "MODELZONE_MODEL": "gpu",
        "MODELZONE_EMBEDDING_MODEL": "vectors",
    }

    found = run_script("openai_client", pins=None, variables=variables)

    texts = {"whole", "stream", "asynchronous", "completion", "completion_stream"}
    assert {found[name] for name in texts} == {"Good day"}
    assert found["second_turn"] == ["Good day", "Good day"]
    assert found["reasons"] == ["length"]
    assert "gpu" in found["models"]
    assert found["embedding"] == [4, 4]
    assert (found["unknown_model"]["status"], found["unknown_model"]["code"]) == (404, "model_not_found")
    assert (found["bad_parameter"]["status"], found["bad_parameter"]["param"]) == (400, "temperature")
    assert found["wrong_key"]["error"] == "AuthenticationError"
