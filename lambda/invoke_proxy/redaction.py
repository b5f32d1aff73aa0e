"""Masks personal data and secrets in content before it is logged.

Patterns find what has a form: addresses, numbers, keys. Names and what people tell about themselves have none and
stay, so logging content remains a decision of the tenant.
"""

from __future__ import annotations

import re

__all__ = ["MARGIN", "excerpt", "redact"]

MARGIN = 4096
"""Characters that `excerpt` reads beyond its limit, so that no secret is cut in two before it is recognised."""

# Where a secret may begin: not inside a word, but after an underscore (`KEY_mz_…`), after a line end that is written as
# backslash and n (JSON inside of JSON), and after a character that a URL has in percent notation.
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2}))"
# An AWS secret key: 40 characters of base64, and no more of them.
_FORTY = r"[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"

# Every pattern starts at a boundary and repeats bounded or disjoint parts, so that long texts take linear time.
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, flags), mask)
    for mask, pattern, flags in (
        (
            "[private key]",
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:(?!-----END)[\s\S])*(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
            0,
        ),
        # A token that was cut off has fewer parts and is one all the same.
        ("[token]", rf"{_START}eyJ[\w-]{{10,}}(?:\.[\w-]*){{0,4}}", 0),
        ("[aws key]", rf"{_START}(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{{16}}(?![A-Za-z0-9])", 0),
        # What session tokens of STS begin with; in URLs some of their characters are in percent notation.
        ("[aws token]", rf"{_START}(?:IQoJ|FwoG|FQoG)[A-Za-z0-9/+%]{{16,}}=*", 0),
        # Whatever 40 characters somebody calls a secret or a key.
        (
            r"\1[aws secret]",
            rf"((?:secret|key|token|password)[\w \"'-]{{0,24}}?(?:[:=]|\bis\b)[ \t]{{0,8}}[\"'`]?){_FORTY}",
            re.IGNORECASE,
        ),
        (
            "[key]",
            rf"{_START}(?:hf_|sk-|pk-|rk-|mz_|ghp_|gho_|ghs_|ghu_|github_pat_|glpat-|xox[abpr]-)[\w-]{{10,}}",
            0,
        ),
        ("[key]", rf"{_START}AIza[\w-]{{35}}(?![\w-])", 0),
        (r"\1[token]", r"(bearer(?:\s|\\t|%20){1,8})[\w.~+/-]{16,}=*", re.IGNORECASE),
        (r"\1[password]", r"(authorization[\"']?\s{0,8}[:=]\s{0,8}[\"']?basic\s{1,8})[\w+/-]{4,}=*", re.IGNORECASE),
        ("[password]", r"(?<=://)[^\s/:@]{0,64}:[^\s/@]{1,256}(?=@)", 0),
        (
            "[email]",
            r"(?<![\w.%+-])[\w.%+-]{1,256}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![^\W_])",
            0,
        ),
    )
)
# Without a word before it, a secret key is told by its letters.
_LONE_SECRET = re.compile(rf"(?:(?<![A-Za-z0-9/+])|(?<=\\[nrtbf])){_FORTY}")
_BASIC = re.compile(r"(?<![A-Za-z0-9])(basic\s{1,8})([A-Za-z0-9+/_-]{4,}=*)", re.IGNORECASE)
# Runs of digits with single separators; whether one holds a card's number is decided by its check digit. Dots and line
# ends separate groups of three and more only: shorter ones are addresses, versions, lists.
_DIGITS = re.compile(r"(?<!\d)\d(?:[ \t\u00a0\u202f-]?\d|(?<=\d{3})(?:\.|\r?\n|\\n)(?=\d{3})\d){12,}(?!\d)")
_CARD_LENGTHS = range(13, 20)
_CARD_BEGINNINGS = "23456"  # of the payment networks: ISO/IEC 7812's major industries
_PHONE = re.compile(
    r"""
      (?<![\w+])\+\d{1,3}(?:[ ./-]{0,2}\(?\d{1,5}\)?){2,7}(?!\d)          # +49 (30) 1234-5678
    | (?<![\w+])00[1-9]\d{0,2}(?:[ ./-]\(?\d{1,8}\)?){1,6}(?!\d)            # 0049 30 12345678
    | (?<![\w(])\(\d{2,5}\)[ ./-]?\d{2,5}(?:[ ./-]?\d{2,5}){1,3}(?!\d)      # (555) 123-4567
    | (?<![\w.-])[2-9]\d{2}([.\ -])\d{3}\1\d{4}(?![\d-])                   # 555-123-4567
    | (?<![\w.,-])0[1-9]\d{1,4}[ /-]\d{2,8}(?:[ /-]?\d{2,5}){0,3}(?![\d,.-]) # 030 1234567
    """,
    re.VERBOSE,
)
_PHONE_DIGITS = range(7, 16)
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV4 = re.compile(rf"(?<![\d.]){_OCTET}(?:\.{_OCTET}){{3}}(?!\.?\d)")
_IPV6 = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{2,39}(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:]|\.\d)"
)
_LONG_GROUP = 3


def redact(text: str) -> str:
    """Replace e-mail addresses, phone and card numbers, IP addresses, keys and tokens by a word in brackets."""
    for pattern, mask in _SECRETS:
        text = pattern.sub(mask, text)
    text = _LONE_SECRET.sub(_without_secret, text)
    text = _BASIC.sub(_without_basic, text)
    text = _DIGITS.sub(_without_cards, text)
    text = _PHONE.sub(_without_phone, text)
    text = _IPV6.sub(_without_ipv6, text)
    return _IPV4.sub("[ip]", text)


def excerpt(text: str, *, limit: int) -> str:
    """Return the redacted beginning of a text: at most `limit` characters, and an ellipsis when more follows."""
    redacted = redact(text[: limit + MARGIN])
    # Where more follows, the last characters read may be the first of something that would be recognised whole.
    end = limit if len(text) <= limit + MARGIN else min(limit, max(0, len(redacted) - MARGIN))
    return redacted if len(text) <= limit + MARGIN and len(redacted) <= limit else f"{redacted[:end]}…"


def _without_secret(found: re.Match[str]) -> str:
    """Mask what has capital and small letters and digits: a digest has none of the first, a path seldom all."""
    text = found[0]
    mixed = any(map(str.isupper, text)) and any(map(str.islower, text)) and any(map(str.isdigit, text))
    return "[aws secret]" if mixed else text


def _without_basic(found: re.Match[str]) -> str:
    """Mask a user and a password as HTTP's basic scheme has them; "basic understanding" is not base64 of these."""
    import base64  # noqa: PLC0415 - rarely needed

    text = found[2].rstrip("=")
    try:
        pair = base64.b64decode(text[: len(text) // 4 * 4], b"-_" if {"-", "_"} & set(text) else None).decode()
        pair += base64.b64decode(text[len(text) // 4 * 4 :] + "==").decode() if len(text) % 4 > 1 else ""
    except ValueError:
        return found[0]
    return f"{found[1]}[password]" if ":" in pair and pair.isprintable() else found[0]


def _without_cards(run: re.Match[str]) -> str:
    """Mask the card numbers in a run of digits, which begin and end where the writer left a gap."""
    text = run[0]
    groups = [(group.start(), group.end()) for group in re.finditer(r"\d+", text)]
    masked: list[str] = []
    position, index = 0, 0
    while index < len(groups):
        end = _card_end(text, groups, index)
        if end is None:
            index += 1
            continue
        masked += [text[position : groups[index][0]], "[card]"]
        position, index = groups[end][1], end + 1
    return "".join(masked) + text[position:]


def _card_end(text: str, groups: list[tuple[int, int]], first: int) -> int | None:
    """Return the index of the last group of a card's number that begins with the group `first`, the longest one."""
    digits, found = "", None
    if text[groups[first][0]] not in _CARD_BEGINNINGS:
        return None
    for index in range(first, len(groups)):
        start, end = groups[index]
        digits += text[start:end]
        if len(digits) > _CARD_LENGTHS[-1]:
            break
        if len(digits) in _CARD_LENGTHS and _luhn(digits):
            found = index
    return found


def _luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    doubled = (2 * int(digit) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(value - 9 if value > 9 else value for value in doubled)) % 10 == 0  # noqa: PLR2004 - the sum of its digits


def _without_phone(found: re.Match[str]) -> str:
    digits = sum(character.isdigit() for character in found[0])
    return "[phone]" if digits in _PHONE_DIGITS else found[0]


def _without_ipv6(found: re.Match[str]) -> str:
    from ipaddress import AddressValueError, IPv6Address  # noqa: PLC0415 - rarely needed

    try:
        IPv6Address(found[0])
    except AddressValueError:
        return found[0]
    # `::2` and `b::c` are code far more often than addresses.
    groups = [group for group in found[0].split(":") if group]
    return "[ip]" if len(groups) > 1 and max(map(len, groups)) >= _LONG_GROUP else found[0]
