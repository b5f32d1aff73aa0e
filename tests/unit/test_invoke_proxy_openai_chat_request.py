from __future__ import annotations

import json
import math
from typing import Any

import pytest
from unit.invoke_proxy_formats import ALL_FEATURES, deployment

from invoke_proxy.errors import ApiError
from invoke_proxy.openai_api.chat_request import ChatRequest, parse_chat_request

HELLO = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}


def parse(**overrides: Any) -> ChatRequest:
    return parse_chat_request({"model": "m", "messages": HELLO, **overrides}, max_messages=4)


def refused(**overrides: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(**overrides)
    assert caught.value.status == 400
    return caught.value


def refused_by(*features: str, request: dict[str, Any], **overrides: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(**request).generation(deployment(*features, **overrides))
    assert caught.value.status == 400
    return caught.value


def test_defaults_leave_everything_to_the_engine() -> None:
    request = parse()
    generation = request.generation(deployment())

    assert (request.stream, request.include_usage, request.continue_until_stop, request.confidence) == (False,) * 4
    assert request.max_continuations == 8
    assert generation.prompt == "[INST] Hi [/INST]"
    assert generation.messages is None
    changed = {name for name in vars(generation) if name not in ("prompt", "stream", "max_tokens_param")}
    assert not any(getattr(generation, name) for name in changed)


def test_model_may_be_left_to_the_gateway() -> None:
    assert parse(model=None).model is None


def test_parameters_arrive_in_the_generation() -> None:
    request = parse(
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        repetition_penalty=1.2,
        frequency_penalty=-1,
        presence_penalty=1,
        logit_bias={"42": -100},
        stop="END",
        seed=-1,
        logprobs=True,
        top_logprobs=3,
        adapters="mine",
        stream=True,
        stream_options={"include_usage": True},
    )
    generation = request.generation(deployment(*ALL_FEATURES - {"chat"}))

    assert request.include_usage
    assert (generation.max_tokens, generation.max_tokens_param) == (9, "max_completion_tokens")
    assert (generation.temperature, generation.top_p, generation.top_k, generation.min_p) == (0.5, 0.9, 40, 0.1)
    assert (generation.repetition_penalty, generation.frequency_penalty, generation.presence_penalty) == (1.2, -1, 1)
    assert (generation.logit_bias, generation.stop, generation.seed) == ({"42": -100.0}, ("END",), -1)
    assert (generation.logprobs, generation.top_logprobs) == (True, 3)
    assert (generation.adapters, generation.stream) == (("mine",), True)


def test_engines_with_chat_get_the_messages() -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Weather?", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "c1", "content": "Rain"},
    ]
    request = parse(messages=messages, tools=[TOOL], tool_choice="auto", response_format=SCHEMA)
    generation = request.generation(deployment(*ALL_FEATURES))

    assert generation.prompt is None
    assert generation.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "Rain", "tool_call_id": "c1"},
    )
    assert (generation.tools, generation.tool_choice, generation.response_format) == ((TOOL,), "auto", SCHEMA)


def test_a_named_tool_is_passed_on() -> None:
    choice = {"type": "function", "function": {"name": "weather"}}

    assert parse(tools=[TOOL], tool_choice=choice).tool_choice == choice


def test_what_client_libraries_add_to_an_answer_is_dropped() -> None:
    """LiteLLM sends our answer back with a field of its own; the name of a tool says nothing that its id does not."""
    turns = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [CALL], "provider_specific_fields": {"refusal": None}},
        {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"},
    ]

    messages = parse(messages=turns).messages

    assert [set(message) for message in messages] == [
        {"role", "content"},
        {"role", "content", "tool_calls"},
        {"role", "content", "tool_call_id"},
    ]
    assert refused(messages=[{**HELLO[0], "provider_specific_fields": {"a": 1}}]).param == (
        "messages[0].provider_specific_fields"
    )


def test_an_assistant_s_refusal_is_its_text() -> None:
    parts = [{"type": "refusal", "refusal": "No."}]
    messages = [*HELLO, {"role": "assistant", "content": parts}, *HELLO]

    assert parse(messages=messages).messages[1] == {"role": "assistant", "content": "No."}
    messages[1] = {"role": "assistant", "refusal": "Never."}
    assert parse(messages=messages).messages[1] == {"role": "assistant", "content": "Never."}


@pytest.mark.parametrize(
    ("name", "harmless"),
    [
        ("frequency_penalty", 0),
        ("presence_penalty", 0.0),
        ("repetition_penalty", 1),
        ("logit_bias", {}),
        ("top_k", -1),
        ("top_k", 0),
        ("min_p", 0),
        ("tools", []),
        ("tool_choice", "none"),
        ("tool_choice", "auto"),
        ("functions", []),
        ("function_call", "none"),
        ("response_format", {"type": "text"}),
        ("store", False),
        ("modalities", ["text"]),
        ("service_tier", "auto"),
        ("reasoning_effort", "none"),
        ("verbosity", "medium"),
        ("n", 1),
        ("user", "u"),
        ("metadata", {"a": "b"}),
        ("safety_identifier", "s"),
        ("prompt_cache_key", "k"),
        ("prompt_cache_retention", "24h"),
        ("prompt_cache_options", {"ttl": "24h"}),
        ("adapters", []),
        ("continue_until_stop", False),
    ],
)
def test_values_that_ask_for_nothing_are_accepted(name: str, harmless: object) -> None:
    assert parse(**{name: harmless}).generation(deployment()) == parse().generation(deployment())


def test_parallel_tool_calls_means_nothing_without_tools() -> None:
    plain = parse(parallel_tool_calls=False).generation(deployment())
    used = parse(parallel_tool_calls=False, tools=[TOOL]).generation(deployment(*ALL_FEATURES))

    assert plain.parallel_tool_calls is None
    assert used.parallel_tool_calls is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{}]),
        ("function_call", {"name": "x"}),
        ("store", True),
        ("store", 0),
        ("modalities", ["audio"]),
        ("reasoning_effort", "low"),
        ("verbosity", "high"),
        ("web_search_options", {}),
        ("prediction", {}),
        ("moderation", {}),
        ("audio", {}),
        ("service_tier", "flex"),
    ],
)
def test_what_no_engine_does_is_refused_by_name(name: str, value: object) -> None:
    error = refused(**{name: value})

    assert (error.param, error.code) == (name, "unsupported_parameter")
    assert name in error.message


@pytest.mark.parametrize(
    ("request_fields", "feature", "param"),
    [
        ({"top_k": 5}, "top_k", "top_k"),
        ({"min_p": 0.5}, "min_p", "min_p"),
        ({"repetition_penalty": 1.1}, "repetition_penalty", "repetition_penalty"),
        ({"frequency_penalty": 1}, "frequency_penalty", "frequency_penalty"),
        ({"frequency_penalty": 1}, "penalties", "frequency_penalty"),
        ({"presence_penalty": 1}, "penalties", "presence_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias", "logit_bias"),
        ({"seed": 0}, "seed", "seed"),
        ({"logprobs": True}, "logprobs", "logprobs"),
        ({"confidence": True}, "logprobs", "confidence"),
        ({"response_format": {"type": "json_object"}}, "json", "response_format"),
        ({"adapters": ["a"]}, "adapters", "adapters"),
    ],
)
def test_features_decide_what_a_deployment_can_do(request_fields: dict[str, Any], feature: str, param: str) -> None:
    error = refused_by(request=request_fields)
    assert (error.param, error.code) == (param, "unsupported_parameter")
    assert error.message.startswith(f"{param} is not supported by 'mixtral': its engine tgi-neuronx 0.0.25")

    parse(**request_fields).generation(deployment(feature))


def test_frequency_alone_is_no_presence_penalty() -> None:
    assert refused_by("frequency_penalty", request={"presence_penalty": 1}).param == "presence_penalty"


def test_top_logprobs_are_a_feature_of_their_own() -> None:
    request = {"logprobs": True, "top_logprobs": 2}

    assert refused_by("logprobs", request=request).param == "top_logprobs"
    assert parse(**request).generation(deployment("logprobs", "top_logprobs")).top_logprobs == 2


@pytest.mark.parametrize(
    ("request_fields", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"messages": [*HELLO, {"role": "tool", "tool_call_id": "c", "content": "x"}]}, "messages[1].role"),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [CALL]}]}, "messages[1].tool_calls"),
    ],
)
def test_tools_need_an_engine_that_knows_them(request_fields: dict[str, Any], param: str) -> None:
    assert refused_by("chat", request=request_fields).param == param


def test_confidence_needs_the_tokens_log_probabilities() -> None:
    generation = parse(confidence=True).generation(deployment("logprobs"))

    assert generation.logprobs


def test_no_chat_without_template_and_feature() -> None:
    error = refused_by(request={}, chat_template="")

    assert (error.param, error.code) == ("model", "chat_not_supported")


def test_more_tokens_than_the_context_are_refused_by_the_client_s_word() -> None:
    error = refused_by(request={"max_completion_tokens": 1024})

    assert error.param == "max_completion_tokens"
    assert "1023" in error.message
    assert parse(max_tokens=1023).generation(deployment()).max_tokens == 1023


def test_a_begun_answer_goes_on() -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Well,"}]
    request = parse(messages=messages, continue_final_message=True)

    assert request.generation(deployment()).prompt == "[INST] Hi [/INST] Well,"
    native = request.generation(deployment("chat", "continue"))
    assert (native.continue_final, native.messages) == (True, tuple(messages))
    # An engine that applies its template but cannot leave it open takes the text.
    assert request.generation(deployment("chat")).prompt == "[INST] Hi [/INST] Well,"


def test_continuing_is_refused_where_it_cannot_be_done() -> None:
    error = refused_by("chat", request={"continue_until_stop": True}, chat_template="")

    assert (error.param, error.code) == ("continue_until_stop", "unsupported_parameter")
    assert parse(continue_until_stop=True).generation(deployment("chat")).prompt == "[INST] Hi [/INST]"
    assert parse(continue_until_stop=True).generation(deployment("chat", "continue")).messages is not None


@pytest.mark.parametrize("other", [{"response_format": {"type": "json_object"}}, {"tools": [TOOL]}])
def test_a_grammar_cannot_be_continued(other: dict[str, Any]) -> None:
    assert refused(continue_until_stop=True, **other).param == "continue_until_stop"


@pytest.mark.parametrize("name", ["max_token", "Temperature", "", "stop_sequences", "x" * 5000])
def test_unknown_parameter_is_refused_by_name(name: str) -> None:
    error = refused(**{name: 1})

    assert (error.param, error.code) == (name, "unknown_parameter")
    assert len(error.message) < 200


IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.mark.parametrize(
    ("overrides", "param"),
    [
        ({"model": 5}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": HELLO * 5}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "bot", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "name": "f", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "refusal"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "messages[0].colour"),
        ({"messages": [{"role": "assistant", "content": "x", "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{**CALL, "id": 1}]}]}, "messages[0].tool_calls[0].id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}]},
            "messages[0].tool_calls[0].type",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "n", "arguments": {}}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
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
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 10**400}, "repetition_penalty"),
        ({"logit_bias": []}, "logit_bias"),
        ({"logit_bias": {"cat": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": "x"}}, "logit_bias.1"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"stop": [""]}, "stop"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": False}, "presence_penalty"),
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"logprobs": 5}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": True}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"else": 1}}, "stream_options.else"),
        ({"tools": {}}, "tools"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [{"function": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 1}}]}, "tools[0].function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": "a", "strict": 1}}]}, "tools[0].function.strict"),
        ({"tools": [{"type": "function", "function": {"name": "a", "else": 1}}]}, "tools[0].function.else"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "weather"}, "tool_choice"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice.function.name",
        ),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
        ),
        ({"max_continuations": 0}, "max_continuations"),
        ({"max_continuations": 33}, "max_continuations"),
        ({"confidence": "yes"}, "confidence"),
        ({"adapters": [""]}, "adapters"),
        ({"adapters": [1]}, "adapters[0]"),
        ({"continue_final_message": True}, "continue_final_message"),
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
    assert refused(seed=10**5000).param == "seed"
