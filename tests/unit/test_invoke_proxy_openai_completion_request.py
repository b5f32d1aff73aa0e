from __future__ import annotations

from typing import Any

import pytest
from unit.invoke_proxy_formats import ALL_FEATURES, deployment

from invoke_proxy.errors import ApiError
from invoke_proxy.openai_api.completion_request import CompletionRequest, parse_completion_request


def parse(**overrides: Any) -> CompletionRequest:
    return parse_completion_request({"model": "m", "prompt": "Once", **overrides})


def refused(**overrides: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(**overrides)
    assert caught.value.status == 400
    return caught.value


def test_a_prompt_is_passed_on_as_it_is() -> None:
    generation = parse(prompt=[" Once [INST]"]).generation(deployment("chat", chat_template=""))

    assert (generation.prompt, generation.messages) == (" Once [INST]", None)


def test_without_a_limit_answers_are_short_as_openai_s() -> None:
    assert parse().generation(deployment()).max_tokens == 16
    assert parse(max_tokens=5).generation(deployment()).max_tokens == 5
    assert parse(continue_until_stop=True).generation(deployment()).max_tokens is None


@pytest.mark.parametrize(("logprobs", "expected"), [(None, (False, 0)), (0, (True, 0)), (5, (True, 5))])
def test_logprobs_are_a_number(logprobs: int | None, expected: tuple[bool, int]) -> None:
    generation = parse(logprobs=logprobs).generation(deployment("logprobs", "top_logprobs"))

    assert (generation.logprobs, generation.top_logprobs) == expected


def test_likelier_tokens_need_their_feature() -> None:
    assert parse(logprobs=0).generation(deployment("logprobs")).logprobs
    for features, logprobs in (((), 0), (("logprobs",), 1)):
        with pytest.raises(ApiError) as caught:
            parse(logprobs=logprobs).generation(deployment(*features))
        assert (caught.value.param, caught.value.code) == ("logprobs", "unsupported_parameter")


@pytest.mark.parametrize("feature", ["seed", "logprobs"])
def test_features_are_looked_at(feature: str) -> None:
    request = parse(seed=1) if feature == "seed" else parse(confidence=True)
    request.generation(deployment(feature))

    with pytest.raises(ApiError) as caught:
        request.generation(deployment(*ALL_FEATURES - {feature}))
    assert caught.value.param == ("seed" if feature == "seed" else "confidence")


@pytest.mark.parametrize(
    ("name", "harmless"),
    [("echo", False), ("suffix", ""), ("best_of", 1), ("best_of", 0), ("n", 1), ("user", "u"), ("logit_bias", {})],
)
def test_values_that_ask_for_nothing_are_accepted(name: str, harmless: object) -> None:
    assert parse(**{name: harmless}) == parse()


@pytest.mark.parametrize(
    ("overrides", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": "\udc00"}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2}, "n"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"messages": []}, "messages"),
        ({"stream_options": {}}, "stream_options"),
        ({"continue_until_stop": True, "response_format": {"type": "json_object"}}, "continue_until_stop"),
    ],
)
def test_wrong_value_names_the_field(overrides: dict[str, Any], param: str) -> None:
    error = refused(**overrides)

    assert error.param == param
    assert param in error.message


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ApiError) as caught:
        parse(max_tokens=1024).generation(deployment())

    assert caught.value.param == "max_tokens"
