"""LiteLLM against the proxy as shipped: its `openai/` provider, in an environment of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.engines import Said
from tests.gateway.places import PINS, run_script
from tests.gateway.stack import Gateway

ARGUMENTS = '{"city": "Köln"}'


@pytest.fixture(scope="module")
def found(running: Gateway) -> dict[str, Any]:
    """What LiteLLM got; it takes seconds to import, so it runs once."""
    gateway = running
    gateway.reset()
    gateway.script("gpu").said = Said(tokens=("Good", " day"), prompt_tokens=6, reason="stop")
    gateway.script("vllm").said = Said(tokens=(), tool_calls=[("weather", ARGUMENTS)])
    variables = {
        "MODELZONE_BASE_URL": gateway.url,
        "MODELZONE_API_KEY": gateway.key,
        "MODELZONE_MODEL": "gpu",
        "MODELZONE_TOOLS_MODEL": "vllm",
        "MODELZONE_EMBEDDING_MODEL": "vectors",
    }
    return run_script("litellm_client", pins=PINS / "litellm.txt", variables=variables)


def test_completion(found: dict[str, Any]) -> None:
    assert found["whole"]["text"] == "Good day"
    assert found["whole"]["reason"] == "stop"
    assert found["whole"]["usage"]["prompt_tokens"] == 6


def test_a_second_turn_sends_the_first_answer_back(found: dict[str, Any]) -> None:
    assert "provider_specific_fields" in found["second_turn"]["fields"]
    assert found["second_turn"]["texts"] == ["Good day", "Good day"]


def test_streaming_both_ways(found: dict[str, Any]) -> None:
    for name in ("stream", "asynchronous"):
        assert found[name]["texts"] == ["Good", " day"]
        assert found[name]["reasons"] == ["stop"]


def test_text_completion(found: dict[str, Any]) -> None:
    assert found["text_completion"] == {"text": "Good day", "reason": "stop"}
    assert "".join(found["text_stream"]["texts"]) == "Good day"


def test_tools(found: dict[str, Any]) -> None:
    assert found["tools"]["calls"] == [["weather", ARGUMENTS]]
    assert found["tools"]["streamed"] == [["weather", ARGUMENTS]]
    assert found["tools"]["reason"] == found["tools"]["told"] == "tool_calls"


def test_embedding(found: dict[str, Any]) -> None:
    assert found["embedding"]["lengths"] == [4, 4]


def test_errors_are_litellms_own(found: dict[str, Any]) -> None:
    assert found["unknown_model"]["error"] == "NotFoundError"
    assert found["unknown_model"]["status"] == 404
    assert found["wrong_key"]["error"] == "AuthenticationError"


def test_everything_that_it_was_sent_is_openais(found: dict[str, Any], running: Gateway) -> None:
    assert found
    assert running.check() == 13  # a wrong key does not get that far
