"""Tenants: who is let in, what they see of the models, and that they cannot see past it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from unit.invoke_proxy_world import Gateway, deployment_entry, identity_header, settings_entry, tenant_entry

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/completions", {"prompt": "x"}),
    ("POST", "/v1/embeddings", {"input": "x"}),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/a", None),
    ("POST", "/generate", {"inputs": "x"}),
    ("POST", "/generate_stream", {"inputs": "x"}),
    ("POST", "/tokenize", {"inputs": "x"}),
    ("GET", "/info", None),
    ("POST", "/invocations", {"x": 1}),
]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    gateway.deployments = [deployment_entry("a"), deployment_entry("b", model_id="acme/b"), deployment_entry("c")]
    gateway.gateway = [
        settings_entry(aliases={"x": "b", "y": "a"}),
        tenant_entry("all"),
        tenant_entry("some", models=["a", "x"]),
        tenant_entry("one", models=["c"]),
    ]
    yield gateway
    await gateway.http.aclose()


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-amzn-request-context": ""}, 401),
        ({"x-amzn-request-context": "null"}, 401),
        ({"x-amzn-request-context": "{"}, 401),
        (identity_header(None), 401),
        (identity_header(None, identity={"userArn": "arn:aws:iam::1:role/x"}), 401),
        (identity_header("stranger"), 403),
    ],
)
async def test_nobody_is_let_in_without_a_tenant(
    gateway: Gateway, method: str, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    answer = await gateway.http.request(method, path, json=body, headers=headers)

    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert gateway.runtime.raw == []


async def test_identity_comes_before_the_body(gateway: Gateway) -> None:
    answer = await gateway.post("/v1/chat/completions", content=b"{", headers={"x-amzn-request-context": ""})

    assert answer.status_code == 401


async def test_iam_principals(gateway: Gateway) -> None:
    role = "arn:aws:iam::111122223333:role/team/search"
    gateway.gateway = [settings_entry(access="iam"), tenant_entry("search", principals=[role])]
    session = "arn:aws:sts::111122223333:assumed-role/search/s"

    known = await gateway.get("/v1/models", headers=identity_header(None, identity={"userArn": session}))
    other = await gateway.get("/v1/models", headers=identity_header(None, identity={"userArn": session[:-3] + "2/s"}))
    with_key = await gateway.get("/v1/models", headers=identity_header("search"))

    assert (known.status_code, other.status_code, with_key.status_code) == (200, 403, 401)


async def test_claims(gateway: Gateway) -> None:
    gateway.gateway = [settings_entry(access="cognito", tenant_claim="org"), tenant_entry("search")]
    claims = {"authorizer": {"claims": {"org": "search", "sub": "1"}}}

    known = await gateway.get("/v1/models", headers=identity_header(None, **claims))
    without = await gateway.get("/v1/models", headers=identity_header("search"))

    assert (known.status_code, without.status_code) == (200, 401)


@pytest.mark.parametrize(
    ("tenant", "names"),
    [("all", ["a", "b", "c", "x", "y"]), ("some", ["a", "b", "x", "y"]), ("one", ["c"])],
)
async def test_models_of_a_tenant(gateway: Gateway, tenant: str, names: list[str]) -> None:
    listed = (await gateway.get("/v1/models", headers=identity_header(tenant))).json()

    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == names
    for name in names:
        found = await gateway.get(f"/v1/models/{name}", headers=identity_header(tenant))
        assert found.json() in listed["data"]


async def test_model_by_its_hub_id(gateway: Gateway) -> None:
    found = (await gateway.get("/v1/models/acme/b", headers=identity_header("all"))).json()

    assert (found["id"], found["root"], found["object"]) == ("acme/b", "acme/b", "model")


async def test_models_outside_are_unknown_everywhere(gateway: Gateway) -> None:
    headers = identity_header("one")
    seen = set()
    for name in ("a", "x", "acme/b", "nothing"):
        answers = [
            await gateway.post("/v1/chat/completions", {**CHAT, "model": name}, headers=headers),
            await gateway.post("/v1/completions", {"prompt": "x", "model": name}, headers=headers),
            await gateway.post("/v1/embeddings", {"input": "x", "model": name}, headers=headers),
            await gateway.post("/generate", {"inputs": "x", "model": name}, headers=headers),
            await gateway.post("/generate_stream", {"inputs": "x", "model": name}, headers=headers),
            await gateway.post("/tokenize", {"inputs": "x", "model": name}, headers=headers),
            await gateway.get(f"/v1/models/{name}", headers=headers),
            await gateway.get("/info", params={"model": name}, headers=headers),
            await gateway.post("/invocations", {}, params={"model": name}, headers=headers),
            await gateway.post("/invocations", {}, headers={**headers, "x-modelzone-model": name}),
        ]
        assert [answer.status_code for answer in answers] == [404] * len(answers)
        seen.add(tuple(answer.text.replace(f"'{name}'", "''") for answer in answers))
        assert not any("x-modelzone-deployment" in answer.headers for answer in answers)
    assert len(seen) == 1, "a model of another tenant answers differently from one that does not exist"
    assert gateway.runtime.raw == []


async def test_default_is_one_of_the_tenant_s(gateway: Gateway) -> None:
    several = await gateway.post("/generate", {"inputs": "x"}, headers=identity_header("some"))
    only = await gateway.post("/generate", {"inputs": "x"}, headers=identity_header("one"))
    assert several.status_code == 400
    assert "a, b" in several.json()["error"]
    assert only.headers["x-modelzone-deployment"] == "c"

    gateway.gateway[0] = settings_entry(aliases={"x": "b"}, default_model="x")
    answer = await gateway.post("/generate", {"inputs": "x"}, headers=identity_header("some"))
    assert answer.headers["x-modelzone-deployment"] == "b"


async def test_unreadable_registry_is_a_503(gateway: Gateway) -> None:
    gateway.gateway = [settings_entry(access="nonsense")]

    answer = await gateway.post("/v1/chat/completions", CHAT)

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) <= 120
