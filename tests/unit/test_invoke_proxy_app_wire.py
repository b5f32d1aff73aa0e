"""The app as the launcher starts it, over AWS's wire formats: SSM, SageMaker, DynamoDB, S3."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from unit.invoke_proxy_world import deployment_entry, events_of, identity_header, settings_entry, tenant_entry, tgi
from unit.upstream_server import STREAM_HEAD, Asked, Peer, Upstream, answer, chunk, event, serving

from invoke_proxy import app as app_module

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


def tokenizer() -> bytes:
    """A tokenizer of three words that knows all others as one."""
    made = Tokenizer(models.WordLevel({"Hi": 0, "there": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made.to_str().encode()


class Aws:
    """Enough of four services."""

    def __init__(self) -> None:
        self.table: dict[str, Any] = {}
        self.refusals: list[dict[str, Any]] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            asked = await peer.request()
            if asked.target.endswith("/invocations-response-stream"):
                await peer.send(STREAM_HEAD)
                for part in tgi()({"stream": True}):
                    assert isinstance(part, bytes)
                    await peer.send(chunk(event(part)))
                await peer.send(b"0\r\n\r\n")
            else:
                await peer.send(self._answer(asked))

    def _answer(self, asked: Asked) -> bytes:
        if asked.target.endswith("/invocations"):
            if self.refusals:
                body = json.dumps(self.refusals.pop(0)).encode()
                return answer(body, status=400, headers={"x-amzn-errortype": "ValidationError"})
            (part,) = tgi()({})
            assert isinstance(part, bytes)
            return answer(part, headers={"content-type": "application/json"})
        if asked.method == "GET":
            return answer(tokenizer())
        return answer(json.dumps(self._document(asked)).encode())

    def _document(self, asked: Asked) -> Any:
        document = json.loads(asked.body)
        operation = asked.headers["x-amz-target"].rsplit(".", 1)[-1]
        if operation == "GetParametersByPath":
            deployment = deployment_entry(cache_ttl_seconds="60", tokenizer="s3://bucket/tokenizer.json")
            entries = [deployment] if document["Path"] == "/m/deployments" else [settings_entry(), tenant_entry()]
            return {"Parameters": [{"Name": entry.name, "Value": entry.value} for entry in entries]}
        if operation == "PutItem":
            self.table[document["Item"]["cache_key"]["S"]] = document["Item"]
            return {}
        found = self.table.get(document["Key"]["cache_key"]["S"])
        return {} if found is None else {"Item": found}


@pytest.fixture
def aws() -> Aws:
    return Aws()


@pytest.fixture
async def upstream(aws: Aws) -> AsyncIterator[Upstream]:
    async with serving(aws) as upstream:
        yield upstream


@pytest.fixture
async def http(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    variables = {
        **upstream.environ(),
        "MODELZONE_REGISTRY_PATH": "/m/deployments",
        "MODELZONE_GATEWAY_PATH": "/m/gateway",
        "MODELZONE_CACHE_TABLE": "answers",
        "MODELZONE_ENVIRONMENT": "test",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = app_module._create_default_app()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=identity_header()) as client:
        yield client
    lifespan = app.router.lifespan_context(app)
    monkeypatch.setattr("invoke_proxy.logs.configure", lambda: None)
    await lifespan.__aenter__()
    await lifespan.__aexit__(None, None, None)
    await upstream.all_gone()


async def test_whole_answer_with_usage_and_cache(http: httpx.AsyncClient, upstream: Upstream, aws: Aws) -> None:
    miss = await http.post("/v1/chat/completions", json=CHAT)
    hit = await http.post("/v1/chat/completions", json={**CHAT, "stream": True})

    assert miss.status_code == 200, miss.text
    assert miss.json()["choices"][0]["message"]["content"] == " one two three."
    # [INST] Hi [/INST]
    assert miss.json()["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert (miss.headers["x-modelzone-cache"], hit.headers["x-modelzone-cache"]) == ("miss", "hit")
    assert events_of(hit.content)[-1] == "[DONE]"
    assert len(aws.table) == 1
    assert b"three" not in base64.b64decode(next(iter(aws.table.values()))["answer"]["B"])
    sent = [asked for asked in upstream.asked if asked.target.endswith("/invocations")]
    assert [asked.target for asked in sent] == ["/endpoints/endpoint-mixtral/invocations"]
    assert sent[0].headers["x-amzn-sagemaker-inference-id"] == "request-1"
    assert sent[0].headers["authorization"].startswith("AWS4-HMAC-SHA256 ")


async def test_stream(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/chat/completions", json={**CHAT, "stream": True, "temperature": 0.5})

    texts = [choice["delta"].get("content") for item in events_of(answer.content)[:-1] for choice in item["choices"]]
    assert "".join(text or "" for text in texts) == " one two three."


async def test_connections_are_used_again(http: httpx.AsyncClient, upstream: Upstream) -> None:
    body = {**CHAT, "stream": True, "temperature": 0.5}
    await http.post("/v1/chat/completions", json=body)
    before = upstream.connections
    for _ in range(5):
        await http.post("/v1/chat/completions", json=body)

    assert upstream.connections == before, "a stream that was read to its end keeps its connection"


async def test_endpoint_without_capacity(http: httpx.AsyncClient, aws: Aws) -> None:
    aws.refusals = [{"message": "Inference component has no capacity to process this request."}]

    answer = await http.post("/v1/chat/completions", json={**CHAT, "temperature": 1})

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_capacity")
    assert int(answer.headers["retry-after"]) <= 120


async def test_many_at_once(http: httpx.AsyncClient, upstream: Upstream) -> None:
    bodies = [{**CHAT, "temperature": 1, "stream": bool(number % 2)} for number in range(20)]
    answers = await asyncio.gather(*(http.post("/v1/chat/completions", json=body) for body in bodies))

    assert {answer.status_code for answer in answers} == {200}
    reads = [asked for asked in upstream.asked if "GetParametersByPath" in asked.headers.get("x-amz-target", "")]
    assert len(reads) == 2, "the registry is read once for all"
