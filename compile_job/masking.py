"""Secrets that this process has read, kept out of everything that it writes.

No secret is written on purpose; this is for what other programs and libraries put into their messages.
"""

from __future__ import annotations

__all__ = ["hide", "remember"]

_STARS = "***"
_secrets: set[str] = set()


def remember(secret: str) -> None:
    """Let a secret be replaced by stars from now on."""
    if secret.strip():
        _secrets.add(secret.strip())


def hide(text: str) -> str:
    """Replace every secret in a text."""
    for secret in _secrets:
        text = text.replace(secret, _STARS)
    return text
