from __future__ import annotations

from typing import Any

import pytest
from unit.invoke_proxy_formats import ALL_FEATURES, deployment

from invoke_proxy.errors import ApiError, tgi_error
from invoke_proxy.tgi_api.generate_request import GenerateRequest, parse_generate_request

SCHEMA = {"type": "object", "properties": {"a": {}}}


def parse(parameters: dict[str, Any] | None = None, *, stream: bool = False, **overrides: Any) -> GenerateRequest:
    return parse_generate_request({"inputs": "Once", "parameters": parameters, **overrides}, stream=stream)


def refused(parameters: dict[str, Any] | None = None, *, stream: bool = False, **overrides: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(parameters, stream=stream, **overrides)
    assert (caught.value.status, caught.value.error_type) == (400, "validation")
    return caught.value


def refused_by(*features: str, parameters: dict[str, Any], **overrides: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(parameters).generation(deployment(*features, **overrides))
    assert (caught.value.status, caught.value.error_type) == (400, "validation")
    return caught.value


def test_parameters_arrive_in_the_generation() -> None:
    request = parse(
        {
            "max_new_tokens": 20,
            "temperature": 1.5,
            "top_p": 0.9,
            "top_k": 10,
            "typical_p": 0.95,
            "repetition_penalty": 1.03,
            "frequency_penalty": 0.1,
            "seed": 2**64 - 1,
            "stop": ["END"],
            "truncate": 100,
            "watermark": True,
            "top_n_tokens": 5,
            "details": True,
            "return_full_text": True,
            "adapter_id": "mine",
            "grammar": {"type": "json", "value": SCHEMA},
        },
        model="mixtral",
    )
    generation = request.generation(deployment(*ALL_FEATURES))

    assert (request.model, request.details, request.return_full_text) == ("mixtral", True, True)
    assert (generation.prompt, generation.max_tokens, generation.seed) == ("Once", 20, 2**64 - 1)
    assert (generation.temperature, generation.top_p, generation.top_k) == (1.5, 0.9, 10)
    assert (generation.repetition_penalty, generation.frequency_penalty) == (1.03, 0.1)
    assert (generation.stop, generation.adapters) == (("END",), ("mine",))
    assert (generation.logprobs, generation.top_logprobs) == (True, 5)
    assert generation.extra == {"typical_p": 0.95, "watermark": True, "truncate": 100}
    assert generation.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "grammar", "schema": SCHEMA},
    }


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        (None, None),
        ({}, 0.0),
        ({"do_sample": True}, None),
        ({"temperature": 0.5}, 0.5),
        ({"temperature": 1.0}, 0.0),
        ({"top_k": 5}, None),
        ({"top_p": 0.5}, None),
        ({"typical_p": 0.5}, None),
        ({"do_sample": False}, 0.0),
        ({"seed": 3}, 0.0),
    ],
)
def test_greedy_unless_something_asks_for_sampling(parameters: Any, temperature: float | None) -> None:
    assert parse(parameters).generation(deployment(*ALL_FEATURES)).temperature == temperature


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, 100),
        ({}, 100),
        ({"max_new_tokens": None}, None),
        ({"max_new_tokens": 7}, 7),
        ({"continue_until_stop": True}, None),
    ],
)
def test_the_limit_of_an_answer_is_tgi_s(parameters: Any, expected: int | None) -> None:
    assert parse(parameters).generation(deployment()).max_tokens == expected


def test_log_probabilities_come_where_they_are_known_and_shown() -> None:
    known, unknown = deployment("logprobs"), deployment()

    assert parse({"details": True}).generation(known).logprobs
    assert parse(stream=True).generation(known).logprobs
    assert not parse().generation(known).logprobs
    assert not parse({"details": True}).generation(unknown).logprobs


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json_object", "value": '{"type": "object", "properties": {"a": {}}}'},
        {"type": "json_schema", "value": {"schema": SCHEMA, "name": "grammar", "strict": True}},
    ],
)
def test_grammars_of_json_are_one(grammar: dict[str, Any]) -> None:
    expected = parse({"grammar": {"type": "json", "value": SCHEMA}}).response_format

    assert parse({"grammar": grammar}).response_format == expected


def test_tgi_s_own_parameters_are_for_its_engines() -> None:
    own = {
        "typical_p": 0.5,
        "watermark": True,
        "truncate": 5,
        "best_of": 2,
        "grammar": {"type": "regex", "value": "a+"},
    }
    for name, value in own.items():
        parameters = {name: value, "do_sample": True}
        extra = parse(parameters).generation(deployment("json")).extra
        assert extra == {name: value}
        error = refused_by("json", parameters=parameters, dialect="vllm-openai")
        assert (error.param, error.code) == (f"parameters.{name}", "unsupported_parameter")


@pytest.mark.parametrize(
    ("parameters", "feature", "param"),
    [
        ({"top_k": 5}, "top_k", "top_k"),
        ({"seed": 5}, "seed", "seed"),
        ({"repetition_penalty": 1.2}, "repetition_penalty", "repetition_penalty"),
        ({"frequency_penalty": 1}, "frequency_penalty", "frequency_penalty"),
        ({"adapter_id": "a"}, "adapters", "adapter_id"),
        ({"top_n_tokens": 2}, "top_logprobs", "top_n_tokens"),
        ({"grammar": {"type": "json", "value": SCHEMA}}, "json", "grammar"),
        ({"grammar": {"type": "regex", "value": "a"}}, "json", "grammar"),
        ({"confidence": True}, "logprobs", "confidence"),
    ],
)
def test_features_decide_what_a_deployment_can_do(parameters: dict[str, Any], feature: str, param: str) -> None:
    error = refused_by(parameters=parameters)
    assert (error.param, error.code) == (f"parameters.{param}", "unsupported_parameter")
    assert f"parameters.{param} is not supported by 'mixtral'" in tgi_error(error)["error"]

    parse(parameters).generation(deployment(feature))


@pytest.mark.parametrize("dialect", ["tgi-generate", "vllm-openai"])
def test_tokens_of_the_prompt_are_only_in_tgi_s_own_answers(dialect: str) -> None:
    assert parse({"decoder_input_details": True}).details
    error = refused_by(*ALL_FEATURES, parameters={"decoder_input_details": True}, dialect=dialect)

    assert error.param == "parameters.decoder_input_details"


@pytest.mark.parametrize(
    "harmless",
    [
        {"best_of": 1},
        {"watermark": False},
        {"details": None},
        {"repetition_penalty": 1.0},
        {"frequency_penalty": 0},
        {"stop": []},
        {"grammar": None},
        {"adapter_id": None},
        {"confidence": False, "max_continuations": 8},
        {"top_n_tokens": 0},
    ],
)
def test_values_that_ask_for_nothing_are_accepted(harmless: dict[str, Any]) -> None:
    assert parse(harmless) == parse({})


def test_lorax_s_own_parameters_arrive() -> None:
    merged = {"ids": ["a", "b"], "weights": [1.0, 0.5], "merge_strategy": "ties", "density": 0.5}
    own = {"adapter_source": "hub", "api_token": "hf_secret", "ignore_eos_token": True, "merged_adapters": merged}
    asked = parse({**own, "presence_penalty": 0.5, "response_format": {"type": "json_schema", "schema": SCHEMA}})
    generation = asked.generation(deployment(*ALL_FEATURES, dialect="lorax"))

    assert generation.extra == own
    assert generation.presence_penalty == 0.5
    assert generation.response_format is not None
    assert generation.response_format["json_schema"]["schema"] == SCHEMA
    # A request may be shown where errors are looked for; a token of the hub is a secret.
    assert "hf_secret" not in repr(asked)
    for dialect in ("tgi-generate", "vllm-openai"):
        for name, value in own.items():
            error = refused_by(*ALL_FEATURES, parameters={name: value}, dialect=dialect)
            assert error.param == f"parameters.{name}"


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"grammar": {"type": "json", "value": SCHEMA}}, "grammar"),
    ],
)
def test_a_format_is_refused_by_the_name_that_the_client_used(parameters: dict[str, Any], param: str) -> None:
    assert refused_by(parameters=parameters).param == f"parameters.{param}"


def test_lorax_s_formats() -> None:
    def formatted(**value: Any) -> Any:
        return parse({"response_format": value}).response_format

    assert formatted(type="text") is None
    assert formatted(type="json_object") == {"type": "json_object"}
    assert formatted(type="json_object", schema=SCHEMA)["json_schema"]["schema"] == SCHEMA


MERGED: dict[str, Any] = {"ids": ["a"], "weights": [1]}


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"merged_adapters": []}, "merged_adapters"),
        ({"merged_adapters": {"ids": [], "weights": []}}, "merged_adapters"),
        ({"merged_adapters": {"ids": ["a"], "weights": [1, 2]}}, "merged_adapters"),
        ({"merged_adapters": {"ids": ["a"]}}, "merged_adapters.weights"),
        ({"merged_adapters": {"ids": [1], "weights": [1]}}, "merged_adapters.ids[0]"),
        ({"merged_adapters": {"ids": ["a"], "weights": ["x"]}}, "merged_adapters.weights[0].weight"),
        ({"merged_adapters": {"ids": ["a"], "weights": [None]}}, "merged_adapters.weights"),
        ({"merged_adapters": {**MERGED, "merge_strategy": "sum"}}, "merged_adapters.merge_strategy"),
        ({"merged_adapters": {**MERGED, "density": 2}}, "merged_adapters.density"),
        ({"merged_adapters": {**MERGED, "x": 2}}, "merged_adapters.x"),
        ({"merged_adapters": MERGED, "adapter_id": "b"}, "merged_adapters"),
        ({"api_token": 1}, "api_token"),
        ({"adapter_source": 1}, "adapter_source"),
        ({"ignore_eos_token": "yes"}, "ignore_eos_token"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"response_format": {"type": "regex"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.schema"),
        ({"response_format": {"type": "json_object", "schema": "x"}}, "response_format.schema"),
        ({"response_format": {"type": "text"}, "grammar": {"type": "regex", "value": "x"}}, "response_format"),
        ({"confidence": True, "best_of": 2, "do_sample": True}, "confidence"),
    ],
)
def test_wrong_values_of_lorax_s_parameters_name_the_field(parameters: dict[str, Any], param: str) -> None:
    assert refused(parameters).param == f"parameters.{param}"


def test_the_route_says_whether_it_streams() -> None:
    assert parse({}, stream=True).stream
    assert not parse_generate_request({"inputs": "x", "stream": True}, stream=False).stream


def test_whether_tgi_s_own_answer_would_do() -> None:
    assert not parse({"details": True, "best_of": 2, "do_sample": True}).extended
    assert parse({"confidence": True}).extended
    assert parse({"continue_until_stop": True}).extended
    assert parse({"best_of": 2, "do_sample": True}).best_of == 2


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ([], "parameters"),
        ({"max_new_tokens": 0}, "parameters.max_new_tokens"),
        ({"temperature": 0}, "parameters.temperature"),
        ({"temperature": "hot"}, "parameters.temperature"),
        ({"top_p": 1.0}, "parameters.top_p"),
        ({"top_p": 0}, "parameters.top_p"),
        ({"typical_p": 1}, "parameters.typical_p"),
        ({"top_k": 0}, "parameters.top_k"),
        ({"repetition_penalty": 0}, "parameters.repetition_penalty"),
        ({"frequency_penalty": 2.5}, "parameters.frequency_penalty"),
        ({"seed": -1}, "parameters.seed"),
        ({"seed": 2**64}, "parameters.seed"),
        ({"truncate": 0}, "parameters.truncate"),
        ({"stop": "END"}, "parameters.stop"),
        ({"stop": ["a"] * 5}, "parameters.stop"),
        ({"stop": [1]}, "parameters.stop[0]"),
        ({"stop": [""]}, "parameters.stop"),
        ({"top_n_tokens": 6}, "parameters.top_n_tokens"),
        ({"best_of": 0}, "parameters.best_of"),
        ({"best_of": 3, "do_sample": True}, "parameters.best_of"),
        ({"best_of": 2}, "parameters.best_of"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "parameters.best_of"),
        ({"best_of": 2, "do_sample": True, "continue_until_stop": True}, "parameters.continue_until_stop"),
        ({"details": 1}, "parameters.details"),
        ({"grammar": "a+"}, "parameters.grammar"),
        ({"grammar": {"value": "a"}}, "parameters.grammar.type"),
        ({"grammar": {"type": "lark", "value": "a"}}, "parameters.grammar.type"),
        ({"grammar": {"type": "regex"}}, "parameters.grammar.value"),
        ({"grammar": {"type": "json", "value": "not json"}}, "parameters.grammar.value"),
        ({"grammar": {"type": "json_schema", "value": {}}}, "parameters.grammar.value.schema"),
        (
            {"grammar": {"type": "regex", "value": "a"}, "continue_until_stop": True},
            "parameters.continue_until_stop",
        ),
        ({"truncate": 5, "continue_until_stop": True}, "parameters.continue_until_stop"),
        ({"max_tokens": 5}, "parameters.max_tokens"),
        ({"max_continuations": 0}, "parameters.max_continuations"),
        ({"confidence": 1}, "parameters.confidence"),
    ],
)
def test_wrong_value_names_the_field(parameters: Any, param: str) -> None:
    error = refused(parameters)

    assert error.param == param
    assert param in error.message


@pytest.mark.parametrize(
    ("overrides", "param"),
    [
        ({"inputs": None}, "inputs"),
        ({"inputs": ""}, "inputs"),
        ({"inputs": ["a"]}, "inputs"),
        ({"inputs": "\ud800"}, "inputs"),
        ({"model": 1}, "model"),
        ({"stream": 1}, "stream"),
        ({"options": {}}, "options"),
    ],
)
def test_wrong_body_names_the_field(overrides: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_generate_request({"inputs": "Once", **overrides}, stream=False)

    assert (caught.value.status, caught.value.param) == (400, param)


def test_streams_have_limits_of_their_own() -> None:
    assert refused({"best_of": 2, "do_sample": True}, stream=True).param == "parameters.best_of"
    assert refused({"decoder_input_details": True}, stream=True).param == "parameters.decoder_input_details"


def test_more_tokens_than_the_context_are_refused() -> None:
    assert refused_by(parameters={"max_new_tokens": 1024}).param == "parameters.max_new_tokens"


def test_too_many_requests_have_tgis_word_for_it() -> None:
    throttled = ApiError(status=429, message="later", code="rate_limit_exceeded", retry_after=1)
    assert tgi_error(throttled) == {"error": "later", "error_type": "overloaded"}
    named = ApiError(status=429, message="later", code="model_overloaded", error_type="the_engines")
    assert tgi_error(named)["error_type"] == "the_engines"
