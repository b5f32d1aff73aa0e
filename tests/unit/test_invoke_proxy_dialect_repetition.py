"""Chunks that differ in their text only are read as JSON would read them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invoke_proxy.dialects.repetition import SameAround
from invoke_proxy.dialects.vllm_openai import VllmOpenAi
from invoke_proxy.generation import Piece


def chunk(said: str, *, ascii_only: bool = False, compact: bool = True, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": said}, "logprobs": None, "finish_reason": None, **more}
    document = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    separators = (",", ":") if compact else (", ", ": ")
    return f"data: {json.dumps(document, ensure_ascii=ascii_only, separators=separators)}\n\n".encode()


def learnt(sample: bytes, text: str) -> SameAround:
    same = SameAround()
    same.learn(sample, text)
    return same


@pytest.mark.parametrize("compact", [True, False])
def test_the_next_text_is_found(compact: bool) -> None:
    same = learnt(chunk("Good", compact=compact), "Good")

    assert same.text_of(chunk(" day, Zoë", compact=compact)) == " day, Zoë"


@pytest.mark.parametrize(
    "other",
    [
        chunk("\n"),
        chunk('a "word"'),
        chunk(""),
        chunk("x", finish_reason="stop"),
        chunk("x") + chunk("y"),
        chunk("x")[:-1],
        chunk("x").replace(b"x", b"\xff"),
        chunk("x").replace(b"x", b"\x01"),
        b": comment\n\n",
        b"",
    ],
)
def test_any_other_chunk_is_left_to_the_reader(other: bytes) -> None:
    assert learnt(chunk("Good"), "Good").text_of(other) is None


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (chunk("a") + chunk("b"), "a"),
        (chunk("\n"), "\n"),
        (chunk("é", ascii_only=True), "é"),
        (chunk("a"), "b"),
        (chunk("a"), ""),
        (chunk("a", text="a"), "a"),
        (b'data: {"choices":[]}\n\n', "x"),
    ],
)
def test_nothing_is_learnt_where_it_is_not_certain(sample: bytes, text: str) -> None:
    assert learnt(sample, text).text_of(chunk("Good")) is None


@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=8), data=st.data())
def test_a_stream_is_read_as_each_of_its_chunks(texts: list[str], data: st.DataObject) -> None:
    """However the bytes are cut, and whatever is escaped."""
    chunks = [
        chunk(
            text.encode("utf-8", "replace").decode(),
            ascii_only=data.draw(st.booleans()),
            compact=data.draw(st.booleans()),
        )
        for text in texts
    ]
    if data.draw(st.booleans()):
        whole = b"".join(chunks)
        size = data.draw(st.integers(1, len(whole)))
        chunks = [whole[at : at + size] for at in range(0, len(whole), size)]
    parser = VllmOpenAi().parser()
    found = [event for part in chunks for event in parser.feed(part)]

    assert all(isinstance(event, Piece) and not event.tokens for event in found)
    said = "".join(event.text for event in found if isinstance(event, Piece))
    assert said == "".join(text.encode("utf-8", "replace").decode() for text in texts)
