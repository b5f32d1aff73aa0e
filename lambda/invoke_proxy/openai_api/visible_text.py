"""What a client sees of an answer: cut at stop sequences, and every token with the text it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from invoke_proxy.confidence import Confidence
from invoke_proxy.generation import Token
from invoke_proxy.stop_filter import StopFilter
from invoke_proxy.token_offsets import PlacedToken, TokenOffsets

__all__ = ["PlacedToken", "VisibleText", "valid_unicode"]

_NO_TOKENS: list[PlacedToken] = []


class VisibleText:
    """Pass text and tokens on as far as it is certain that the client may see them.

    Parameters
    ----------
    stop
        The texts before which the answer ends.
    tokens
        Whether tokens are wanted beside their text.
    confidence
        Whether to keep account of the model's confidence.
    """

    def __init__(self, *, stop: tuple[str, ...], tokens: bool, confidence: bool) -> None:
        self._stop = StopFilter(stop)
        self._has_stop = bool(stop)
        self._offsets = TokenOffsets() if tokens else None
        self._pending: list[PlacedToken] = []
        self._confidence = Confidence() if confidence else None
        self._length = 0
        self._half = ""

    @property
    def stopped(self) -> bool:
        """Whether a stop sequence ended the answer."""
        return self._stop.stopped

    def feed(self, text: str, tokens: Sequence[Token]) -> tuple[str, list[PlacedToken]]:
        """Return the text that may be seen now, and the tokens that begin in what has been seen.

        A token that begins before a stop sequence belongs to the answer, one that begins within it does not.
        """
        if self._stop.stopped:
            return "", _NO_TOKENS
        if self._half or not _is_valid(text):
            text = self._whole_characters(text)
        if self._confidence is not None:
            self._confidence.add(tokens, text=text)
        if self._offsets is not None:
            self._pending += [item for item in self._offsets.feed(text, tokens) if not item[1].special]
        if self._has_stop:
            text = self._stop.feed(text)
        self._length += len(text)
        return text, self._released() if self._pending and text else _NO_TOKENS

    def flush(self) -> tuple[str, list[PlacedToken]]:
        """Return what is left, once no more will come."""
        if self._stop.stopped:
            return "", _NO_TOKENS
        text = self._stop.flush() + ("\ufffd" if self._half else "")
        self._half = ""
        self._length += len(text)
        if self._offsets is not None:
            self._pending += [item for item in self._offsets.flush() if not item[1].special]
        tokens, self._pending = self._pending, []
        if self._has_stop:
            # An engine that leaves a stop sequence out of the text still has its tokens.
            tokens = [item for item in tokens if item[0] < self._length or not item[1].text.strip("\ufffd")]
        return text, tokens

    def confidence(self) -> dict[str, Any] | None:
        """Return the confidence in what was seen; None when nobody wanted it."""
        return None if self._confidence is None else self._confidence.document(length=self._length)

    def _released(self) -> list[PlacedToken]:
        waiting = next((index for index, item in enumerate(self._pending) if item[0] >= self._length), None)
        if waiting is None:
            tokens, self._pending = self._pending, []
        else:
            tokens, self._pending = self._pending[:waiting], self._pending[waiting:]
        return tokens

    def _whole_characters(self, text: str) -> str:
        """Put halves of surrogate pairs together, which engines written in Java may tear apart between two tokens."""
        text, self._half = self._half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return valid_unicode(text)


def valid_unicode(text: str) -> str:
    """Return the text with surrogate pairs joined and lone halves replaced: JSON in UTF-8 cannot hold them."""
    return text if _is_valid(text) else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _is_valid(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
