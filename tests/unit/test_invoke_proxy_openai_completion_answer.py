from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.invoke_proxy_formats import tokens_of

from invoke_proxy.generation import Alternative, Answer, Finish, Piece, Token
from invoke_proxy.openai_api.completion_answer import CompletionAnswer
from invoke_proxy.openai_api.completion_request import parse_completion_request

LENGTH = Finish(reason="length", completion_tokens=3, prompt_tokens=2)


def answer(**overrides: Any) -> CompletionAnswer:
    request = parse_completion_request({"model": "m", "prompt": "Once", **overrides})
    return CompletionAnswer(request=request, fingerprint="tgi-1", answer_id="cmpl-1")


def each(texts: list[str]) -> list[Piece]:
    return [Piece(text=token.text, tokens=(token,)) for token in tokens_of(texts, logprob=-1.0)]


def test_whole_answer() -> None:
    built = answer(stop="END").complete(Answer(text=" uponEND", finish=LENGTH))

    created = built.pop("created")
    assert isinstance(created, int)
    assert built == {
        "id": "cmpl-1",
        "object": "text_completion",
        "model": "m",
        "system_fingerprint": "tgi-1",
        "choices": [{"index": 0, "text": " upon", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
    }


def test_log_probabilities_have_openai_s_older_shape() -> None:
    alternatives = (Alternative(text=" a", logprob=-0.5), Alternative(text=" b", logprob=-math.inf))
    tokens = (
        Token(text=" upon", logprob=-1.0, alternatives=alternatives),
        Token(text=" a", logprob=-0.5, alternatives=alternatives),
        Token(text="</s>", logprob=-0.1, special=True),
    )

    built = answer(logprobs=2).complete(Answer(text=" upon a", tokens=tokens, finish=LENGTH))

    assert built["choices"][0]["logprobs"] == {
        "tokens": [" upon", " a"],
        "token_logprobs": [-1.0, -0.5],
        "top_logprobs": [{" a": -0.5, " b": -9999.0, " upon": -1.0}, {" a": -0.5, " b": -9999.0}],
        "text_offset": [0, 5],
    }


def test_no_likelier_tokens_unless_asked_for() -> None:
    token = Token(text="x", logprob=-0.5, alternatives=(Alternative(text="y", logprob=-0.2),))
    whole = Answer(text="x", tokens=(token,), finish=LENGTH)

    assert answer(logprobs=0).complete(whole)["choices"][0]["logprobs"]["top_logprobs"] == [{"x": -0.5}]
    assert answer().complete(whole)["choices"][0]["logprobs"] is None


def test_offsets_go_on_over_the_chunks_of_a_stream() -> None:
    built = answer(stream=True, logprobs=0, stop="END")
    chunks = [chunk for piece in each(["ab", "E", "x", "🙂", "y"]) for chunk in built.piece_chunks(piece)]
    choices = [chunk["choices"][0] for chunk in [*chunks, *built.last_chunks(LENGTH)]]

    assert [choice["text"] for choice in choices] == ["ab", "Ex", "🙂", "y", ""]
    assert [choice["logprobs"] and choice["logprobs"]["text_offset"] for choice in choices] == [
        [0],
        [2, 3],
        [4],
        [5],
        None,
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, None, "length"]


def test_usage_and_confidence_of_a_stream() -> None:
    built = answer(stream=True, stream_options={"include_usage": True}, confidence=True)
    chunks = [built.first_chunk(), *(chunk for piece in each(["One."]) for chunk in built.piece_chunks(piece))]
    chunks += built.last_chunks(LENGTH)

    assert [chunk["usage"] for chunk in chunks] == [None, None, None, chunks[-1]["usage"]]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 5
    assert chunks[2]["choices"][0]["confidence"]["tokens"] == 1
    assert chunks[0]["choices"][0]["text"] == ""


def test_a_call_is_a_stop_here() -> None:
    built = answer().complete(Answer(text="x", finish=Finish(reason="tool_calls")))

    assert built["choices"][0]["finish_reason"] == "stop"


@settings(deadline=None)  # the machine may be busy
@given(
    texts=st.lists(st.text(alphabet='abE"\\\n🙂\ud83d', max_size=4), max_size=10),
    logprobs=st.sampled_from([None, 0, 2]),
    stop=st.sampled_from([None, "E", ["ab", "b"]]),
)
def test_the_fast_way_writes_the_same(texts: list[str], logprobs: int | None, stop: Any) -> None:
    slow = answer(stream=True, logprobs=logprobs, stop=stop)
    fast = answer(stream=True, logprobs=logprobs, stop=stop)
    fast._before_text = slow._before_text
    for piece in each(texts):
        expected = "".join(
            f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
            for chunk in slow.piece_chunks(piece)
        )
        assert fast.piece_bytes(piece) == expected.encode()
