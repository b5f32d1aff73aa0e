"""Whole answers and embeddings of all dialects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.dialect_streams.cases import TEXT, recorded

from invoke_proxy.dialects import DIALECTS, Embeddings
from invoke_proxy.errors import ApiError
from invoke_proxy.generation import Finish, ToolCall

WHOLE = {
    "tgi-generate.whole.json": Finish(
        reason="length", engine_reason="length", completion_tokens=8, prompt_tokens=2, seed=7
    ),
    "lorax.whole.json": Finish(
        reason="stop", engine_reason="stop_sequence", completion_tokens=8, prompt_tokens=11, seed=7
    ),
    "lmi-jsonlines.lmi-dist.jsonl": Finish(reason="stop", engine_reason="eos_token"),
    "lmi-json.json": Finish(reason="stop", engine_reason="eos_token", completion_tokens=9),
    "lmi-rolling-batch.whole.json": Finish(reason="stop", engine_reason="eos_token", completion_tokens=9),
    "lmi-async-vllm.inputs-whole.json": Finish(reason="stop", completion_tokens=8, seed=7),
    "vllm-openai.whole.json": Finish(reason="stop", engine_reason="stop", completion_tokens=9, prompt_tokens=11),
}


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_whole_answers(name: str) -> None:
    answer = DIALECTS[name.partition(".")[0]].answer(recorded(name))

    assert answer.text == TEXT
    assert answer.finish == WHOLE[name]
    assert "".join(token.text for token in answer.tokens if not token.special) == TEXT


def test_lmi_s_handlers_answer_as_openai_s_servers_do() -> None:
    for dialect in ("lmi-async-vllm", "lmi-async-trtllm"):
        assert DIALECTS[dialect].answer(recorded("vllm-openai.whole.json") + b"\n") == DIALECTS["vllm-openai"].answer(
            recorded("vllm-openai.whole.json")
        )


def test_the_token_that_ended_an_answer_is_special() -> None:
    tokens = DIALECTS["vllm-openai"].answer(recorded("vllm-openai.whole.json")).tokens
    assert (tokens[-1].text, tokens[-1].special) == ("</s>", True)

    stopped = json.loads(recorded("vllm-openai.whole.json"))
    stopped["choices"][0]["stop_reason"] = "</s>"
    assert not DIALECTS["vllm-openai"].answer(json.dumps(stopped).encode()).tokens[-1].special


def test_the_token_that_ended_calls_is_special_too() -> None:
    called = json.loads(recorded("vllm-openai.whole.json"))
    called["choices"][0]["finish_reason"] = "tool_calls"

    assert DIALECTS["vllm-openai"].answer(json.dumps(called).encode()).tokens[-1].special


@pytest.mark.parametrize("value", ["1e999", "-1e999", "1" + "0" * 400, "NaN", "-Infinity"])
def test_numbers_that_none_can_write_are_unknown(value: str) -> None:
    token = f'{{"id": 1, "text": "a", "logprob": {value}, "special": false}}'
    details = f'{{"finish_reason": "length", "generated_tokens": 1, "tokens": [{token}], "prefill": []}}'
    payload = f'[{{"generated_text": "a", "details": {details}}}]'

    assert DIALECTS["tgi-generate"].answer(payload.encode()).tokens[0].logprob is None


def test_a_completion_s_tokens() -> None:
    choice: dict[str, Any] = {
        "index": 0,
        "text": "ab",
        "finish_reason": "length",
        "logprobs": {
            "tokens": ["a", "b"],
            "token_logprobs": [-0.5, None],
            "top_logprobs": [{"a": -0.5, "c": -2}, None],
        },
    }
    answer = DIALECTS["vllm-openai"].answer(json.dumps({"choices": [choice]}).encode())
    assert [(token.text, token.logprob) for token in answer.tokens] == [("a", -0.5), ("b", None)]
    assert [(other.text, other.logprob) for other in answer.tokens[0].alternatives] == [("a", -0.5), ("c", -2)]
    assert answer.finish == Finish(reason="length", engine_reason="length")


def test_whole_tool_calls_are_numbered() -> None:
    answer = DIALECTS["vllm-openai"].answer(recorded("vllm-openai.whole-tools.json"))

    assert answer.text == ""
    assert answer.finish.reason == "tool_calls"
    assert answer.tool_calls == (
        ToolCall(index=0, id="chatcmpl-tool-1f", name="weather", arguments='{"city": "Köln"}'),
        ToolCall(index=1, id="chatcmpl-tool-2f", name="time", arguments="{}"),
    )


@pytest.mark.parametrize(
    ("dialect", "payload", "status", "words"),
    [
        ("lmi-rolling-batch", recorded("lmi-rolling-batch.whole-error.json"), 424, "exception occurred during rolling"),
        ("lmi-async-vllm", recorded("lmi-async-vllm.refused.json"), 424, "Input parsing failed: invalid payload"),
        ("lmi-async-trtllm", b'{"code": 400, "error": "too long"}', 400, "too long"),
        ("lmi-json", b'{\n  "code": 424,\n  "error": "no such key"\n}', 424, "no such key"),
        ("lmi-json", b'{"code": 424, "message": "Batch inference failed", "properties": {}}', 424, "Batch inference"),
        ("lmi-jsonlines", b'{\n  "code": 424,\n  "error": "no such key"\n}', 424, "no such key"),
        ("lmi-jsonlines", b'{"code": 503, "error": "busy"}', 502, "busy"),
        ("vllm-openai", b'{"error": {"message": "no", "type": "BadRequestError", "code": 400}}', 400, "no"),
        ("vllm-openai", b'{"object": "error", "message": "no", "code": 404}', 404, "no"),
        ("vllm-openai", b'{"error": {"code": true}}', 502, "The model server failed"),
    ],
)
def test_failures(dialect: str, payload: bytes, status: int, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        DIALECTS[dialect].answer(payload)

    assert caught.value.status == status
    assert caught.value.message.startswith(words)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"<html>", b"null", b"[]", b"[1]", b"{}", b"[{}]", b"\xff", b'"x"', b'{"generated_text": 1}'),
        *(b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": [{"text": 1}]}'),
        b'{"generated_text": "x", "details": 5}',
    ],
)
def test_other_formats_are_a_bad_gateway(dialect: str, payload: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        DIALECTS[dialect].answer(payload)

    assert caught.value.status == 502
    assert caught.value.code in {"engine_answer_not_understood", "incomplete_answer"}


@pytest.mark.parametrize("name", sorted(WHOLE))
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_mutilated_answers_are_answers_or_api_errors(name: str, data: st.DataObject) -> None:
    payload = bytearray(recorded(name))
    for _ in range(data.draw(st.integers(min_value=1, max_value=4))):
        at = data.draw(st.integers(min_value=0, max_value=len(payload)))
        payload[at : at + data.draw(st.integers(0, 30))] = data.draw(
            st.sampled_from([b"", b"null", b"-1", b"[]", b"{}", b'"x"', b"NaN", b"}", b"\\ud800", b"\xff"])
        )
    try:
        answer = DIALECTS[name.partition(".")[0]].answer(bytes(payload))
    except ApiError:
        return
    assert answer.text.encode() is not None
    assert answer.finish.reason in {"stop", "length", "tool_calls", "content_filter"}


def test_embeddings() -> None:
    data = [{"index": 1, "embedding": [3, 4.5]}, {"index": 0, "embedding": [1.0, -2.0]}]
    payload = json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": 5, "total_tokens": 5}}).encode()
    assert DIALECTS["vllm-openai"].embeddings(payload) == Embeddings(vectors=((1.0, -2.0), (3.0, 4.5)), prompt_tokens=5)
    assert DIALECTS["lmi-async-vllm"].embeddings(b"[[1.0, -2.0], [3, 4.5]]\n") == Embeddings(
        vectors=((1.0, -2.0), (3.0, 4.5))
    )


@pytest.mark.parametrize("dialect", ["vllm-openai", "lmi-async-vllm"])
@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"5", b"{}", b"[5]", b'[["a"]]', b"[[null]]", b'{"generated_text": "x"}', b'{"data": [{"index": 0}]}'),
        *(b'{"data": [{"index": null, "embedding": []}]}', b'{"data": [{"index": 0, "embedding": [[1]]}]}'),
    ],
)
def test_embeddings_of_other_shapes(dialect: str, payload: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        DIALECTS[dialect].embeddings(payload)
    assert (caught.value.status, caught.value.code) == (502, "engine_answer_not_understood")


def test_failures_instead_of_embeddings() -> None:
    for dialect, payload in {
        "vllm-openai": b'{"error": {"message": "no", "code": 400}}',
        "lmi-async-vllm": b'{"code": 424, "error": "no"}',
    }.items():
        with pytest.raises(ApiError) as caught:
            DIALECTS[dialect].embeddings(payload)
        assert caught.value.message == "no"
