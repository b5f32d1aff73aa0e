from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.invoke_proxy_formats import tokens_of

from invoke_proxy.confidence import Confidence, sentence_spans
from invoke_proxy.generation import Token


def sentences(text: str) -> list[str]:
    return [text[start:end].strip() for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("One", ["One"]),
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It is 3.14 exactly. Yes.", ["It is 3.14 exactly.", "Yes."]),
        ("Dr. Smith met Mr. J. R. Jones. They talked.", ["Dr. Smith met Mr. J. R. Jones.", "They talked."]),
        ("Fruit, e.g. Apples, is good. Eat it.", ["Fruit, e.g. Apples, is good.", "Eat it."]),
        ("See Fig. 3 and No. 5. Done.", ["See Fig. 3 and No. 5.", "Done."]),
        ("Das ist z.B. Obst bzw. Gemüse. Gut.", ["Das ist z.B. Obst bzw. Gemüse.", "Gut."]),
        ("It was approx. five metres. Right.", ["It was approx. five metres.", "Right."]),
        ("So do I. You too.", ["So do I.", "You too."]),
        ("1. First\n2. Second", ["1. First", "2. Second"]),
        ("He said “Go.” Then he left.", ["He said “Go.”", "Then he left."]),
        ("Wait... What?! No.", ["Wait...", "What?!", "No."]),
        ("你好。今天很好！是吗？", ["你好。", "今天很好！", "是吗？"]),  # noqa: RUF001
        ("「はい。」そうです。", ["「はい。」", "そうです。"]),
        ("A title\n\nText here. More", ["A title", "Text here.", "More"]),
        ("x = f(a.b)\ny = 2", ["x = f(a.b)", "y = 2"]),
        ("\n\nOne.\n", ["One."]),
        ("   ", [""]),
        ("www.example.org is a site. Yes", ["www.example.org is a site.", "Yes"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@settings(deadline=None)  # the machine may be busy
@given(st.text(alphabet="aB1.!? \n。”", max_size=60))
def test_sentences_are_the_whole_text(text: str) -> None:
    spans = sentence_spans(text)

    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)


def test_score_is_the_geometric_mean() -> None:
    confidence = Confidence()
    confidence.add([Token(text="a", logprob=math.log(0.5)), Token(text="b", logprob=math.log(0.125))])

    assert confidence.document() == {
        "score": 0.25,
        "tokens": 2,
        "sentences": [{"text": "ab", "score": 0.25, "tokens": 2}],
    }


def test_each_sentence_has_its_tokens() -> None:
    confidence = Confidence()
    sure, unsure = tokens_of(["Yes", "."], logprob=0.0), tokens_of([" May", "be", "."], logprob=math.log(0.5))
    confidence.add([*sure, *unsure])

    assert confidence.document()["sentences"] == [
        {"text": "Yes.", "score": 1.0, "tokens": 2},
        {"text": "Maybe.", "score": 0.5, "tokens": 3},
    ]


def test_what_has_no_log_probability_counts_for_nothing() -> None:
    confidence = Confidence()
    confidence.add([Token(text="a", logprob=-1.0), Token(text="b"), Token(text="c", logprob=math.nan)])
    confidence.add([Token(text="</s>", logprob=-9.0, special=True)])

    assert confidence.document() == {
        "score": 0.367879,
        "tokens": 1,
        "sentences": [{"text": "abc", "score": 0.367879, "tokens": 1}],
    }


def test_nothing_known_is_null() -> None:
    assert Confidence().document() == {"score": None, "tokens": 0, "sentences": []}
    confidence = Confidence()
    confidence.add([], text="Hi.")

    assert confidence.document() == {
        "score": None,
        "tokens": 0,
        "sentences": [{"text": "Hi.", "score": None, "tokens": 0}],
    }


def test_impossible_tokens_and_rounding_stay_within_0_and_1() -> None:
    for logprob, score in ((-math.inf, 0.0), (1e-7, 1.0)):
        confidence = Confidence()
        confidence.add([Token(text="a", logprob=logprob)])
        assert confidence.document()["score"] == score


def test_only_what_was_seen_counts() -> None:
    confidence = Confidence()
    confidence.add(tokens_of(["One.", " Two.", " STOP"]))

    assert confidence.document(length=9)["tokens"] == 2
    assert [item["text"] for item in confidence.document(length=9)["sentences"]] == ["One.", "Two."]


WORDS = st.lists(
    st.tuples(st.sampled_from(["a", " B", ".", "!", " ", "\n", "e.g.", " 1", "。", "", "\ufffd"]), st.floats(-20, 0)),
    max_size=20,
)


@settings(deadline=None)  # the machine may be busy
@given(words=WORDS, cuts=st.lists(st.integers(0, 20)))
def test_pieces_never_matter_and_no_token_is_lost(words: list[tuple[str, float]], cuts: list[int]) -> None:
    tokens = [Token(text=text, logprob=logprob) for text, logprob in words]
    whole, streamed = Confidence(), Confidence()
    whole.add(tokens)
    edges = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    for start, end in itertools.pairwise(edges):
        streamed.add(tokens[start:end])
    document = whole.document()

    assert streamed.document() == document
    assert document["tokens"] == len(tokens)
    if document["sentences"]:
        assert sum(item["tokens"] for item in document["sentences"]) == len(tokens)
    assert all(item["score"] is None or 0 <= item["score"] <= 1 for item in [document, *document["sentences"]])
