from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.invoke_proxy_formats import tokens_of

from invoke_proxy.generation import Token
from invoke_proxy.token_offsets import TokenOffsets

# A character as one token, or in parts of so many bytes; plain text as one token.
Piece = tuple[str, tuple[int, ...]]

PLAIN: st.SearchStrategy[Piece] = st.text(alphabet="ab ü🙂", min_size=1, max_size=3).map(lambda text: (text, ()))
BYTES: st.SearchStrategy[Piece] = st.sampled_from("ü漢🙂🇩").map(lambda text: (text, (1,) * len(text.encode())))
PARTS: st.SearchStrategy[Piece] = st.sampled_from(
    [("ü", (1, 1)), ("漢", (1, 2)), ("漢", (2, 1)), ("🙂", (2, 2)), ("🙂", (3, 1)), ("🙂", (1, 1, 2))]
)


def steps(pieces: Sequence[Piece]) -> list[tuple[str, str, int]]:
    """The token of each step, the text that is complete with it, and where the token truly begins."""
    found: list[tuple[str, str, int]] = []
    at = 0
    for text, parts in pieces:
        if not parts:
            found.append((text, text, at))
        found += [("\ufffd", text if index == len(parts) - 1 else "", at) for index in range(len(parts))]
        at += len(text)
    return found


def offsets_of(tokens: Sequence[str], texts: Sequence[str]) -> list[int]:
    """What is found when these tokens and these texts come step by step, in pairs."""
    offsets = TokenOffsets()
    placed: list[tuple[int, Token]] = []
    named = iter(tokens_of(tokens))
    for token, text in itertools.zip_longest([[token] for token in tokens], texts):
        placed += offsets.feed(text or "", [next(named) for _ in token or ()])
    placed += offsets.flush()
    assert [token.text for _, token in placed] == list(tokens)
    return [start for start, _ in placed]


@settings(deadline=None)  # the machine may be busy
@given(texts=st.lists(st.text(alphabet="aü🙂", min_size=1, max_size=3), max_size=12), cuts=st.lists(st.integers(0, 12)))
def test_tokens_begin_where_the_ones_before_end(texts: list[str], cuts: list[int]) -> None:
    offsets = TokenOffsets()
    edges = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    found: list[int] = []
    for start, end in itertools.pairwise(edges):
        found += [at for at, _ in offsets.feed("".join(texts[start:end]), tokens_of(texts[start:end]))]

    assert found == [len("".join(texts[:index])) for index in range(len(texts))]


@settings(deadline=None)
@given(
    pieces=st.lists(st.one_of(PLAIN, BYTES), max_size=12),
    lag=st.integers(0, 6),
    cuts=st.sets(st.integers(0, 40)),
)
def test_text_that_comes_later_than_its_tokens(pieces: list[Piece], lag: int, cuts: set[int]) -> None:
    """Characters in parts of one byte, as tokenizers with bytes for what they do not know make them."""
    truth = steps(pieces)
    late = [""] * lag
    # An engine may also send several steps' text at once.
    held = ""
    for index, (_, text, _) in enumerate(truth):
        held += text
        late.append("" if index in cuts else held)
        held = held if index in cuts else ""
    late.append(held)

    assert offsets_of([token for token, _, _ in truth], late) == [start for _, _, start in truth]


@settings(deadline=None)
@given(pieces=st.lists(PLAIN, max_size=12), lag=st.integers(0, 6))
def test_text_that_comes_before_its_tokens(pieces: list[Piece], lag: int) -> None:
    truth = steps(pieces)
    texts = [text for _, text, _ in truth]
    ahead = ["".join(texts[: lag + 1]), *texts[lag + 1 :]]

    assert offsets_of([token for token, _, _ in truth], ahead) == [start for _, _, start in truth]


@settings(deadline=None)
@given(pieces=st.lists(st.one_of(PLAIN, BYTES, PARTS), max_size=12))
def test_parts_of_any_size_whose_character_comes_with_the_last(pieces: list[Piece]) -> None:
    truth = steps(pieces)

    found = offsets_of([token for token, _, _ in truth], [text for _, text, _ in truth])

    assert found == [start for _, _, start in truth]


@settings(deadline=None)
@given(pieces=st.lists(st.one_of(PLAIN, BYTES), max_size=12))
def test_an_answer_in_one_piece(pieces: list[Piece]) -> None:
    truth = steps(pieces)

    placed = TokenOffsets().feed("".join(text for text, _ in pieces), tokens_of([token for token, _, _ in truth]))

    assert [start for start, _ in placed] == [start for _, _, start in truth]


def starts(text: str, tokens: Sequence[Token]) -> list[int]:
    return [start for start, _ in TokenOffsets().feed(text, tokens)]


def test_parts_of_a_character_are_where_the_character_is() -> None:
    assert starts("a🙂b", tokens_of(["a", "\ufffd", "\ufffd", "b"])) == [0, 1, 1, 2]
    assert starts("a🙂b", tokens_of(["a", "", "", "🙂", "b"])) == [0, 1, 1, 1, 2]
    assert starts("a 🙂b", tokens_of(["a", " \ufffd", "\ufffd", "b"])) == [0, 1, 2, 3]
    assert starts("🙂🙂🙂b", tokens_of(["\ufffd"] * 6 + ["b"])) == [0, 0, 1, 1, 2, 2, 3]


def test_the_text_of_parts_is_claimed_when_it_is_exactly_theirs() -> None:
    offsets = TokenOffsets()
    found: list[int] = []
    for text in ("", "", "", "🙂") * 3:
        found += [start for start, _ in offsets.feed(text, tokens_of(["\ufffd"]))]

    assert found == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert offsets._waiting == ""


def test_a_character_that_is_never_completed_keeps_nothing_back() -> None:
    offsets = TokenOffsets()
    assert offsets.feed("a", tokens_of(["a"]))[0][0] == 0
    assert offsets.feed("", tokens_of(["\ufffd"])) == []
    assert [start for start, _ in offsets.flush()] == [1]


def test_a_token_waits_for_its_text() -> None:
    early = TokenOffsets()
    assert early.feed("", tokens_of(["one"])) == []
    assert [start for start, _ in early.feed("one two", tokens_of([" two"]))] == [0, 3]
    assert [start for start, _ in early.feed("!", tokens_of(["!"]))] == [7]


def test_special_tokens_have_no_place_in_the_text() -> None:
    assert starts("ab", (Token(text="a"), Token(text="</s>", special=True), Token(text="b"))) == [0, 1, 1]


def test_a_token_that_the_text_does_not_have_is_set_right_by_the_next() -> None:
    assert starts("one two three", tokens_of(["▁one", " two", " three"])) == [0, 3, 7]


def test_tokens_that_never_match_cost_no_memory() -> None:
    offsets = TokenOffsets()
    for _ in range(2000):
        offsets.feed("abcdefgh", tokens_of(["x"]))
    assert len(offsets._waiting) <= 4096

    silent = TokenOffsets()
    for _ in range(2000):
        silent.feed("", tokens_of(["x"]))
    assert len(silent._owed) <= 513
