"""Which texts may begin to match where: hundreds of megabytes pass through a few dozen substring searches.

Each text of a signature is looked for by one keyword, in raw bytes; only around a hit is anything decoded and compared
with the whole text. One regular expression with all texts would enter at every third character and be slower.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from modelzone.doctor.signatures import Pattern, Signature, pattern, signatures

__all__ = ["KeywordTexts", "Text", "looked_for", "texts_by_keyword"]

# Shared by many texts and seldom in the log of a healthy server; a text takes the first that it contains. What
# contains none is looked for by a piece of its own.
_KEYWORDS = (
    "ROLLBACK_",
    "NCC_IBIR243",
    "max_input_length",
    "o space left on",
    "rcibly killed",
    " of memory",
    "larger than the",
    " already e",
    "OOMKilled",
    "manifest",
    " code 137",
    "ended with ",
    "nrt_init",
    "account-level",
    "Python ",
    " bootstrap",
    " credentials",
    "xceeded",
    "cancelled",
    "expected",
    "annot ",
    "Unable to ",
    "supported",
    "nvalid ",
    " must ",
    " available ",
    "apacity",
    "rror",
    "ailure",
    "iled ",
    " not ",
    "euron co",
    "d version ",
    "ugh memory t",
    "ated ",
)
_LONGEST = 20
# A line that repeats a keyword more often is compared with all its texts: that costs less than looking around each hit.
_MANY_HITS = 16
# Quotes and backslashes are escaped inside JSON, and what is not ASCII may be, too.
_ESCAPED = re.compile(r"[\"'\\]|[^ -~]")


@dataclass(frozen=True)
class Text:
    """One text of a signature, and what it is looked for by.

    Attributes
    ----------
    word, offset
        Another word of the text, and where it stands from the keyword on: rules out nearly all false hits.
    words
        What must stand around a hit, too, for each piece of the text: cheaper than its expression.
    """

    signature: Signature
    pattern: Pattern
    keyword: str
    word: bytes
    offset: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class KeywordTexts:
    """The texts that are looked for by one keyword."""

    keyword: bytes
    texts: tuple[Text, ...]

    def near(self, buffer: bytes, hits: Sequence[int]) -> Iterable[Text]:
        """Those that may stand around the hits on a line, each once."""
        if len(hits) > _MANY_HITS:
            return self.texts
        near = [text for at in hits for text in self.texts if buffer.startswith(text.word, max(0, at + text.offset))]
        return {id(text): text for text in near}.values()


@cache
def texts_by_keyword() -> tuple[KeywordTexts, ...]:
    """All texts, grouped by keyword."""
    groups: dict[str, list[Text]] = {}
    for signature in signatures():
        for written in signature.any:
            text = looked_for(signature, pattern(written))
            groups.setdefault(text.keyword, []).append(text)
    return tuple(KeywordTexts(word.encode("ascii"), tuple(texts)) for word, texts in groups.items())


def looked_for(signature: Signature, compiled: Pattern) -> Text:
    """Decide what a text is looked for by: a shared keyword, or else a piece of its own."""
    runs = [run for piece in compiled.pieces for run in _ESCAPED.split(piece) if run]
    longest = max(runs, key=len)
    keyword, run = next(
        ((word, run) for word in _KEYWORDS for run in runs if word in run), (longest[:_LONGEST], longest)
    )
    word = max(run.split(), key=len)
    offset = run.index(word) - run.index(keyword)
    words = tuple(max(piece.split(), key=len) for piece in compiled.pieces if piece.strip())
    return Text(signature, compiled, keyword, word.encode("ascii"), offset, words)
