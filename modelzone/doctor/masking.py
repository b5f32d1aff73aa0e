"""Hides secrets in what the doctor repeats from a log."""

from __future__ import annotations

import re

__all__ = ["mask"]

_SECRETS = re.compile(
    r"""
      (?P<hub>\b(?:hf|api_org)_)[A-Za-z0-9]{6,}
    | (?P<key>\b(?:AKIA|ASIA|ABIA|ACCA))[A-Z0-9]{12,}
    | (?P<header>\bauthorization["']?\s*[:=]\s*["']?(?:\w+\s+)?)[\w.~+/=-]{8,}
    | (?P<bearer>\bbearer\s+)[\w.~+/=-]{16,}
    | (?P<signed>\bX-Amz-(?:Signature|Security-Token|Credential)=)[^\s&"']+
    | (?P<named>(?<!\d:)[\w-]*(?:token(?!s|iz)|secret(?!smanager|s\b)|passw(?:or)?d|api[-_]?key)
      [\w-]*["']?\s*[:=]\s*["']?)
      [^\s"',&;)]{6,}
    | (?P<jwt>\beyJ)[\w-]{10,}\.[\w.-]{10,}
    | (?P<other>\bsk-|\bghp_|\bxox[abp]-)[A-Za-z0-9-]{10,}
    """,
    re.VERBOSE | re.IGNORECASE,
)


def mask(text: str) -> str:
    """Replace secrets by stars. The text keeps its length, so that places in it stay where they are."""
    return _SECRETS.sub(_stars, text)


def _stars(found: re.Match[str]) -> str:
    kept = found[found.lastgroup] if found.lastgroup else ""
    return kept + "*" * (len(found[0]) - len(kept))
