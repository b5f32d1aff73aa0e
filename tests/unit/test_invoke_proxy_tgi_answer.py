from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from huggingface_hub import TextGenerationOutput, TextGenerationStreamOutput
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.invoke_proxy_formats import tokens_of

from invoke_proxy.generation import Alternative, Answer, Finish, Piece, Token
from invoke_proxy.tgi_api.generate_answer import GenerateAnswer
from invoke_proxy.tgi_api.generate_request import parse_generate_request

LENGTH = Finish(reason="length", engine_reason="length", completion_tokens=2, seed=7)
EOS = Finish(reason="stop", completion_tokens=3, prompt_tokens=5)
END = Token(text="</s>", id=2, logprob=-0.1, special=True)


def answer(*, stream: bool = True, **parameters: Any) -> GenerateAnswer:
    body = {"inputs": "Once", "parameters": parameters}
    return GenerateAnswer(request=parse_generate_request(body, stream=stream))


def each(tokens: Iterable[Token]) -> list[Piece]:
    return [Piece(text="" if token.special else token.text, tokens=(token,)) for token in tokens]


def streamed(built: GenerateAnswer, pieces: Iterable[Piece], finish: Finish = LENGTH) -> list[dict[str, Any]]:
    return [*(event for piece in pieces for event in built.piece_events(piece)), *built.last_events(finish)]


def test_events_are_tgi_s() -> None:
    events = streamed(answer(details=True), each([*tokens_of([" upon", " a"]), END]), EOS)

    assert events == [
        {
            "index": 1,
            "token": {"id": 0, "text": " upon", "logprob": -0.5, "special": False},
            "generated_text": None,
            "details": None,
        },
        {
            "index": 2,
            "token": {"id": 1, "text": " a", "logprob": -0.5, "special": False},
            "generated_text": None,
            "details": None,
        },
        {
            "index": 3,
            "token": {"id": 2, "text": "</s>", "logprob": -0.1, "special": True},
            "generated_text": " upon a",
            "details": {"finish_reason": "eos_token", "generated_tokens": 3, "seed": None, "input_length": 5},
        },
    ]


def test_without_an_end_token_the_last_event_has_an_empty_one() -> None:
    events = streamed(answer(), each(tokens_of(["a", "b"])))

    assert [event["token"]["text"] for event in events] == ["a", "b", ""]
    assert events[-1]["token"] == {"id": 0, "text": "", "logprob": None, "special": True}
    assert (events[-1]["generated_text"], events[-1]["details"]) == ("ab", None)


def test_tokens_go_out_at_once() -> None:
    built = answer()

    assert [len(built.piece_events(piece)) for piece in each(tokens_of(["a", "b"]))] == [1, 1]


def test_whole_answer() -> None:
    whole = Answer(text=" upon a", tokens=(*tokens_of([" upon", " a"]), END), finish=EOS)

    assert answer(stream=False).whole(whole) == {"generated_text": " upon a"}
    assert answer(stream=False, details=True, return_full_text=True).whole(whole) == {
        "generated_text": "Once upon a",
        "details": {
            "finish_reason": "eos_token",
            "generated_tokens": 3,
            "seed": None,
            "prefill": [],
            "tokens": [
                {"id": 0, "text": " upon", "logprob": -0.5, "special": False},
                {"id": 1, "text": " a", "logprob": -0.5, "special": False},
                {"id": 2, "text": "</s>", "logprob": -0.1, "special": True},
            ],
        },
    }


def test_the_whole_text_of_a_stream_may_begin_with_the_prompt() -> None:
    assert streamed(answer(return_full_text=True), each(tokens_of(["!"])))[-1]["generated_text"] == "Once!"


def test_likelier_tokens() -> None:
    alternatives = (Alternative(text="x", logprob=-math.inf, id=9), Alternative(text="y", logprob=-2.0))
    token = Token(text="a", id=1, logprob=-1.0, alternatives=alternatives)
    top = [{"id": 9, "text": "x", "logprob": -9999.0, "special": False}]

    assert streamed(answer(top_n_tokens=1), each([token]))[0]["top_tokens"] == top
    whole = Answer(text="a", tokens=(token,), finish=LENGTH)
    assert answer(stream=False, top_n_tokens=1, details=True).whole(whole)["details"]["top_tokens"] == [top]


def test_the_text_ends_with_the_stop_sequence() -> None:
    texts = ["a", "E", "ND", "more"]
    events = streamed(answer(stop=["END"], details=True), each(tokens_of(texts)), LENGTH)
    whole = answer(stop=["END"], details=True, stream=False).whole(
        Answer(text="aENDmore", tokens=tokens_of(texts), finish=LENGTH)
    )

    assert [event["token"]["text"] for event in events] == ["a", "E", "ND", ""]
    assert events[-1]["generated_text"] == whole["generated_text"] == "aEND"
    assert events[-1]["details"]["finish_reason"] == whole["details"]["finish_reason"] == "stop_sequence"
    assert [token["text"] for token in whole["details"]["tokens"]] == ["a", "E", "ND"]


def test_tokens_beyond_what_an_engine_has_cut_itself_are_not_listed() -> None:
    whole = Answer(text="a b", tokens=(*tokens_of(["a", " b", "END"]), END), finish=Finish(reason="stop"))

    details = answer(stream=False, details=True, stop=["END"]).whole(whole)["details"]

    assert [token["text"] for token in details["tokens"]] == ["a", " b", "</s>"]


def test_the_tokens_of_a_cut_text_are_found_behind_parts_of_characters() -> None:
    tokens = tokens_of(["\ufffd", "\ufffd", "\ufffd", "\ufffd", "a", "E", "ND", "b"])
    whole = Answer(text="🙂aENDb", tokens=tokens, finish=LENGTH)

    document = answer(stream=False, details=True, stop=["END"]).whole(whole)

    assert document["generated_text"] == "🙂aEND"
    assert [token["text"] for token in document["details"]["tokens"]] == [*["\ufffd"] * 4, "a", "E", "ND"]


def test_finish_reasons_are_in_tgi_s_words() -> None:
    cases = {
        ("stop", None): "eos_token",
        ("stop", "stop_sequence"): "stop_sequence",
        ("stop", "eos_token"): "eos_token",
        ("stop", "stop"): "eos_token",
        ("length", None): "length",
        ("tool_calls", None): "eos_token",
        ("stop", "length"): "eos_token",
    }
    for (reason, word), expected in cases.items():
        finish = Finish(reason=reason, engine_reason=word)  # type: ignore[arg-type]
        assert streamed(answer(details=True), [], finish)[-1]["details"]["finish_reason"] == expected


def test_tokens_are_counted_where_the_engine_does_not() -> None:
    events = streamed(answer(details=True), each(tokens_of(["a", "b"])), Finish(reason="stop"))

    assert events[-1]["details"]["generated_tokens"] == 2
    assert "input_length" not in events[-1]["details"]


def test_text_without_tokens_and_parts_of_characters() -> None:
    pieces = [Piece(text="a"), Piece(text="🙂", tokens=tokens_of(["\ufffd", "\ufffd"]))]

    events = streamed(answer(), pieces)

    assert [event["token"]["text"] for event in events] == ["a", "", "🙂", ""]
    assert [event["token"]["id"] for event in events[1:3]] == [0, 1]
    assert events[0]["token"] == {"id": 0, "text": "a", "logprob": None, "special": False}
    assert events[-1]["generated_text"] == "a🙂"


def test_confidence_is_in_the_details() -> None:
    tokens = tokens_of(["One.", " Two."], logprob=0.0)
    whole = answer(stream=False, confidence=True).whole(Answer(text="One. Two.", tokens=tokens, finish=LENGTH))
    events = streamed(answer(confidence=True), each(tokens))

    assert whole["details"]["confidence"] == events[-1]["details"]["confidence"]
    assert [item["text"] for item in whole["details"]["confidence"]["sentences"]] == ["One.", "Two."]


def test_the_hub_s_client_reads_them() -> None:
    events = streamed(answer(details=True, top_n_tokens=1), each([*tokens_of(["a"]), END]), EOS)
    outputs = [TextGenerationStreamOutput.parse_obj_as_instance(event) for event in events]
    whole = TextGenerationOutput.parse_obj_as_instance(
        answer(stream=False, details=True).whole(Answer(text="a", tokens=(*tokens_of(["a"]), END), finish=EOS))
    )

    assert [output.token.text for output in outputs] == ["a", "</s>"]
    assert outputs[-1].details is not None
    assert (outputs[-1].details.finish_reason, outputs[-1].generated_text) == ("eos_token", "a")
    assert whole.details is not None
    assert [(token.id, token.special) for token in whole.details.tokens] == [(0, False), (2, True)]


@settings(deadline=None)  # the machine may be busy
@given(
    texts=st.lists(st.text(alphabet='abE"\\\n🙂\ud83d', max_size=4), max_size=10),
    stop=st.sampled_from([[], ["E"], ["ab", "b"]]),
    special=st.booleans(),
    top=st.integers(0, 2),
)
def test_the_fast_way_writes_the_same(texts: list[str], stop: list[str], special: bool, top: int) -> None:
    alternatives = (Alternative(text="x", logprob=-1), Alternative(text="é", logprob=-math.inf, id=4))
    tokens = [Token(text=text, id=3, logprob=-1.5, alternatives=alternatives) for text in texts]
    pieces = each([*tokens, *([END] if special else [])])
    slow, fast = answer(stop=stop, top_n_tokens=top), answer(stop=stop, top_n_tokens=top)
    for piece in pieces:
        expected = "".join(
            f"data:{json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n"
            for event in slow.piece_events(piece)
        )
        assert fast.piece_bytes(piece) == expected.encode()
    assert list(fast.last_events(LENGTH)) == list(slow.last_events(LENGTH))


@settings(deadline=None)  # the machine may be busy
@given(
    texts=st.lists(st.text(alphabet="abE\n🙂", min_size=1, max_size=4), max_size=10),
    stop=st.sampled_from([[], ["E"], ["ab", "b"]]),
)
def test_a_stream_says_what_the_whole_answer_says(texts: list[str], stop: list[str]) -> None:
    tokens = tokens_of(texts)
    expected = answer(stream=False, stop=stop, details=True).whole(
        Answer(text="".join(texts), tokens=tokens, finish=LENGTH)
    )

    events = streamed(answer(stop=stop, details=True), each(tokens))

    assert events[-1]["generated_text"] == expected["generated_text"]
    assert "".join(event["token"]["text"] for event in events) == expected["generated_text"]
    assert events[-1]["details"]["finish_reason"] == expected["details"]["finish_reason"]
    assert len(events) == len(expected["details"]["tokens"]) + 1
