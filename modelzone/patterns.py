"""Regular expressions for CloudFormation's ``AllowedPattern``."""

from __future__ import annotations

__all__ = ["integer_range_pattern"]


def integer_range_pattern(low: int, high: int) -> str:
    """A pattern, without anchors, for the decimal numbers from `low` to `high`, both included, no leading zeros.

    A deploy-time parameter that may also be empty has to be a String, and a String has no minimum and maximum.

    Raises
    ------
    ValueError
        The range is empty or negative.
    """
    if not 0 <= low <= high:
        raise ValueError(f"not a range of natural numbers: {low} to {high}")
    parts: list[str] = []
    start = low
    while start <= high:
        # The longest run from `start` that ends in nines (so that only its last digits vary) and stays in the range.
        digits, size = len(str(start)), 1
        while (
            start % (size * 10) == 0
            and start + size * 10 - 1 <= high
            and len(str(start + size * 10 - 1)) == digits
            and start > 0
        ):
            size *= 10
        head = start // size
        last = head
        while (last + 1) * size - 1 + size <= high and (last + 1) % 10 != 0:
            last += 1
        lead, first_digit, last_digit = str(head)[:-1], str(head)[-1], str(last)[-1]
        digit = first_digit if first_digit == last_digit else f"[{first_digit}-{last_digit}]"
        free = len(str(size)) - 1
        parts.append(f"{lead}{digit}" + ("" if not free else "[0-9]" if free == 1 else f"[0-9]{{{free}}}"))
        start = (last + 1) * size
    return f"({'|'.join(parts)})"
