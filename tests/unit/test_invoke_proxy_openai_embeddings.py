from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from unit.invoke_proxy_formats import deployment

from invoke_proxy.dialects.base import Embeddings
from invoke_proxy.errors import ApiError
from invoke_proxy.openai_api.embedding_answer import embedding_answer
from invoke_proxy.openai_api.embedding_request import EmbeddingRequest, parse_embedding_request
from invoke_proxy.openai_api.models import model_list, model_object

VECTORS = Embeddings(vectors=((0.5, -0.25), (1.0, 0.0)), prompt_tokens=7)


def parse(**overrides: Any) -> EmbeddingRequest:
    return parse_embedding_request({"model": "m", "input": "one", **overrides})


def test_one_text_or_several() -> None:
    assert parse().inputs == ("one",)
    assert parse(input=["one", "two"], dimensions=8).inputs == ("one", "two")
    assert parse(dimensions=8, user="u").dimensions == 8
    assert parse(model=None, encoding_format=None).encoding_format == "float"


@pytest.mark.parametrize(
    ("overrides", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1], [2]]}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", True]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"truncate": True}, "truncate"),
    ],
)
def test_wrong_value_names_the_field(overrides: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**overrides)

    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message


def test_only_some_deployments_make_embeddings() -> None:
    parse().check(deployment("embeddings"))
    with pytest.raises(ApiError) as caught:
        parse().check(deployment("chat"))

    assert (caught.value.param, caught.value.code) == ("model", "embeddings_not_supported")


def test_numbers() -> None:
    answer = embedding_answer(parse(input=["one", "two"]), VECTORS)

    assert answer == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 0.0]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_base64_is_of_little_endian_floats() -> None:
    answer = embedding_answer(parse(encoding_format="base64"), VECTORS)

    assert struct.unpack("<2f", base64.b64decode(answer["data"][0]["embedding"])) == (0.5, -0.25)


def test_an_unknown_count_is_left_out() -> None:
    answer = embedding_answer(parse(model=None), Embeddings(vectors=((1.0,),)), model="default")

    assert "usage" not in answer
    assert answer["model"] == "default"


def test_models() -> None:
    expected = {
        "id": "alias",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "modelzone",
        "root": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    }

    assert model_object("alias", deployment()) == expected
    assert model_list([("alias", deployment())]) == {"object": "list", "data": [expected]}
