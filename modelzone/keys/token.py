"""The token of a key: ``mz_<key id>_<secret>``. Who holds it may call the gateway as the key's tenant.

The id finds the key's record and is no secret; it may stand in logs. The secret is 256 random bits, so a plain SHA-256
of the token tells nothing about it, and a slow hash for passwords would only make each request slower.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field

__all__ = ["Token", "hash_token", "is_key_id", "key_id_of", "new_token"]

# Lower case and no 0, 1, 8, 9: an id is read out and typed.
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_ID_LENGTH = 10
_SECRET_BYTES = 32
_ID = re.compile(rf"[a-z2-7]{{{_ID_LENGTH}}}")
_TOKEN = re.compile(rf"mz_(?P<key_id>[a-z2-7]{{{_ID_LENGTH}}})_[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token that was just made. Its text is left out of ``repr``, so that no log and no traceback shows it."""

    key_id: str
    text: str = field(repr=False)


def new_token() -> Token:
    """Make a token from the system's source of randomness."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    secret = base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).rstrip(b"=").decode()
    return Token(key_id=key_id, text=f"mz_{key_id}_{secret}")


def hash_token(text: str) -> str:
    """What the table keeps of a token: SHA-256 of the whole of it, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def key_id_of(text: str) -> str | None:
    """The id in a token; None when the text is no token."""
    match = _TOKEN.fullmatch(text)
    return match["key_id"] if match else None


def is_key_id(text: str) -> bool:
    """Whether a text has the form of a key's id."""
    return bool(_ID.fullmatch(text))
