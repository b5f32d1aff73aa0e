"""How sure a model was of its answer, from the log probabilities of the tokens it chose.

The score of a text is ``exp(mean(logprob))`` over its tokens: the geometric mean of their probabilities, so it does
not fall with the text's length. 1 means that no other token was likely anywhere. It says how sure the model was of its
words, not whether they are true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from invoke_proxy.generation import Token
from invoke_proxy.token_offsets import PlacedToken, TokenOffsets

__all__ = ["Confidence", "sentence_spans"]

_DIGITS = 6

# A line's end, an ideographic full stop, or a mark that space follows; closing quotes and brackets belong to it.
_END = re.compile(r"\n+|[。．！？｡][」』”’）】]*|[.!?…]+[\"'”’»)\]]*(?=\s|$)")  # noqa: RUF001
_LAST_WORD = re.compile(r"[^\W_][\w.’'-]*$")  # noqa: RUF001
# Full stops that end no sentence: before the name, number or example that follows. English, German, French, Spanish.
# fmt: off
_ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "rev", "hon", "gen", "col", "capt", "lt", "sgt", "vs", "cf",
    "al", "no", "nos", "fig", "figs", "eq", "eqs", "sec", "ch", "vol", "pp", "p", "ed", "eds", "est", "approx", "ca",
    "inc", "ltd", "co", "corp", "dept", "univ", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct",
    "nov", "dec", "e.g", "i.e", "eg", "ie", "viz", "resp", "a.m", "p.m", "z.b", "d.h", "u.a", "o.ä", "bzw", "usw",
    "nr", "abs", "art", "abb", "bspw", "evtl", "ggf", "inkl", "vgl", "str", "hr", "fr", "mme", "mlle", "sra", "srta",
    "ud", "uds", "núm", "pág",
})
# fmt: on


class Confidence:
    """Add up an answer's tokens as they come.

    Special tokens, and tokens without a log probability, count for nothing.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._offsets = TokenOffsets()
        self._tokens: list[tuple[int, float]] = []

    def add(self, tokens: Sequence[Token], *, text: str | None = None) -> None:
        """Add a piece of the answer: tokens, and its text unless that is the tokens' own.

        The text of the tokens may have come before, or come later.
        """
        if text is None:
            text = "".join(token.text for token in tokens if not token.special)
        self._parts.append(text)
        self._keep(self._offsets.feed(text, tokens))

    def _keep(self, placed: Sequence[PlacedToken]) -> None:
        for start, token in placed:
            if not token.special and token.logprob is not None and not math.isnan(token.logprob):
                # The place of a token is that of its first visible character.
                lead = len(token.text) - len(token.text.lstrip())
                self._tokens.append((start + (lead if lead < len(token.text) else 0), token.logprob))

    def document(self, *, length: int | None = None) -> dict[str, Any]:
        """Return the scores of the answer's first `length` characters, of all of them by default.

        A score is null where no token has a log probability.
        """
        self._keep(self._offsets.flush())
        text = "".join(self._parts)[:length]
        tokens = [item for item in self._tokens if item[0] < len(text)] if length is not None else self._tokens
        tokens = sorted(tokens)
        sentences: list[dict[str, Any]] = []
        first = 0
        spans = sentence_spans(text)
        for index, (start, end) in enumerate(spans):
            past = first
            last_span = index == len(spans) - 1
            while past < len(tokens) and (last_span or tokens[past][0] < end):
                past += 1
            sentences.append({"text": text[start:end].strip(), **_score(tokens[first:past])})
            first = past
        return {**_score(tokens), "sentences": sentences}


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return where the sentences of a text begin and end; together they are the whole text.

    A line's end always ends a sentence. A full stop does where space follows, unless it is a number's ("1. First"),
    an abbreviation's or an initial's, or the next word begins small.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _END.finditer(text):
        end = match.end()
        if not text[start:end].strip():
            continue
        if match.group().startswith(".") and not _ends_sentence(text, start, match):
            continue
        spans.append((start, end))
        start = end
    if text[start:].strip() or (start < len(text) and not spans):
        spans.append((start, len(text)))
    elif spans and start < len(text):
        spans[-1] = (spans[-1][0], len(text))
    return spans


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    following = text[match.end() : match.end() + 64].lstrip()
    if not following:
        return True
    if following[0].islower():
        return False
    if match.group() != ".":
        return True
    before = text[start : match.start()]
    if before.strip().isdecimal():  # a list's number
        return False
    found = _LAST_WORD.search(before[-32:])
    word = found.group() if found else ""
    initial = len(word) == 1 and word.isalpha() and word.isupper() and word != "I"
    return not initial and word.lower() not in _ABBREVIATIONS


def _score(tokens: Sequence[tuple[int, float]]) -> dict[str, Any]:
    if not tokens:
        return {"score": None, "tokens": 0}
    mean = sum(logprob for _, logprob in tokens) / len(tokens)
    # An engine's rounding may leave a log probability a little above 0.
    return {"score": round(math.exp(min(mean, 0.0)), _DIGITS), "tokens": len(tokens)}
