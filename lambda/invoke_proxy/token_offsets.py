"""Where tokens begin in the text that they make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

from invoke_proxy.generation import Token

__all__ = ["PlacedToken", "TokenOffsets"]

PlacedToken = tuple[int, Token]
"""A token and the character of the answer at which it begins."""

_PART = "\ufffd"
_PARTS = re.compile(f"({_PART}+)")
# A character has up to four bytes and as many tokens.
_PARTS_PER_CHARACTER = 4
# A token that was not found says at most this many characters.
_CHARACTERS_PER_LOST_TOKEN = 16
_MAX_WAITING = 4096
# Tokens wait no longer than this for their text: it is not going to come.
_MAX_OWED = 512
# Parts and whole characters that take turns; a longer row of them is put down as lost.
_MAX_PIECES = 8


class TokenOffsets:
    """Follow text and tokens of one answer and say at which character each token begins.

    Text may come before its tokens, with them, or after them; a token is placed once its text is there. A token that is
    a part of a character reads U+FFFD, or "" where the engine gives the whole character to the last of its parts. The
    tokens of a run of parts are placed when the text that nobody has claimed is exactly their characters: because it
    has a byte for each of them, because the next token follows it, or because there is no other.

    A token whose text the answer does not have is placed where the text is that nobody has claimed yet, and the next
    one that is found sets the count right.
    """

    def __init__(self) -> None:
        self._waiting = ""
        self._position = 0
        self._owed: list[Token] = []
        self._lost = 0

    def feed(self, text: str, tokens: Sequence[Token]) -> Sequence[PlacedToken]:
        """Return the tokens that can be placed now, in order: offsets in characters from the answer's beginning."""
        if len(tokens) == 1 and not self._waiting and not self._owed and _text(tokens[0]) == text:
            start = self._position
            self._position += len(text)
            self._lost = 0
            return ((start, tokens[0]),)
        self._waiting += text
        self._owed += tokens
        return self._placed(final=False)

    def flush(self) -> Sequence[PlacedToken]:
        """Return the other tokens, once no more text will come."""
        return self._placed(final=True)

    def _placed(self, *, final: bool) -> list[PlacedToken]:
        placed: list[PlacedToken] = []
        owed, self._owed = self._owed, []
        final = final or len(owed) > _MAX_OWED
        index = 0
        while index < len(owed):
            own = _text(owed[index])
            if self._waiting.startswith(own):
                placed.append((self._position, owed[index]))
                self._claim(len(own))
                # An empty text is found everywhere and sets nothing right.
                self._lost = 0 if own else self._lost
                index += 1
                continue
            if _PART in own:
                run = _run(owed, index)
                starts = self._starts_of_run(owed, index, run, final=final)
                if starts is None and not final and self._is_short(owed, index, run):
                    break
                if starts is not None:
                    placed += zip(starts, owed[index:run], strict=True)
                    index = run
                    continue
            elif own.startswith(self._waiting):
                if not final:
                    break
                # The answer was cut within this token.
                placed.append((self._position, owed[index]))
                self._claim(len(self._waiting))
                index += 1
                continue
            found = self._waiting.find(own, 0, _CHARACTERS_PER_LOST_TOKEN * self._lost + len(own))
            if found < 0:
                self._lost += 1
                placed.append((self._position, owed[index]))
            else:
                placed.append((self._position + found, owed[index]))
                self._claim(found + len(own))
                self._lost = 0
            index += 1
        self._owed = owed[index:]
        if len(self._waiting) > _MAX_WAITING:
            self._claim(len(self._waiting) - _MAX_WAITING)
        return placed

    def _claim(self, length: int) -> None:
        self._waiting = self._waiting[length:]
        self._position += length

    def _is_short(self, owed: Sequence[Token], index: int, run: int) -> bool:
        """Whether text may be missing that a run of parts and the token after it make."""
        following = _text(owed[run]) if run < len(owed) else ""
        return len(self._waiting) < sum(len(_text(token)) for token in owed[index:run]) + len(following)

    def _starts_of_run(self, owed: Sequence[Token], index: int, run: int, *, final: bool) -> list[int] | None:
        """Return where the tokens of a run of parts begin, None where that is not known, and claim their text."""
        texts = [_text(token) for token in owed[index:run]]
        following = _text(owed[run]) if run < len(owed) else ""
        places = _one_byte_each(texts, self._waiting, following) or _matched(
            texts, self._waiting, following, final=final
        )
        if places is None:
            return None
        starts = [self._position + places[at] for at in accumulate(map(len, texts[:-1]), initial=0)]
        self._claim(places[-1])
        self._lost = 0
        return starts


def _text(token: Token) -> str:
    return "" if token.special else token.text


def _run(owed: Sequence[Token], index: int) -> int:
    """Return where the run of tokens with parts of characters ends."""
    while index < len(owed) and _PART in _text(owed[index]):
        index += 1
    return index


def _one_byte_each(texts: Sequence[str], waiting: str, following: str) -> list[int] | None:
    """Return the place of each character of the texts, and their end, if each part of a character is one byte."""
    places: list[int] = []
    at = 0
    left = 0
    for character in "".join(texts):
        if character == _PART:
            if not left:
                if at >= len(waiting) or waiting[at].isascii():
                    return None
                left = len(waiting[at].encode())
            places.append(at)
            left -= 1
            at += not left
        elif left or not waiting.startswith(character, at):
            return None
        else:
            places.append(at)
            at += 1
    rest = waiting[at : at + len(following)]
    return None if left or not following.startswith(rest) else [*places, at]


def _matched(texts: Sequence[str], waiting: str, following: str, *, final: bool) -> list[int] | None:
    """Return the same if the parts have any number of bytes: the parts of a run share its characters evenly."""
    pieces = [piece for piece in _PARTS.split("".join(texts)) if piece]
    if len(pieces) > _MAX_PIECES:
        return None
    pattern = "".join(
        f"([^\\x00-\\x7f{_PART}]{{{-(-len(piece) // _PARTS_PER_CHARACTER)},{len(piece)}}}?)"
        if piece[0] == _PART
        else f"({re.escape(piece)})"
        for piece in pieces
    )
    # Without a token after it the run has to be all that is there.
    found = re.match(pattern + (re.escape(following) if following else r"\Z"), waiting)
    if found is None and final:
        found = re.match(pattern + r"\Z", waiting)
    if found is None:
        return None
    places: list[int] = []
    for number, piece in enumerate(pieces, start=1):
        start, characters = found.start(number), found.group(number)
        if piece[0] != _PART:
            places += range(start, found.end(number))
            continue
        sizes = list(accumulate(len(character.encode()) for character in characters))
        if sizes[-1] < len(piece):  # not even a byte for each part: text is missing
            return None
        for part in range(len(piece)):
            byte = part * sizes[-1] // len(piece)
            places.append(start + next(index for index, size in enumerate(sizes) if byte < size))
    return [*places, found.end(len(pieces))]
