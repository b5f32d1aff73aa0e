"""Requests and answers in the format of text-generation-inference 2.1.1."""

from __future__ import annotations

import json
from typing import Any

import pytest

from invoke_proxy.chat_answer import Finish
from invoke_proxy.chat_request import parse_chat_request
from invoke_proxy.dialects import tgi_generate
from invoke_proxy.errors import ApiError
from invoke_proxy.registry import Deployment

NEURON = Deployment(
    deployment="mixtral",
    model_id="acme/model",
    endpoint_name="endpoint",
    engine="tgi-neuronx",
    engine_version="0.0.25",
    dialect="tgi-generate",
    chat_template="mistral-instruct",
    max_input_tokens=1023,
    max_total_tokens=1024,
    registered=0,
)
GPU = Deployment(**{**vars(NEURON), "engine": "tgi"})


def body(deployment: Deployment = NEURON, **overrides: Any) -> dict[str, Any]:
    request = parse_chat_request({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **overrides})
    return tgi_generate.chat_body(request, prompt="[INST] Hi [/INST]", deployment=deployment)


def test_without_a_limit_the_engine_fills_the_context() -> None:
    parameters = body()["parameters"]

    # null and absent differ: absent is 100 tokens.
    assert "max_new_tokens" in parameters
    assert parameters["max_new_tokens"] is None


def test_the_prompt_is_never_given_back() -> None:
    assert body()["parameters"]["return_full_text"] is False


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"do_sample": True}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0, "top_p": 0.5}, {"do_sample": False}),
        ({"top_p": 0}, {"do_sample": False}),
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5}),
        ({"temperature": 1, "top_p": 1}, {"do_sample": True, "temperature": 1.0}),
        ({"top_p": 0.6}, {"do_sample": True, "top_p": 0.6}),
    ],
)
def test_sampling(asked: dict[str, Any], expected: dict[str, Any]) -> None:
    parameters = body(**asked)["parameters"]

    assert {name: parameters[name] for name in ("do_sample", "temperature", "top_p") if name in parameters} == expected


def test_other_parameters() -> None:
    parameters = body(GPU, stop="END", seed=-1, frequency_penalty=0.5, logprobs=True, top_logprobs=2)["parameters"]

    assert parameters["stop"] == ["END"]
    assert parameters["seed"] == 2**64 - 1
    assert parameters["frequency_penalty"] == 0.5
    assert parameters["top_n_tokens"] == 2


def test_prompt_tokens_are_asked_for_only_where_they_come() -> None:
    assert "decoder_input_details" in body(GPU)["parameters"]
    assert "decoder_input_details" not in body(GPU, stream=True)["parameters"]
    assert "decoder_input_details" not in body(NEURON)["parameters"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_limit_beyond_the_deployment_names_both_numbers(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        body(**{name: 1024})

    assert (caught.value.status, caught.value.param) == (400, name)
    assert "1024" in caught.value.message
    assert "1023" in caught.value.message
    assert body(**{name: 1023})["parameters"]["max_new_tokens"] == 1023


@pytest.mark.parametrize(("name", "value"), [("frequency_penalty", 0.5), ("logprobs", True)])
def test_what_neuron_pretends_to_do_is_refused(name: str, value: object) -> None:
    with pytest.raises(ApiError) as caught:
        body(NEURON, **{name: value})

    assert (caught.value.status, caught.value.param, caught.value.code) == (400, name, "unsupported_parameter")
    assert "tgi-neuronx" in caught.value.message
    assert body(GPU, **{name: value})


def test_more_alternatives_than_tgi_gives_are_refused() -> None:
    with pytest.raises(ApiError) as caught:
        body(GPU, logprobs=True, top_logprobs=6)

    assert caught.value.param == "top_logprobs"
    assert "5" in caught.value.message


def test_generate_keeps_the_client_s_parameters() -> None:
    given = {"max_new_tokens": 5, "top_k": 3, "return_full_text": True}

    sent = tgi_generate.generate_body({"inputs": "Hi", "parameters": given, "model": "m", "stream": True}, stream=False)

    assert sent == {"inputs": "Hi", "parameters": given, "stream": False}


def test_generate_means_the_same_as_on_its_own_route() -> None:
    """`/invocations` gives the prompt back by default and `/generate` does not; without parameters TGI samples."""
    assert tgi_generate.generate_body({"inputs": "Hi"}, stream=True) == {
        "inputs": "Hi",
        "parameters": {"do_sample": True, "return_full_text": False},
        "stream": True,
    }
    assert tgi_generate.generate_body({"inputs": "Hi", "parameters": {}}, stream=True)["parameters"] == {
        "return_full_text": False
    }


@pytest.mark.parametrize(
    ("given", "param"),
    [({}, "inputs"), ({"inputs": 5}, "inputs"), ({"inputs": "x", "parameters": []}, "parameters")],
)
def test_generate_names_wrong_types(given: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        tgi_generate.generate_body(given, stream=False)

    assert (caught.value.status, caught.value.param) == (400, param)


def token(text: str, **more: Any) -> dict[str, Any]:
    return {"id": 1, "text": text, "logprob": -0.25, "special": False, **more}


def whole(**details: Any) -> bytes:
    tokens = [token("Hi"), token("</s>", special=True)]
    answer = {
        "generated_text": "Hi</s>",
        "details": {"finish_reason": "eos_token", "generated_tokens": 2, "prefill": [], "tokens": tokens, **details},
    }
    return json.dumps([answer]).encode()


def test_whole_answer_without_the_end_token() -> None:
    answer = tgi_generate.whole_answer(whole())

    assert answer.text == "Hi"
    assert [(item.text, item.logprob, item.special) for item in answer.tokens] == [
        ("Hi", -0.25, False),
        ("</s>", -0.25, True),
    ]
    assert answer.finish == Finish(reason="stop", completion_tokens=2, prompt_tokens=None)


def test_end_token_that_the_engine_already_left_out() -> None:
    raw = whole().replace(b'"Hi</s>"', b'"Hi"')

    assert tgi_generate.whole_answer(raw).text == "Hi"


def test_prompt_tokens_are_counted_when_they_come() -> None:
    prefill = [{"id": 1, "text": "x", "logprob": None}] * 3

    assert tgi_generate.whole_answer(whole(prefill=prefill)).finish.prompt_tokens == 3


def test_alternatives() -> None:
    top = [[token("Hi"), token("Ho", logprob=-3)]]

    answer = tgi_generate.whole_answer(whole(top_tokens=top))

    assert answer.tokens[0].alternatives == (("Hi", -0.25), ("Ho", -3))
    assert answer.tokens[1].alternatives == ()


@pytest.mark.parametrize(
    "payload",
    [b"", b"<html>", b"null", b"[]", b"[{}]", b"[1]", b'{"generated_text": 1}', b'[{"generated_text": "x"}]'],
)
def test_other_formats_are_a_bad_gateway(payload: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        tgi_generate.whole_answer(payload)

    assert (caught.value.status, caught.value.code) == (502, "engine_answer_not_understood")


def test_generate_answer_is_the_object_in_the_list() -> None:
    assert tgi_generate.generate_answer(whole())["generated_text"] == "Hi</s>"
    assert tgi_generate.generate_answer(b'{"generated_text": "x"}') == {"generated_text": "x"}


def event(**values: Any) -> str:
    return json.dumps({"index": 1, "token": token("Hi"), "generated_text": None, "details": None, **values})


def test_event_in_the_middle() -> None:
    found = tgi_generate.stream_event(event())

    assert found.token is not None
    assert found.token.text == "Hi"
    assert found.finish is None


@pytest.mark.parametrize(
    ("reason", "expected"), [("length", "length"), ("eos_token", "stop"), ("stop_sequence", "stop")]
)
def test_last_event(reason: str, expected: str) -> None:
    details = {"finish_reason": reason, "generated_tokens": 9, "seed": None}

    found = tgi_generate.stream_event(event(generated_text="", details=details))

    assert found.token is not None
    assert found.finish == Finish(reason=expected, completion_tokens=9)


def test_done_of_later_versions_is_nothing() -> None:
    assert tgi_generate.stream_event("[DONE]") == tgi_generate.StreamEvent()


@pytest.mark.parametrize(
    ("kind", "status"),
    [("validation", 422), ("overloaded", 429), ("generation", 424), ("incomplete_generation", 502), (None, 502)],
)
def test_error_event(kind: str | None, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        tgi_generate.stream_event(json.dumps({"error": "words", "error_type": kind}))

    assert caught.value.status == status
    assert caught.value.message == "words"
    assert caught.value.retry_after == (1 if status == 429 else None)


@pytest.mark.parametrize("data", ["", "x", "1", "[]", "{}", '{"token": {}}', '{"token": 1}'])
def test_events_of_other_formats_are_a_bad_gateway(data: str) -> None:
    with pytest.raises(ApiError) as caught:
        tgi_generate.stream_event(data)

    assert caught.value.code == "engine_answer_not_understood"
