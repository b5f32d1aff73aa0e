from __future__ import annotations

import random
from typing import Any

import pytest

from invoke_proxy.chat_answer import ChatAnswer, Finish, StopFilter, Token
from invoke_proxy.chat_request import parse_chat_request


def answer(**overrides: Any) -> ChatAnswer:
    request = parse_chat_request({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **overrides})
    return ChatAnswer(request=request, fingerprint="tgi-1")


def through(sequences: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    stop = StopFilter(sequences)
    text = "".join(stop.feed(piece) for piece in pieces)
    return (text if stop.stopped else text + stop.flush()), stop.stopped


@pytest.mark.parametrize(
    ("sequences", "pieces", "expected"),
    [
        ((), ["a", "b"], ("ab", False)),
        (("END",), ["a", "EN", "D", "b"], ("a", True)),
        (("END",), ["aENb"], ("aENb", False)),
        (("END",), ["aEN"], ("aEN", False)),
        (("END",), ["E", "E", "ND"], ("E", True)),
        (("b", "abc"), ["xab", "c"], ("xa", True)),
        (("\n\n",), ["one\n", "two\n", "\nthree"], ("one\ntwo", True)),
        (("aab",), ["aa", "ab"], ("a", True)),
    ],
)
def test_stop_sequences(sequences: tuple[str, ...], pieces: list[str], expected: tuple[str, bool]) -> None:
    assert through(sequences, pieces) == expected


def test_pieces_never_matter() -> None:
    """Whatever the tokens are, the stream gives what cutting the whole text would give."""
    source = random.Random(7)  # noqa: S311 - test data
    for _ in range(500):
        text = "".join(source.choices("ab", k=source.randint(0, 12)))
        sequences = tuple("".join(source.choices("ab", k=source.randint(1, 4))) for _ in range(2))
        pieces, rest = [], text
        while rest:
            size = source.randint(1, 3)
            pieces.append(rest[:size])
            rest = rest[size:]
        whole = through(sequences, [text] if text else [])
        streamed = through(sequences, pieces)
        # A sequence may be complete, at a piece's end, before one that begins earlier is.
        assert streamed[1] == whole[1]
        assert text.startswith(streamed[0])
        if not whole[1]:
            assert streamed[0] == text


def test_text_that_cannot_begin_a_stop_is_not_held_back() -> None:
    stop = StopFilter(("END",))

    assert stop.feed("hello ") == "hello "


def test_stream_with_stop_ends_with_stop() -> None:
    built = answer(stop=["END"], stream=True)

    chunks = [chunk for text in ("a", "EN", "D") for chunk in built.token_chunks(Token(text=text))]
    last = list(built.last_chunks(Finish(reason="length", completion_tokens=3)))

    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"content": "a"}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in last] == ["stop"]


def test_held_back_text_comes_at_the_end() -> None:
    built = answer(stop=["END"], stream=True)

    assert list(built.token_chunks(Token(text="EN"))) == []
    last = list(built.last_chunks(Finish(reason="length")))

    assert [chunk["choices"][0]["delta"] for chunk in last] == [{"content": "EN"}, {}]
    assert last[-1]["choices"][0]["finish_reason"] == "length"


def test_special_tokens_are_no_text() -> None:
    assert list(answer().token_chunks(Token(text="</s>", special=True))) == []


def test_log_probabilities_of_held_back_tokens_come_with_their_text() -> None:
    built = answer(stop=["END"], stream=True, logprobs=True)

    assert list(built.token_chunks(Token(text="E", logprob=-1))) == []
    (chunk,) = built.token_chunks(Token(text="x", logprob=-2))

    assert chunk["choices"][0]["delta"] == {"content": "Ex"}
    assert [item["logprob"] for item in chunk["choices"][0]["logprobs"]["content"]] == [-1, -2]


def test_log_probabilities_of_a_whole_answer_end_with_the_text() -> None:
    tokens = [Token(text=text, logprob=-1.0) for text in ("a", "EN", "D")]

    built = answer(stop=["END"], logprobs=True).complete(text="aEND", tokens=tokens, finish=Finish(reason="length"))

    choice = built["choices"][0]
    assert choice["message"]["content"] == "a"
    assert choice["finish_reason"] == "stop"
    assert [item["token"] for item in choice["logprobs"]["content"]] == ["a"]


def test_shape_of_log_probabilities() -> None:
    token = Token(text="ü", logprob=-1.0, alternatives=(("ü", -1.0), ("\ufffd", -2.0)))

    built = answer(logprobs=True).complete(text="ü", tokens=[token], finish=Finish(reason="stop"))

    assert built["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "ü",
                "logprob": -1.0,
                "bytes": [0xC3, 0xBC],
                "top_logprobs": [
                    {"token": "ü", "logprob": -1.0, "bytes": [0xC3, 0xBC]},
                    {"token": "\ufffd", "logprob": -2.0, "bytes": None},
                ],
            }
        ],
        "refusal": None,
    }


def test_usage_is_left_out_rather_than_invented() -> None:
    unknown = answer().complete(text="x", tokens=[], finish=Finish(reason="stop", completion_tokens=1))
    known = answer().complete(text="x", tokens=[], finish=Finish(reason="stop", completion_tokens=1, prompt_tokens=4))

    assert "usage" not in unknown
    assert known["usage"] == {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5}


def test_usage_chunk_of_a_stream() -> None:
    finish = Finish(reason="stop", completion_tokens=1, prompt_tokens=4)
    asked = answer(stream=True, stream_options={"include_usage": True})

    chunks = [asked.first_chunk(), *asked.last_chunks(finish)]

    assert [chunk["usage"] for chunk in chunks[:-1]] == [None, None]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 5
    assert all("usage" not in chunk for chunk in answer(stream=True).last_chunks(finish))


def test_head_of_answers() -> None:
    built = answer()
    first = built.first_chunk()

    assert first["object"] == "chat.completion.chunk"
    assert first["model"] == "m"
    assert first["system_fingerprint"] == "tgi-1"
    assert first["id"].startswith("chatcmpl-")
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert answer().first_chunk()["id"] != first["id"]
