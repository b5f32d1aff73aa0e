from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invoke_proxy.stop_filter import StopFilter

# Few letters, so that sequences and their beginnings meet often.
TEXTS = st.text(alphabet="ab\n", max_size=24)
SEQUENCES = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=4).map(tuple)


def through(sequences: tuple[str, ...], pieces: list[str]) -> tuple[str, int | None]:
    stop = StopFilter(sequences)
    text = "".join(stop.feed(piece) for piece in pieces)
    assert stop.stopped == (stop.end is not None)
    return (text if stop.stopped else text + stop.flush()), stop.end


def expected(sequences: tuple[str, ...], text: str) -> tuple[str, int | None]:
    """The definition: the shortest beginning of the text that ends with a sequence, without the longest such one."""
    for end in range(len(text) + 1):
        found = [sequence for sequence in sequences if text[:end].endswith(sequence)]
        if found:
            return text[: end - max(map(len, found))], end
    return text, None


@pytest.mark.parametrize(
    ("sequences", "pieces", "result"),
    [
        ((), ["a", "b"], ("ab", None)),
        (("END",), ["a", "EN", "D", "b"], ("a", 4)),
        (("END",), ["aENb"], ("aENb", None)),
        (("END",), ["aEN"], ("aEN", None)),
        (("END",), ["E", "E", "ND"], ("E", 4)),
        (("b", "abc"), ["xab", "c"], ("xa", 3)),
        (("b", "abc"), ["xabc"], ("xa", 3)),
        (("\n\n",), ["one\n", "two\n", "\nthree"], ("one\ntwo", 9)),
        (("aab",), ["aa", "ab"], ("a", 4)),
        (("b", "ab"), ["xab"], ("x", 3)),
    ],
)
def test_stop_sequences(sequences: tuple[str, ...], pieces: list[str], result: tuple[str, int | None]) -> None:
    assert through(sequences, pieces) == result


@settings(deadline=None)  # the machine may be busy
@given(text=TEXTS, sequences=SEQUENCES, cuts=st.lists(st.integers(0, 24)))
def test_pieces_never_matter(text: str, sequences: tuple[str, ...], cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]

    assert through(sequences, pieces) == through(sequences, [text]) == expected(sequences, text)


@settings(deadline=None)  # the machine may be busy
@given(text=TEXTS, sequences=SEQUENCES)
def test_nothing_is_held_back_that_cannot_begin_a_sequence(text: str, sequences: tuple[str, ...]) -> None:
    stop = StopFilter(sequences)
    seen = stop.feed(text)
    if not stop.stopped:
        held = text[len(seen) :]
        assert not held or any(sequence.startswith(held) for sequence in sequences)


def test_text_that_cannot_begin_a_stop_goes_on_at_once() -> None:
    assert StopFilter(("END",)).feed("hello ") == "hello "
