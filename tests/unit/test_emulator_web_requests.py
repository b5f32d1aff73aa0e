"""What the Lambda Web Adapter's stand-in makes of events and answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from modelzone.local.emulator.functions import is_web_function
from modelzone.local.emulator.web_adapter import _http_request, buffered_response, streams

CONFIG: dict[str, Any] = {"FunctionName": "proxy", "FunctionArn": "arn", "Timeout": 5, "MemorySize": 512}


def with_variables(**variables: str) -> dict[str, Any]:
    return {**CONFIG, "Environment": {"Variables": variables}}


def event(**changes: Any) -> dict[str, Any]:
    return {"httpMethod": "POST", "path": "/v1/x", "requestContext": {"stage": "api"}, "body": None, **changes}


def test_only_the_adapters_wrapper_makes_a_web_function() -> None:
    assert is_web_function(with_variables(AWS_LAMBDA_EXEC_WRAPPER="/opt/bootstrap"))
    assert not is_web_function(with_variables(AWS_LAMBDA_EXEC_WRAPPER="/opt/other"))
    assert not is_web_function(CONFIG)


def test_the_adapter_buffers_unless_told_to_stream() -> None:
    assert streams(with_variables(AWS_LWA_INVOKE_MODE="response_stream"))
    assert not streams(with_variables(AWS_LWA_INVOKE_MODE="buffered"))
    assert not streams(CONFIG)


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({"path": "/v1/models/a b"}, "/v1/models/a%20b"),
        ({"path": "/v1/models/mistralai/Mixtral"}, "/v1/models/mistralai/Mixtral"),
        ({"multiValueQueryStringParameters": {"a": ["1", "2"], "b": ["x y"]}}, "/v1/x?a=1&a=2&b=x+y"),
        ({"queryStringParameters": {"a": "1"}}, "/v1/x?a=1"),
    ],
)
def test_the_target_is_the_path_without_the_stage_and_the_query(changes: dict[str, Any], target: str) -> None:
    assert _http_request(CONFIG, event(**changes), "id").target == target


def test_a_base_path_is_removed() -> None:
    config = with_variables(AWS_LWA_REMOVE_BASE_PATH="/v1")
    assert _http_request(config, event(), "id").target == "/x"


def test_headers_are_kept_and_the_contexts_cannot_be_forged() -> None:
    given = {"Accept": ["a", "b"], "X-Amzn-Request-Context": ['{"forged":true}']}
    made = _http_request(CONFIG, event(multiValueHeaders=given), "the-request")
    assert [value for name, value in made.headers if name == "Accept"] == ["a", "b"]
    contexts = [json.loads(value) for name, value in made.headers if name.lower() == "x-amzn-request-context"]
    assert contexts == [{"stage": "api"}]
    (lambda_context,) = [json.loads(value) for name, value in made.headers if name == "x-amzn-lambda-context"]
    assert (lambda_context["request_id"], lambda_context["env_config"]["memory"]) == ("the-request", 512)


@pytest.mark.parametrize(
    "body", [{"body": "text ü"}, {"body": base64.b64encode("text ü".encode()).decode(), "isBase64Encoded": True}]
)
def test_the_body_arrives_decoded(body: dict[str, Any]) -> None:
    assert _http_request(CONFIG, event(**body), "id").body == "text ü".encode()


def test_an_event_that_is_no_request_is_posted_to_the_path_for_events() -> None:
    made = _http_request(CONFIG, {"Records": []}, "id")
    assert (made.method, made.target, json.loads(made.body)) == ("POST", "/events", {"Records": []})


def test_a_text_answer_stays_text_and_bytes_are_encoded() -> None:
    text = buffered_response(
        200, [("content-type", "application/json"), ("set-cookie", "a"), ("set-cookie", "b")], b"{}"
    )
    assert (text["body"], text["isBase64Encoded"]) == ("{}", False)
    assert text["multiValueHeaders"]["set-cookie"] == ["a", "b"]
    raw = buffered_response(200, [("content-type", "image/png")], b"\x89PNG")
    assert (base64.b64decode(raw["body"]), raw["isBase64Encoded"]) == (b"\x89PNG", True)
