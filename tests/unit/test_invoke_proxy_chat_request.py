from __future__ import annotations

import json
import math
from typing import Any

import pytest

from invoke_proxy.chat_request import ChatRequest, parse_chat_request
from invoke_proxy.errors import ApiError

BASE: dict[str, Any] = {"model": "mixtral", "messages": [{"role": "user", "content": "Hi"}]}


def parse(**overrides: Any) -> ChatRequest:
    return parse_chat_request({**BASE, **overrides})


def refused(**overrides: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(**overrides)
    assert caught.value.status == 400
    return caught.value


def test_bare_request_leaves_everything_to_the_engine() -> None:
    request = parse()

    assert request.model == "mixtral"
    assert [(message.role, message.content) for message in request.messages] == [("user", "Hi")]
    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (None, None, None, None)
    assert (request.stream, request.include_usage, request.logprobs, request.stop) == (False, False, False, ())


def test_all_supported_parameters() -> None:
    request = parse(
        max_completion_tokens=7,
        temperature=0.5,
        top_p=1,
        stop=["a", "b"],
        seed=-1,
        frequency_penalty=0.25,
        logprobs=True,
        top_logprobs=3,
        n=1,
        user="someone",
        stream=True,
        stream_options={"include_usage": True},
    )

    assert request.max_tokens == 7
    assert request.max_tokens_param == "max_completion_tokens"
    assert (request.temperature, request.top_p, request.seed, request.frequency_penalty) == (0.5, 1.0, -1, 0.25)
    assert request.stop == ("a", "b")
    assert (request.logprobs, request.top_logprobs) == (True, 3)
    assert (request.stream, request.include_usage) == (True, True)


def test_null_is_absent() -> None:
    assert parse(max_tokens=None, tools=None, stop=None, stream=None, anything=None) == parse()


def test_stop_may_be_one_string() -> None:
    assert parse(stop="END").stop == ("END",)


def test_content_may_be_text_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    assert parse(messages=[{"role": "user", "content": parts}]).messages[0].content == "ab"


def test_developer_is_system() -> None:
    assert parse(messages=[{"role": "developer", "content": "x"}]).messages[0].role == "system"


def test_assistant_message_may_come_back_as_it_was_given() -> None:
    message = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }

    assert parse(messages=[message]).messages[0].content == "x"


@pytest.mark.parametrize(
    ("name", "harmless"),
    [
        ("presence_penalty", 0),
        ("presence_penalty", 0.0),
        ("logit_bias", {}),
        ("tools", []),
        ("tool_choice", "none"),
        ("response_format", {"type": "text"}),
        ("store", False),
        ("modalities", ["text"]),
        ("service_tier", "auto"),
        ("parallel_tool_calls", True),
    ],
)
def test_values_that_ask_for_nothing_are_accepted(name: str, harmless: object) -> None:
    assert parse(**{name: harmless}) == parse()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence_penalty", 0.5),
        ("presence_penalty", False),
        ("logit_bias", {"1": 5}),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("response_format", {"type": "json_object"}),
        ("store", True),
        ("store", 0),
        ("modalities", ["audio"]),
        ("reasoning_effort", "low"),
        ("web_search_options", {}),
        ("prediction", {}),
        ("audio", {}),
    ],
)
def test_what_no_engine_does_is_refused_by_name(name: str, value: object) -> None:
    error = refused(**{name: value})

    assert (error.param, error.code) == (name, "unsupported_parameter")
    assert name in error.message


@pytest.mark.parametrize("name", ["top_k", "repetition_penalty", "max_token", "Temperature", ""])
def test_unknown_parameter_is_refused_by_name(name: str) -> None:
    error = refused(**{name: 1})

    assert (error.param, error.code) == (name, "unknown_parameter")


@pytest.mark.parametrize(
    ("overrides", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"stream": "true"}, "stream"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"stop": [""]}, "stop"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"logprobs": 5}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": True}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"else": 1}}, "stream_options.else"),
    ],
)
def test_wrong_value_names_the_field(overrides: dict[str, Any], param: str) -> None:
    error = refused(**overrides)

    assert error.param == param
    assert param in error.message


def test_huge_numbers_do_not_break_the_check() -> None:
    assert refused(temperature=json.loads("1e999")).param == "temperature"
    assert refused(temperature=10**400).param == "temperature"
    assert refused(max_tokens=-(10**50)).param == "max_tokens"
