"""The document is complete, holds together, and its examples are true."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from starlette.routing import Route
from unit.invoke_proxy_world import FAKE_ENGINES, Gateway, deployment_entry, events_of, settings_entry, tenant_entry

from invoke_proxy.errors import ApiError
from invoke_proxy.openai_api.chat_request import parse_chat_request
from invoke_proxy.openai_api.completion_request import parse_completion_request
from invoke_proxy.openai_api.embedding_request import parse_embedding_request
from invoke_proxy.openapi import document, document_bytes
from invoke_proxy.tgi_api.generate_request import parse_generate_request

PACKAGE = Path(__file__).resolve().parents[2] / "lambda" / "invoke_proxy"
DOCUMENT = document()
SCHEMAS = DOCUMENT["components"]["schemas"]
GENERATING = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/generate",
    "/generate_stream",
    "/invocations",
]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    yield gateway
    await gateway.http.aclose()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name == "$ref":
                yield item
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def validator(schema: Any) -> Any:
    return jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})


def test_every_route_is_described_and_no_other(gateway: Gateway) -> None:
    served = {
        (route.path.replace(":path", ""), method.lower())
        for route in gateway.app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }

    assert served == {(path, method) for path, method, _ in operations()}


def test_references_lead_somewhere_and_nothing_is_left_over() -> None:
    used = set(references(DOCUMENT))
    assert all(resolve(reference) for reference in used)
    components = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "headers", "responses")
        for name in DOCUMENT["components"][kind]
    }
    assert components - used == set()


def test_schemas_are_json_schemas() -> None:
    for name, schema in SCHEMAS.items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        assert validator({"$ref": f"#/components/schemas/{name}"}) is not None


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]

    assert len(names) == len(set(names))
    assert all(operation["summary"] and operation["tags"] for _, _, operation in operations())


def test_document_is_served_as_it_is() -> None:
    assert json.loads(document_bytes()) == DOCUMENT


def test_every_status_in_the_code_is_declared() -> None:
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if "openapi" not in path.parts
    )
    raised = set(re.findall(r'status"?[=:] ?(\d{3})\b', sources)) - {"200"}
    assert {"400", "401", "403", "404", "413", "429", "500", "502", "503", "504"} <= raised

    for path in GENERATING:
        declared = DOCUMENT["paths"][path]["post"]["responses"]
        assert raised <= set(declared), path


@pytest.mark.parametrize(
    ("path", "method", "operation"), [pytest.param(*item, id=f"{item[1]} {item[0]}") for item in operations()]
)
def test_examples_are_what_their_schemas_say(path: str, method: str, operation: dict[str, Any]) -> None:
    del path, method
    bodies = [operation.get("requestBody", {})]
    responses = [resolve(item["$ref"]) if "$ref" in item else item for item in operation["responses"].values()]
    checked = 0
    for holder in (*bodies, *responses):
        for kind, content in holder.get("content", {}).items():
            for example in content.get("examples", {}).values():
                values = events_of(example["value"].encode()) if kind == "text/event-stream" else [example["value"]]
                schema = content["schema"]
                if kind == "text/event-stream":
                    data = schema["properties"]["data"]
                    schema = data.get("anyOf", [data])[0]["contentSchema"]
                for value in values:
                    if value != "[DONE]":
                        validator(schema).validate(value)
                        checked += 1
    assert checked or operation["tags"] == ["Gateway"]


@pytest.mark.parametrize("path", [path for path in GENERATING if path != "/invocations"])
async def test_examples_of_requests_are_answered(gateway: Gateway, path: str) -> None:
    embeddings = path == "/v1/embeddings"
    dialect = "vllm-openai" if embeddings else "tgi-generate"
    name = "embedder" if embeddings else "mixtral"
    overrides = {"features": "embeddings"} if embeddings else {}
    gateway.deployments = [deployment_entry(name, dialect=dialect, **overrides)]
    gateway.gateway = [settings_entry(), tenant_entry()]
    gateway.runtime.engine = FAKE_ENGINES[dialect]
    examples = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]

    for example in examples.values():
        answer = await gateway.post(path, example["value"])
        assert answer.status_code == 200, answer.text


def _parse_generate(body: dict[str, Any]) -> Any:
    return parse_generate_request(body, stream=False)


PARSERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ChatCompletionRequest": (
        lambda body: parse_chat_request(body, max_messages=9),
        {"messages": [{"role": "user", "content": "x"}]},
    ),
    "CompletionRequest": (parse_completion_request, {"prompt": "x"}),
    "EmbeddingRequest": (parse_embedding_request, {"input": "x"}),
    "GenerateRequest": (_parse_generate, {"inputs": "x"}),
}


def known(parse: Any, body: dict[str, Any]) -> bool:
    """Whether the parser knows all fields, whatever it says to their values."""
    try:
        parse(body)
    except ApiError as error:
        return error.code != "unknown_parameter"
    return True


@pytest.mark.parametrize("name", PARSERS)
def test_fields_of_requests_are_those_that_are_known(name: str) -> None:
    parse, body = PARSERS[name]
    properties = SCHEMAS[name]["properties"]

    assert SCHEMAS[name]["additionalProperties"] is False
    assert not known(parse, {**body, "nonsense": 1})
    for field in properties:
        assert known(parse, {**body, field: body.get(field, 1)}), field
    # Every field that is taken somewhere in the parsers' sources is in the document.
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "openai_api").glob("*.py"))
    sources += (PACKAGE / "tgi_api" / "generate_request.py").read_text(encoding="utf-8")
    candidates = set(re.findall(r'"([a-z][a-z_]+)"', sources))
    assert {field for field in candidates - set(properties) if known(parse, {**body, field: 1})} == set()


def test_parameters_of_tgi_are_those_that_are_known() -> None:
    # The properties of a schema that may be null.
    properties = SCHEMAS["GenerateRequest"]["properties"]["parameters"]["properties"]
    source = (PACKAGE / "tgi_api" / "generate_request.py").read_text(encoding="utf-8")
    candidates = set(re.findall(r'"([a-z][a-z_]+)"', source)) | set(properties)

    accepted = {name for name in candidates if known(_parse_generate, {"inputs": "x", "parameters": {name: 1}})}

    assert accepted == set(properties)


def test_null_counts_as_absent() -> None:
    for name, (parse, body) in PARSERS.items():
        required = SCHEMAS[name]["required"]
        nothing = {field: None for field in SCHEMAS[name]["properties"] if field not in required}
        validator(SCHEMAS[name]).validate({**body, **nothing})
        parse({**body, **nothing})
