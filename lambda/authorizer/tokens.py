"""Tokens ``mz_<key id>_<secret>`` in requests."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Token", "find_token"]

# Ten characters of base32 and 32 random bytes in base64url.
_TOKEN = re.compile(r"mz_([a-z2-7]{10})_[A-Za-z0-9_-]{43}")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token that has the right form. Its text is in no representation of it."""

    key_id: str
    text: str = field(repr=False)

    def matches(self, sha256: str) -> bool:
        """Whether this is the token of that hash (hexadecimal); takes the same time whatever differs."""
        mine = hashlib.sha256(self.text.encode()).hexdigest()
        return hmac.compare_digest(mine.encode(), sha256.lower().encode())


def find_token(event: Mapping[str, Any]) -> Token | None:
    """Find the token in ``Authorization: Bearer …`` or in ``x-api-key``.

    OpenAI's clients send some Authorization header in any case, so one that holds no token of ours is passed over.
    """
    headers = {str(name).lower(): value for name, value in (event.get("headers") or {}).items()}
    bearer = _BEARER.fullmatch(str(headers.get("authorization") or ""))
    for text in (bearer[1] if bearer else "", str(headers.get("x-api-key") or "").strip()):
        if match := _TOKEN.fullmatch(text):
            return Token(key_id=match[1], text=text)
    return None
