"""What stands in braces in the words of the export command and in the values of properties."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["NUMBERS", "PATHS", "filled", "unknown"]

# Whole words: where the host or the container has something.
PATHS = ("model", "output", "properties", "python")
# Anywhere in a word: facts.
NUMBERS = ("batch_size", "sequence_length", "tensor_parallel_degree")

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def filled(word: str, *, paths: Mapping[str, str], facts: Mapping[str, str]) -> str:
    """Return a word with its placeholders filled in."""
    if (match := _PLACEHOLDER.fullmatch(word)) and match[1] in paths:
        return paths[match[1]]
    return _PLACEHOLDER.sub(lambda part: facts[part[1]] if part[1] in NUMBERS else part[0], word)


def unknown(word: str) -> str:
    """Return the first placeholder of a word that would not be filled in; empty when there is none."""
    if (match := _PLACEHOLDER.fullmatch(word)) and match[1] in PATHS:
        return ""
    return next((part[0] for part in _PLACEHOLDER.finditer(word) if part[1] not in NUMBERS), "")
