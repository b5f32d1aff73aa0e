"""Request bodies: what is read, and how a body of the wrong form is refused."""

from __future__ import annotations

from typing import Any

import pytest

from modelzone.local.model_server.bodies import ChatBody, GenerateBody, InvalidBody, parse_json


def refusal(content: object, reader: type[GenerateBody] | type[ChatBody] = GenerateBody) -> str:
    with pytest.raises(InvalidBody) as caught:
        reader.read(content)
    assert caught.value.status == 422
    return str(caught.value).removeprefix("Failed to deserialize the JSON body into the target type: ")


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tgi", "messages": [{"role": "user", "content": "Hi"}], **more}


def test_without_parameters_the_router_samples_and_with_empty_ones_it_does_not() -> None:
    assert GenerateBody.read({"inputs": "Hi"}).parameters.do_sample
    assert not GenerateBody.read({"inputs": "Hi", "parameters": {}}).parameters.do_sample


def test_the_default_of_max_new_tokens_is_100_and_null_means_as_many_as_fit() -> None:
    assert GenerateBody.read({"inputs": "Hi", "parameters": {}}).parameters.max_new_tokens == 100
    assert GenerateBody.read({"inputs": "Hi", "parameters": {"max_new_tokens": None}}).parameters.max_new_tokens is None


def test_unknown_keys_are_ignored() -> None:
    assert GenerateBody.read({"inputs": "Hi", "more": 1, "parameters": {"other": 2}}).inputs == "Hi"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "missing field `inputs`"),
        ([], "invalid type: sequence, expected struct GenerateRequest"),
        ({"inputs": 3}, "inputs: invalid type: integer `3`, expected a string"),
        ({"inputs": "", "parameters": None}, "parameters: invalid type: null, expected struct GenerateParameters"),
        ({"inputs": "", "stream": "yes"}, 'stream: invalid type: string "yes", expected a boolean'),
        (
            {"inputs": "", "parameters": {"max_new_tokens": "9"}},
            'parameters.max_new_tokens: invalid type: string "9", expected u32',
        ),
        (
            {"inputs": "", "parameters": {"max_new_tokens": -1}},
            "parameters.max_new_tokens: invalid value: integer `-1`, expected u32",
        ),
        (
            {"inputs": "", "parameters": {"top_k": 1.5}},
            "parameters.top_k: invalid type: floating point `1.5`, expected i32",
        ),
        (
            {"inputs": "", "parameters": {"temperature": True}},
            "parameters.temperature: invalid type: boolean `true`, expected f32",
        ),
        ({"inputs": "", "parameters": {"top_p": 1e39}}, "parameters.top_p: number out of range"),
        ({"inputs": "", "parameters": {"details": None}}, "parameters.details: invalid type: null, expected a boolean"),
        (
            {"inputs": "", "parameters": {"stop": ["a", 1]}},
            "parameters.stop[1]: invalid type: integer `1`, expected a string",
        ),
        (
            {"inputs": "", "parameters": {"grammar": {"type": "xml", "value": ""}}},
            "parameters.grammar.type: unknown variant `xml`, expected one of `json`, `json_object`, `regex`",
        ),
    ],
)
def test_a_wrong_generate_body_is_described(content: object, problem: str) -> None:
    assert refusal(content) == problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"messages": []}, "missing field `model`"),
        ({"model": "tgi"}, "missing field `messages`"),
        (chat(messages=[{"role": "user"}]), "messages[0]: missing field `content`"),
        (
            chat(messages=[{"role": "user", "content": None}]),
            "messages[0].content: data did not match any variant of untagged enum MessageContent",
        ),
        (chat(stop="x"), 'stop: invalid type: string "x", expected a sequence'),
        (chat(max_tokens=1.0), "max_tokens: invalid type: floating point `1.0`, expected u32"),
    ],
)
def test_a_wrong_chat_body_is_described(content: object, problem: str) -> None:
    assert refusal(content, ChatBody) == problem


def test_text_parts_of_a_message_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = ChatBody.read(chat(messages=[{"role": "user", "content": parts}]))
    assert body.messages[0].content == "ab"


def test_null_stands_for_absent_chat_parameters() -> None:
    body = ChatBody.read(chat(max_tokens=None, stop=None, temperature=None, logprobs=None, tools=None))
    assert (body.max_tokens, body.stop, body.temperature, body.logprobs, body.wants_tools) == (
        100,
        (),
        None,
        False,
        False,
    )


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "application/x+json"])
def test_json_types_are_accepted(content_type: str) -> None:
    assert parse_json(content_type=content_type, raw=b'{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("content_type", "raw", "status"),
    [
        ("text/plain", b"{}", 415),
        ("", b"{}", 415),
        ("application/json", b"{", 400),
        ("application/json", b'{"a": NaN}', 400),
        ("application/json", b"\xff", 400),
        ("application/json", rb'{"a": "\uD800"}', 400),
        ("application/json", b" " * (2 * 1024 * 1024 + 1), 413),
    ],
)
def test_what_is_no_json_is_refused(content_type: str, raw: bytes, status: int) -> None:
    with pytest.raises(InvalidBody) as caught:
        parse_json(content_type=content_type, raw=raw)
    assert caught.value.status == status
