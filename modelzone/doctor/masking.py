"""Hides secrets in what the doctor repeats from a log."""

from __future__ import annotations

import re

__all__ = ["mask"]

# What a word that names a secret may look like, and what only sounds like one: counts, ids and AWS's request tokens.
_NAME = r"""
    [\w-]{0,60}(?:
      (?<!request)(?<!request[_-])token(?!s|iz|_id|_type)
      | secret(?!smanager|s\b|-id\b)
      | passw(?:or)?d(?!-stdin) | passphrase | api[-_]?key
    )[\w-]{0,60}
"""
# A reference to a secret is none, neither is a placeholder.
_REFERENCE = r"(?!arn:|file:|\*|<[^\s>]*>)"
_SECRETS = re.compile(
    rf"""
      (?P<hub>(?:(?<![a-z0-9_])|(?<=\\[nrt]))hf_)[a-z0-9]{{6,}}
    | (?P<organisation>\bapi_(?:org_)?)[a-z0-9]{{20,}}
    | (?P<key>\b(?:AKIA|ASIA|ABIA|ACCA))[A-Z0-9]{{12,}}
    | (?P<url>\w://[^\s/:@"']*:)[^\s/@"']+(?=@)
    | (?P<header>\bauthorization["']?\s*[:=]\s*["']?(?:\w+\s+)?)[\w.~+/=-]{{8,}}
    | (?P<bearer>\bbearer\s+)[\w.~+/=-]{{16,}}
    | (?P<signed>\bX-Amz-(?:Signature|Security-Token|Credential)=)[^\s&"']+
    | (?P<login>\blogin\b[^\n]{{0,200}}?\s-p[ =])\S+
    | (?P<option>(?<![\w-])--{_NAME}["']?,?[ ]+["']?){_REFERENCE}(?!-)[^\s"',;)]{{6,}}
    | (?P<quoted>(?<!\d:)(?<![\w-]){_NAME}["']?\s*[:=]\s*(?P<quote>["'])){_REFERENCE}
      (?:(?!(?P=quote))[^\n]){{6,}}(?=(?P=quote))
    | (?P<named>(?<!\d:)(?<![\w-]){_NAME}["']?\s*[:=]\s*["']?){_REFERENCE}[^\s"',&;)]{{6,}}
    | (?P<jwt>\beyJ)(?:[\w-]{{10,}}\.[\w.-]{{10,}}|[\w+/=-]{{40,}})
    | (?P<github>\b(?:github_pat_|gh[opsur]_))\w{{10,}}
    | (?P<other>\b(?:sk-|glpat-|xox[abp]-))[\w-]{{10,}}
    """,
    re.VERBOSE | re.IGNORECASE,
)


def mask(text: str) -> str:
    """Replace secrets by stars. The text keeps its length, so that places in it stay where they are."""
    return _SECRETS.sub(_stars, text)


def _stars(found: re.Match[str]) -> str:
    kept = found[found.lastgroup] if found.lastgroup else ""
    return kept + "*" * (len(found[0]) - len(kept))
