"""TGI's own client, `text-generation` 0.7.0, against the proxy as shipped, in an environment of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.engines import Said
from tests.gateway.places import PINS, run_script
from tests.gateway.stack import Gateway


@pytest.fixture(scope="module")
def found(running: Gateway) -> dict[str, Any]:
    gateway = running
    gateway.reset()
    gateway.script("gpu").said = Said(tokens=("Good", " day"), reason="stop")
    variables = {
        "MODELZONE_BASE_URL": gateway.url,
        "MODELZONE_API_KEY": gateway.key,
        "MODELZONE_MODEL": "gpu",
        "MODELZONE_TGI_ALIAS": "yes",
    }
    return run_script("text_generation_client", pins=PINS / "text-generation.txt", variables=variables)


def test_generate(found: dict[str, Any]) -> None:
    assert found["generate"] == {
        "text": "Good day",
        "reason": "eos_token",
        "count": 3,
        "texts": ["Good", " day", "</s>"],
        "special": [False, False, True],
        "logprobs": [-0.5, -0.5, -0.5],
    }


@pytest.mark.parametrize("name", ["generate_stream", "asynchronous"])
def test_generate_stream(found: dict[str, Any], name: str) -> None:
    assert found[name] == {
        "texts": ["Good", " day", "</s>"],
        "text": "Good day",
        "reason": "eos_token",
        "count": 3,
    }


def test_chat(found: dict[str, Any]) -> None:
    assert found["chat"]["text"] == "Good day"


def test_an_unknown_model_is_an_error_with_words(found: dict[str, Any]) -> None:
    assert found["unknown_model"]["error"] == "NotFoundError"
    assert "no-such-model" in found["unknown_model"]["words"]
