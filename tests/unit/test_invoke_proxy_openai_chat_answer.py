from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.invoke_proxy_formats import tokens_of

from invoke_proxy.generation import Alternative, Answer, Finish, Piece, Token, ToolCall
from invoke_proxy.openai_api.chat_answer import ChatAnswer
from invoke_proxy.openai_api.chat_request import parse_chat_request

LENGTH = Finish(reason="length", completion_tokens=3)
CALLS = (
    ToolCall(index=0, id="c1", name="weather", arguments='{"at":'),
    ToolCall(index=0, arguments='"Ulm"}'),
    ToolCall(index=1, name="time"),
)


def answer(**overrides: Any) -> ChatAnswer:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **overrides}
    return ChatAnswer(request=parse_chat_request(body, max_messages=9), fingerprint="tgi-1", answer_id="chatcmpl-1")


def streamed(built: ChatAnswer, pieces: Iterable[Piece], finish: Finish = LENGTH) -> list[dict[str, Any]]:
    chunks = [chunk for piece in pieces for chunk in built.piece_chunks(piece)]
    return [chunk["choices"][0] for chunk in [*chunks, *built.last_chunks(finish)] if chunk["choices"]]


def contents(choices: Iterable[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content", "") for choice in choices)


def logprobs(choices: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for choice in choices if choice["logprobs"] for item in choice["logprobs"]["content"]]


def each(texts: Iterable[str], *, logprob: float = -1.0) -> list[Piece]:
    return [Piece(text=token.text, tokens=(token,)) for token in tokens_of(texts, logprob=logprob)]


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
FORCED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
@pytest.mark.parametrize(("choice", "expected"), [(FORCED, "stop"), ("auto", "tool_calls"), ("required", "tool_calls")])
def test_the_finish_reason_of_a_forced_call_is_stop(choice: Any, expected: str, reason: Any) -> None:
    finish = Finish(reason=reason)
    whole = answer(tools=TOOLS, tool_choice=choice).complete(Answer(text="", tool_calls=CALLS[:1], finish=finish))
    choices = streamed(answer(tools=TOOLS, tool_choice=choice, stream=True), [Piece(tool_calls=CALLS[:1])], finish)

    assert whole["choices"][0]["finish_reason"] == choices[-1]["finish_reason"] == expected


def test_a_forced_call_may_still_be_cut() -> None:
    built = answer(tools=TOOLS, tool_choice=FORCED)

    assert (
        built.complete(Answer(text="", tool_calls=CALLS[:1], finish=LENGTH))["choices"][0]["finish_reason"] == "length"
    )


def test_tokens_beyond_what_an_engine_has_cut_itself_are_not_listed() -> None:
    """vLLM leaves the stop sequence out of the text and in the tokens."""
    built = answer(stop=["END"], logprobs=True, confidence=True)
    tokens = (*tokens_of(["a", " bE", "ND", "more"]), Token(text="</s>", special=True))

    choice = built.complete(Answer(text="a b", tokens=tokens, finish=Finish(reason="stop")))["choices"][0]

    assert [item["token"] for item in choice["logprobs"]["content"]] == ["a", " bE"]
    assert choice["confidence"]["tokens"] == 2


def test_stream_with_stop_ends_with_stop() -> None:
    choices = streamed(answer(stop=["END"], stream=True), each(["a", "EN", "D", "more"]))

    assert [choice["delta"] for choice in choices] == [{"content": "a"}, {}]
    assert [choice["finish_reason"] for choice in choices] == [None, "stop"]


def test_held_back_text_comes_at_the_end() -> None:
    choices = streamed(answer(stop=["END"], stream=True), each(["EN"]))

    assert [choice["delta"] for choice in choices] == [{"content": "EN"}, {}]
    assert choices[-1]["finish_reason"] == "length"


def test_special_tokens_are_no_text() -> None:
    end = Piece(tokens=(Token(text="</s>", special=True, logprob=-1.0),))

    assert list(answer(stream=True, logprobs=True).piece_chunks(end)) == []


def test_log_probabilities_of_held_back_tokens_come_with_their_text() -> None:
    choices = streamed(answer(stop=["END"], stream=True, logprobs=True), each(["E", "x", "E", "ND"]))

    assert [choice["delta"] for choice in choices] == [{"content": "Ex"}, {}]
    assert [item["token"] for item in choices[0]["logprobs"]["content"]] == ["E", "x"]
    assert choices[-1]["logprobs"] is None


def test_log_probabilities_of_a_whole_answer_end_with_the_text() -> None:
    whole = Answer(text="aEND", tokens=tokens_of(["a", "EN", "D"]), finish=LENGTH)

    choice = answer(stop=["END"], logprobs=True).complete(whole)["choices"][0]

    assert (choice["message"]["content"], choice["finish_reason"]) == ("a", "stop")
    assert [item["token"] for item in choice["logprobs"]["content"]] == ["a"]


def test_shape_of_log_probabilities() -> None:
    alternatives = (
        Alternative(text="ü", logprob=-1.0),
        Alternative(text="\ufffd", logprob=-math.inf),
        Alternative(text="x", logprob=-3.0),
    )
    whole = Answer(text="ü", tokens=(Token(text="ü", logprob=-1.0, alternatives=alternatives),), finish=LENGTH)

    built = answer(logprobs=True, top_logprobs=2).complete(whole)

    assert built["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "ü",
                "logprob": -1.0,
                "bytes": [0xC3, 0xBC],
                "top_logprobs": [
                    {"token": "ü", "logprob": -1.0, "bytes": [0xC3, 0xBC]},
                    {"token": "\ufffd", "logprob": -9999.0, "bytes": None},
                ],
            }
        ],
        "refusal": None,
    }


def test_parts_of_a_character_come_with_it() -> None:
    pieces = [
        Piece(text="a", tokens=tokens_of(["a"])),
        Piece(tokens=tokens_of(["\ufffd"])),
        Piece(text="🙂", tokens=tokens_of(["\ufffd"])),
    ]

    choices = streamed(answer(stream=True, logprobs=True), pieces)

    assert [choice["delta"].get("content") for choice in choices] == ["a", "🙂", None]
    assert [item["bytes"] for item in choices[1]["logprobs"]["content"]] == [None, None]


def test_tokens_that_come_after_all_text_are_not_lost() -> None:
    choices = streamed(answer(stream=True, logprobs=True), [Piece(text="ab"), Piece(tokens=tokens_of(["ab"]))])

    assert [item["token"] for item in logprobs(choices)] == ["ab"]
    assert choices[-1]["logprobs"]["content"][0]["token"] == "ab"


def test_a_token_without_a_log_probability_has_no_entry() -> None:
    whole = Answer(text="ab", tokens=(Token(text="a"), Token(text="b", logprob=0.0)), finish=LENGTH)

    content = answer(logprobs=True).complete(whole)["choices"][0]["logprobs"]["content"]

    assert [item["token"] for item in content] == ["b"]


def test_halves_of_a_character_are_put_together() -> None:
    choices = streamed(answer(stream=True), each(["a\ud83d", "\ude42b", "\ude42", "\ud83d"]))

    assert contents(choices) == "a🙂b\ufffd\ufffd"
    json.dumps(choices, ensure_ascii=False).encode()


def test_tool_calls_of_a_whole_answer() -> None:
    calls = (ToolCall(index=0, id="c1", name="weather", arguments="{}"), ToolCall(index=1, name="time"))
    whole = Answer(text="", tool_calls=calls, finish=Finish(reason="stop"))

    choice = answer().complete(whole)["choices"][0]

    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    first, second = choice["message"]["tool_calls"]
    assert first == {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert second["id"].startswith("call_")


def test_tool_calls_of_a_stream() -> None:
    pieces = [Piece(text="EN"), *(Piece(tool_calls=(call,)) for call in CALLS)]

    choices = streamed(answer(stream=True, stop=["END"]), pieces, Finish(reason="stop"))

    assert choices[0]["delta"] == {"content": "EN"}
    deltas = [choice["delta"]["tool_calls"][0] for choice in choices[1:4]]
    assert deltas[0] == {
        "index": 0,
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"at":'},
    }
    assert deltas[1] == {"index": 0, "function": {"arguments": '"Ulm"}'}}
    assert (deltas[2]["index"], deltas[2]["function"]["name"]) == (1, "time")
    assert deltas[2]["id"].startswith("call_")
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_usage_is_left_out_rather_than_invented() -> None:
    unknown = answer().complete(Answer(text="x", finish=Finish(reason="stop", completion_tokens=1)))
    known = answer().complete(Answer(text="x", finish=Finish(reason="stop", completion_tokens=1, prompt_tokens=4)))

    assert "usage" not in unknown
    assert known["usage"] == {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5}


def test_usage_chunk_of_a_stream() -> None:
    finish = Finish(reason="stop", completion_tokens=1, prompt_tokens=4)
    asked = answer(stream=True, stream_options={"include_usage": True})

    chunks = [asked.first_chunk(), *asked.piece_chunks(Piece(text="x")), *asked.last_chunks(finish)]

    assert [chunk["usage"] for chunk in chunks[:-1]] == [None, None, None]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 5
    assert all("usage" not in chunk for chunk in answer(stream=True).last_chunks(finish))
    unknown = answer(stream=True, stream_options={"include_usage": True}).last_chunks(LENGTH)
    assert [chunk["usage"] for chunk in unknown] == [None]


def test_confidence_is_of_what_the_client_sees() -> None:
    texts = ["Yes.", " No.", "END", " never"]
    whole = Answer(text="".join(texts), tokens=tokens_of(texts, logprob=math.log(0.5)), finish=LENGTH)
    expected = {
        "score": 0.5,
        "tokens": 2,
        "sentences": [{"text": "Yes.", "score": 0.5, "tokens": 1}, {"text": "No.", "score": 0.5, "tokens": 1}],
    }

    choice = answer(confidence=True, stop="END").complete(whole)["choices"][0]
    choices = streamed(answer(confidence=True, stop="END", stream=True), each(texts, logprob=math.log(0.5)))

    assert choice["confidence"] == expected
    assert choices[-1]["confidence"] == expected
    assert all("confidence" not in item for item in choices[:-1])
    assert choice["logprobs"] is None
    assert "confidence" not in answer().complete(whole)["choices"][0]


def test_head_of_answers() -> None:
    before = int(time.time())
    first = answer(stream=True).first_chunk()

    assert (first["id"], first["object"], first["model"]) == ("chatcmpl-1", "chat.completion.chunk", "m")
    assert first["system_fingerprint"] == "tgi-1"
    assert before <= first["created"] <= time.time()
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    request = parse_chat_request({"messages": [{"role": "user", "content": "Hi"}]}, max_messages=9)
    others = [ChatAnswer(request=request, fingerprint="f", model="default").first_chunk() for _ in range(2)]
    assert others[0]["id"] != others[1]["id"]
    assert others[0]["model"] == "default"
    assert answer().complete(Answer(text="x", finish=LENGTH))["object"] == "chat.completion"


TEXTS = st.lists(st.text(alphabet='abE"\\\n🙂é\ud83d\ude42', max_size=4), max_size=10)
OPTIONS = st.fixed_dictionaries(
    {
        "stop": st.sampled_from([None, "E", ["ab", "b"], ["\n\n", "🙂E"]]),
        "logprobs": st.booleans(),
        "confidence": st.booleans(),
        "stream_options": st.sampled_from([None, {"include_usage": True}]),
    }
)


def as_events(chunks: Iterable[dict[str, Any]]) -> bytes:
    return "".join(
        f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n" for chunk in chunks
    ).encode()


@settings(deadline=None)  # the machine may be busy
@given(texts=TEXTS, options=OPTIONS, calls=st.booleans())
def test_the_fast_way_writes_the_same(texts: list[str], options: dict[str, Any], calls: bool) -> None:
    pieces = [*each(texts), *([Piece(text="x", tool_calls=CALLS[:1])] if calls else [])]
    slow, fast = answer(stream=True, **options), answer(stream=True, **options)
    # Both were made in the same second, or not.
    fast._head["created"] = slow._head["created"]
    fast._before_text = slow._before_text
    for piece in pieces:
        assert fast.piece_bytes(piece) == as_events(slow.piece_chunks(piece))
    assert list(fast.last_chunks(LENGTH)) == list(slow.last_chunks(LENGTH))


@settings(deadline=None)  # the machine may be busy
@given(texts=TEXTS, options=OPTIONS)
def test_a_stream_says_what_the_whole_answer_says(texts: list[str], options: dict[str, Any]) -> None:
    texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
    whole = Answer(text="".join(texts), tokens=tokens_of(texts, logprob=-1.0), finish=LENGTH)
    expected = answer(**{**options, "stream_options": None}).complete(whole)["choices"][0]

    choices = streamed(answer(stream=True, **options), each(texts))

    assert contents(choices) == expected["message"]["content"]
    assert choices[-1]["finish_reason"] == expected["finish_reason"]
    assert choices[-1].get("confidence") == expected.get("confidence")
    if options["logprobs"]:
        # A token without text may come with the next one that has some, or not at all after a stop sequence.
        assert [item for item in logprobs(choices) if item["token"]] == [
            item for item in expected["logprobs"]["content"] if item["token"]
        ]


@pytest.mark.parametrize(("options", "budget"), [({}, 15e-6), ({"stop": ["END", "\n\n"]}, 15e-6)])
def test_a_chunk_costs_little(options: dict[str, Any], budget: float) -> None:
    """Measured: 1 µs without and 3 µs with stop sequences; the best of several rounds, as the machine is shared."""
    built = answer(stream=True, **options)
    piece = Piece(text=" word", tokens=tokens_of([" word"]))
    rounds = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(200):
            built.piece_bytes(piece)
        rounds.append((time.perf_counter() - start) / 200)

    assert min(rounds) < budget
