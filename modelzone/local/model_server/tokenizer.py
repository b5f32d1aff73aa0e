"""Text to tokens and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from modelzone.errors import ModelzoneError

__all__ = ["Piece", "TextTokenizer", "TokenStream"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Piece:
    """One token of a text and the bytes of the text that it covers; added tokens cover none."""

    id: int
    text: str
    start: int
    stop: int


class TextTokenizer:
    """A fast tokenizer (`tokenizer.json`) with the special tokens that `tokenizer_config.json` names."""

    def __init__(self, *, tokenizer: Tokenizer, bos_token: str, eos_token: str) -> None:
        self._tokenizer = tokenizer
        self.bos_token, self.eos_token = bos_token, eos_token
        self._bos, self.eos = self._special(bos_token), self._special(eos_token)
        self._special_ids = frozenset(
            number for number, added in tokenizer.get_added_tokens_decoder().items() if added.special
        )

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """Load `tokenizer.json` and `tokenizer_config.json` of a folder."""
        try:
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
            return cls(tokenizer=tokenizer, bos_token=config["bos_token"], eos_token=config["eos_token"])
        except (OSError, ValueError, KeyError) as error:
            raise ModelzoneError(f"{folder}: no tokenizer can be read here: {error!r}") from error

    def encode(self, text: str) -> list[int]:
        """Return the ids of a prompt, beginning-of-sequence token first."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def truncate(self, ids: list[int], limit: int) -> list[int]:
        """Keep the beginning-of-sequence token and the end of a prompt that is longer than `limit` tokens."""
        return ids if len(ids) <= limit else [self._bos, *ids[len(ids) - limit + 1 :]]

    def pieces(self, text: str) -> list[Piece]:
        """Return the tokens of a prompt with the bytes that they cover."""
        encoding = self._tokenizer.encode(text)
        ends = [0]  # number of bytes before each character
        for character in text:
            ends.append(ends[-1] + len(character.encode("utf-8", "surrogatepass")))
        return [
            Piece(id=number, text=text[start:stop], start=ends[start], stop=ends[stop])
            for number, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of tokens, special ones included."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def is_special(self, number: int) -> bool:
        """Tell whether a token is not part of the text, such as the end of the sequence."""
        return number in self._special_ids

    def _special(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise ModelzoneError(f"tokenizer_config.json: {token!r} is not in the vocabulary of tokenizer.json.")
        return int(number)


class TokenStream:
    """Decodes tokens one by one.

    A character may take several tokens. Until its last byte has come the tokens yield empty text, then the whole
    character, so the texts joined are exactly the text.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []

    def push(self, number: int) -> str:
        """Add a token and return the text that is complete now."""
        self._pending.append(number)
        text = self._tokenizer.decode(self._pending)
        if text.endswith(_REPLACEMENT):
            return ""
        self._pending.clear()
        return text
