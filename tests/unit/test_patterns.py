"""Number ranges as patterns, tried number by number."""

from __future__ import annotations

import re

import pytest

from modelzone.patterns import integer_range_pattern


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 0),
        (0, 9),
        (0, 10),
        (1, 1),
        (1, 100),
        (5, 5),
        (7, 13),
        (60, 3600),
        (99, 101),
        (513, 32768),
        (1, 512),
        (10, 99),
    ],
)
def test_exactly_the_range_matches(low: int, high: int) -> None:
    pattern = re.compile(integer_range_pattern(low, high))
    matched = [n for n in range(max(2000, high * 2)) if pattern.fullmatch(str(n))]
    assert matched == list(range(low, high + 1))


def test_other_spellings_do_not_match() -> None:
    pattern = re.compile(integer_range_pattern(60, 3600))
    assert not [text for text in ("", "060", "60.0", "+60", "-60", " 60", "6e1", "sixty") if pattern.fullmatch(text)]


@pytest.mark.parametrize(("low", "high"), [(3, 2), (-1, 5)])
def test_no_range(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        integer_range_pattern(low, high)
