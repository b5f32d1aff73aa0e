"""What is served is what /openapi.json says: generated requests, right and wrong ones, against every engine's format.

No failure of ours, no answer that the document does not declare, no answer that takes more than a moment. The number of
requests is ``MODELZONE_SCHEMATHESIS_CASES`` (400 by default, some 15 seconds); before a release let it be 10000, which
takes some six minutes:

    MODELZONE_SCHEMATHESIS_CASES=10000 python -m pytest tests/contract/test_openapi_schemathesis.py
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks
from schemathesis.generation import GenerationMode
from unit.invoke_proxy_world import (
    DIALECT_ENGINES,
    FAKE_ENGINES,
    Gateway,
    deployment_entry,
    events_of,
    identity_header,
    settings_entry,
    tenant_entry,
)

from invoke_proxy.errors import ApiError
from invoke_proxy.openapi import document
from modelzone.engines import ENGINES

load_all_checks()
CHECKS = schemathesis.checks.CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "response_headers_conformance",
    ]
)
CASES = int(os.environ.get("MODELZONE_SCHEMATHESIS_CASES", "400"))
SECONDS = 5.0
INTERNAL_ERROR = 500
SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = {operation.label: operation for operation in (result.ok() for result in SCHEMA.get_all_operations())}
# Routes that answer the same whatever the engine are asked with one.
ANY_ENGINE = ("GET", "/tokenize")
TARGETS = [
    (label, dialect)
    for label in OPERATIONS
    for dialect in (["tgi-generate"] if any(word in label for word in ANY_ENGINE) else FAKE_ENGINES)
]
# Routes without a body and parameters have one request; the others share the rest, right ones and wrong ones.
VARIED = sum(label.startswith("POST") or "{" in label or "/info" in label for label, _ in TARGETS)
EXAMPLES = math.ceil(CASES / (2 * VARIED))
FAILURES = {
    "refuses": ApiError(status=422, message="too long", code="model_refused", error_type="validation"),
    "busy": ApiError(status=429, message="busy", code="model_overloaded", retry_after=1),
    "starts": ApiError(status=503, message="starting", code="no_capacity", retry_after=30),
    "late": ApiError(status=504, message="late", code="timeout"),
}
MOODS = ["well"] * 6 + ["garbage", "broken", *FAILURES]
EXTRAS = {"embeddings", "json", "logprobs", "top_logprobs", "tools", "adapters"}


class Server:
    """One gateway, whose engine is changed from target to target, and an event loop for it."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.gateway = self.runner.run(self._gateway())
        self.statuses: Counter[int] = Counter()
        self.dialect = ""

    async def _gateway(self) -> Gateway:
        gateway = Gateway()
        gateway.gateway = [settings_entry(aliases={"gpt-4o-mini": "mixtral"}), tenant_entry()]
        return gateway

    def use(self, dialect: str) -> None:
        engine, version = DIALECT_ENGINES[dialect]
        self.gateway.deployments = [
            deployment_entry(dialect=dialect, tokenizer="s3://bucket/tokenizer.json", cache_ttl_seconds="60"),
            # Whatever this engine's format can carry is let through to it.
            deployment_entry("open", dialect=dialect, features=",".join(_features(engine, version) | EXTRAS)),
        ]
        self.gateway.gateway[0] = settings_entry(aliases={"gpt-4o-mini": "mixtral"}, default_model="mixtral")
        self.dialect = dialect

    def mood(self, mood: str) -> None:
        """Let the engine answer, refuse, fail, or write what nobody understands."""
        engine = FAKE_ENGINES[self.dialect]
        self.gateway.runtime.errors = [FAILURES[mood]] if mood in FAILURES else []
        broken = ApiError(status=502, message="x", code="stream_failed")
        self.gateway.runtime.engine = {
            "garbage": lambda _: [b"<html>\n\n"],
            "broken": lambda body: [*engine(body)[:1], broken],
        }.get(mood, engine)
        written = "application/jsonlines" if self.dialect == "lmi-jsonlines" else "application/json"
        self.gateway.runtime.kind = "text/html" if mood == "garbage" else written
        self.gateway.cache.kept.clear()

    def send(self, **request: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with asyncio.timeout(SECONDS):
                return await self.gateway.http.request(**request)

        return self.runner.run(send())

    def close(self) -> None:
        self.runner.run(self.gateway.http.aclose())
        self.runner.close()


def _features(engine: str, version: str) -> set[str]:
    return set(ENGINES[engine].versions[version].features)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()
    total = server.statuses.total()
    sys.stdout.write(f"\n{total} requests, by status: {dict(sorted(server.statuses.items()))}\n")
    # Requests that are all refused would prove nothing.
    assert total < CASES // 2 or server.statuses[200] > total // 5


@cache
def validator(path: str) -> Any:
    """The schema of what is in a stream's events, which is JSON in a text."""
    whole = document()
    content = whole["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
    data = content["schema"]["properties"]["data"]
    data = data["anyOf"][0] if "anyOf" in data else data
    return jsonschema_rs.validator_for({**data["contentSchema"], "components": whole["components"]})


@contextmanager
def told(request: Any, response: httpx.Response) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"{request}\n{response.status_code} {response.text[:2000]}")
        raise


def check(server: Server, case: Any, *, named: str | None, mood: str) -> None:
    server.mood(mood)
    if (
        named is not None
        and isinstance(case.body, dict)
        and "model" in case.operation.body[0].definition["schema"].get("properties", {"model": None})
    ):
        case.body = {**case.body, "model": named}
    if named is not None and case.operation.path in {"/invocations", "/info"}:
        case.query = {**(case.query or {}), "model": named}
        case.headers = {name: value for name, value in (case.headers or {}).items() if name != "x-modelzone-model"}
    arguments = case.as_transport_kwargs(base_url="http://gateway")
    request = {
        "method": arguments["method"],
        "url": arguments["url"],
        "params": arguments.get("params") or None,
        "headers": {**_headers(arguments.get("headers")), **identity_header()},
    }
    if "json" in arguments:
        # As schemathesis would send it: generated texts may have what only an escape can carry.
        request["content"] = json.dumps(arguments["json"]).encode()
        request["headers"]["content-type"] = "application/json"
    elif arguments.get("data") is not None:
        data = arguments["data"]
        request["content"] = data if isinstance(data, bytes) else str(data).encode("utf-8", "replace")
    response = server.send(**request)
    server.statuses[response.status_code] += 1
    with told(request, response):
        assert response.status_code != INTERNAL_ERROR
        assert mood != "well" or response.status_code < INTERNAL_ERROR
        case.validate_response(response, checks=CHECKS)
        content_type = response.headers.get("content-type", "")
        if content_type.startswith("text/event-stream") and case.operation.path != "/invocations":
            rules = validator(case.operation.path)
            for event in events_of(response.content):
                if event != "[DONE]":
                    rules.validate(event)


def _headers(headers: Any) -> dict[str, str]:
    return {
        name: value
        for name, value in dict(headers or {}).items()
        if isinstance(value, str) and value.isascii() and value.isprintable()
    }


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("label", "dialect"), TARGETS)
def test_what_is_served_is_what_is_said(server: Server, label: str, dialect: str, mode: GenerationMode) -> None:
    server.use(dialect)
    operation = OPERATIONS[label]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
        pytest.skip("nothing can be wrong in a request without a body and parameters")

    @given(
        case=operation.as_strategy(generation_mode=mode),
        named=st.sampled_from(["mixtral", "open", None]),
        mood=st.sampled_from(MOODS),
    )
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any, named: str | None, mood: str) -> None:
        check(server, case, named=named, mood=mood)

    run()
