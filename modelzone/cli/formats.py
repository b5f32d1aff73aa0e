"""Numbers as people read them. What is not known is said."""

from __future__ import annotations

__all__ = ["UNKNOWN", "gib", "parameters", "usd", "whole"]

UNKNOWN = "unknown"
_GIB = 1024**3
_BILLION = 10**9
_MILLION = 10**6


def whole(number: int) -> str:
    """All digits in groups of three."""
    return f"{number:,}"


def gib(size: int) -> str:
    """Bytes in GiB, two digits behind the point."""
    return f"{size / _GIB:,.2f}"


def parameters(count: int) -> str:
    """A number of weights, ``46.70 B``."""
    return f"{count / _BILLION:,.2f} B" if count >= _BILLION else f"{count / _MILLION:,.1f} M"


def usd(amount: float | None) -> str:
    """Dollars and cents; prices below ten cents with four digits."""
    if amount is None:
        return UNKNOWN
    return f"{amount:,.2f}" if abs(amount) >= 0.1 or not amount else f"{amount:.4f}"  # noqa: PLR2004
