"""What is special about text-generation-inference: its raw routes, and its server on Neuron."""

from __future__ import annotations

import json
from typing import Any

import pytest
from unit.dialect_streams.cases import deployment, generation

from invoke_proxy.dialects import DIALECTS, tgi_generate
from invoke_proxy.errors import ApiError
from invoke_proxy.generation import Finish

TGI = DIALECTS["tgi-generate"]
NEURON = deployment()
GPU = deployment("tgi", "3.3.6")


def parameters(where: Any = NEURON, **values: Any) -> dict[str, Any]:
    asked: dict[str, Any] = TGI.body(generation(**values), where)["parameters"]
    return asked


def test_without_a_limit_the_engine_fills_the_context() -> None:
    # null and absent differ: absent is 100 tokens.
    assert parameters()["max_new_tokens"] is None
    assert parameters(max_tokens=7)["max_new_tokens"] == 7


def test_the_prompt_is_never_given_back() -> None:
    assert parameters()["return_full_text"] is False


def test_no_limit_is_not_sent_as_one() -> None:
    """TGI refuses 1.0 for top_p, where OpenAI means "no limit"."""
    assert "top_p" not in parameters(top_p=1.0)
    assert "typical_p" not in parameters(GPU, extra={"typical_p": 1})
    both = parameters(GPU, top_p=0.6, extra={"typical_p": 0.9})
    assert (both["top_p"], both["typical_p"]) == (0.6, 0.9)
    # A typical set would make TGI sample.
    assert "typical_p" not in parameters(GPU, temperature=0.0, extra={"typical_p": 0.9})


def test_prompt_tokens_are_asked_for_only_where_they_come() -> None:
    assert "decoder_input_details" in parameters(GPU)
    assert "decoder_input_details" not in parameters(GPU, stream=True)
    assert "decoder_input_details" not in parameters(NEURON)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("frequency_penalty", {"frequency_penalty": 0.5}),
        ("logprobs", {"logprobs": True}),
        ("typical_p", {"extra": {"typical_p": 0.9}}),
        ("watermark", {"extra": {"watermark": True}}),
        ("best_of", {"extra": {"best_of": 2}}),
    ],
)
def test_what_neuron_pretends_to_do_is_refused(name: str, values: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        parameters(NEURON, **values)

    assert (caught.value.status, caught.value.param, caught.value.code) == (400, name, "unsupported_parameter")
    assert "tgi-neuronx" in caught.value.message
    assert parameters(GPU, **values)


def test_alternatives_up_to_tgi_s_limit() -> None:
    assert parameters(GPU, logprobs=True, top_logprobs=5)["top_n_tokens"] == 5
    with pytest.raises(ApiError) as caught:
        parameters(GPU, logprobs=True, top_logprobs=6)

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


def whole(text: str = "Hi</s>", **details: Any) -> bytes:
    tokens = [token("Hi"), token("</s>", special=True)]
    found = {"finish_reason": "eos_token", "generated_tokens": 2, "prefill": [], "tokens": tokens, **details}
    return json.dumps([{"generated_text": text, "details": found}]).encode()


@pytest.mark.parametrize("text", ["Hi</s>", "Hi"])
def test_the_end_token_that_neuron_leaves_in_the_text_is_none_of_it(text: str) -> None:
    answer = TGI.answer(whole(text))

    assert answer.text == "Hi"
    assert [(item.text, item.id, item.logprob, item.special) for item in answer.tokens] == [
        ("Hi", 1, -0.25, False),
        ("</s>", 1, -0.25, True),
    ]
    assert answer.finish == Finish(reason="stop", engine_reason="eos_token", completion_tokens=2)


def test_prompt_tokens_are_counted_when_they_come() -> None:
    prefill = [{"id": 1, "text": "x", "logprob": None}] * 3

    assert TGI.answer(whole(prefill=prefill)).finish.prompt_tokens == 3


def test_alternatives_of_a_whole_answer() -> None:
    answer = TGI.answer(whole(top_tokens=[[token("Hi"), token("Ho", logprob=-3), token("Hu", logprob=None)]]))

    assert [(other.text, other.logprob) for other in answer.tokens[0].alternatives] == [("Hi", -0.25), ("Ho", -3)]
    assert answer.tokens[1].alternatives == ()


def test_generate_answer_is_the_object_in_the_list() -> None:
    assert tgi_generate.generate_answer(whole())["generated_text"] == "Hi</s>"
    assert tgi_generate.generate_answer(b'{"generated_text": "x"}') == {"generated_text": "x"}


@pytest.mark.parametrize("payload", [b"", b"<html>", b"null", b"[]", b"[{}]", b"[1]", b'{"generated_text": 1}'])
def test_generate_answers_of_other_formats_are_a_bad_gateway(payload: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        tgi_generate.generate_answer(payload)

    assert (caught.value.status, caught.value.code) == (502, "engine_answer_not_understood")


@pytest.mark.parametrize(
    ("kind", "status"),
    [("validation", 422), ("overloaded", 429), ("generation", 424), ("incomplete_generation", 502), (None, 502)],
)
def test_error_events(kind: str | None, status: int) -> None:
    event = f"data:{json.dumps({'error': 'words', 'error_type': kind})}\n\n"
    with pytest.raises(ApiError) as caught:
        [*TGI.parser().feed(event.encode())]

    assert caught.value.status == status
    assert caught.value.message == "words"
    assert caught.value.retry_after == (1 if status == 429 else None)


@pytest.mark.parametrize("data", ["x", "1", "[]", "{}", '{"token": {}}', '{"token": 1}', "[DONE]"])
def test_events_of_other_formats_are_a_bad_gateway(data: str) -> None:
    with pytest.raises(ApiError) as caught:
        [*TGI.parser().feed(f"data: {data}\n\n".encode())]

    assert caught.value.code == "engine_answer_not_understood"
