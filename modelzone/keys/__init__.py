"""Keys of the gateway: their tokens, and the table that knows them.

A key belongs to a tenant of an environment. Its token is shown once, when it is made; the table keeps a hash.
"""

from __future__ import annotations

from modelzone.keys.spans import parse_span, span_text
from modelzone.keys.table import GRACE_LIMIT, STALE_SECONDS, Key, Keys, KeyState, Rotation, known_seconds
from modelzone.keys.token import Token, hash_token, is_key_id, key_id_of, new_token

__all__ = [
    "GRACE_LIMIT",
    "STALE_SECONDS",
    "Key",
    "KeyState",
    "Keys",
    "Rotation",
    "Token",
    "hash_token",
    "is_key_id",
    "key_id_of",
    "known_seconds",
    "new_token",
    "parse_span",
    "span_text",
]
