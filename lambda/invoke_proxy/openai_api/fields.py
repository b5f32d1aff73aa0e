"""The fields of a JSON object, taken out one by one and checked; what stays is unknown and refused by its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from invoke_proxy.errors import ApiError, bad_request

__all__ = ["Fields", "Harmless", "refused", "require_list", "require_object", "require_text", "unknown", "wrong_type"]

Harmless = Mapping[str, tuple[Any, ...]]
"""Parameters that no engine here can honour, each with the values that ask for nothing."""


class Fields:
    """Fields of an object. A field set to null counts as absent, as OpenAI has it.

    Parameters
    ----------
    values
        The object as it came.
    path
        Where the object is in the request, as in ``parameters``; empty for the whole body.
    """

    def __init__(self, values: Mapping[str, Any], *, path: str = "") -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def param(self, name: str) -> str:
        """Return the field's full name, for error messages."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> Any:
        """Return the field's value, None when it is absent."""
        return self._values.pop(name, None)

    def required_text(self, name: str) -> str:
        """Return a text that has to be there."""
        value = self.take(name)
        if value is None:
            raise missing(self.param(name))
        return require_text(value, param=self.param(name))

    def text(self, name: str) -> str | None:
        """Return a text, or None."""
        value = self.take(name)
        return None if value is None else require_text(value, param=self.param(name))

    def boolean(self, name: str, *, default: bool) -> bool:
        """Return a boolean."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            wrong_type(self.param(name), "a boolean", value)
        return value

    def integer(self, name: str, *, low: int, high: int | None = None) -> int | None:
        """Return an integer within limits, or None."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            wrong_type(self.param(name), "an integer", value)
        check_range(self.param(name), value, low, high)
        return value

    def number(
        self, name: str, *, low: float, high: float | None = None, above: bool = False, below: bool = False
    ) -> float | None:
        """Return a number within limits, or None. `above` and `below` exclude the limit itself."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            wrong_type(self.param(name), "a number", value)
        check_range(self.param(name), value, low, high, above=above, below=below)
        try:
            return float(value)
        except OverflowError:
            raise bad_request(f"{self.param(name)} is too large.", param=self.param(name)) from None

    def refuse_rest(self, *, ignored: Collection[str] = (), harmless: Harmless | None = None) -> None:
        """Refuse what was not taken, except what is ignored knowingly and what asks for nothing.

        Raises
        ------
        ApiError
            400 ``unsupported_parameter`` for a known name with a value that asks for something, 400
            ``unknown_parameter`` for any other.
        """
        known = harmless or {}
        for name, value in self._values.items():
            if name in ignored:
                continue
            if name not in known:
                raise unknown(self.param(name))
            if not any(_equal(value, nothing) for nothing in known[name]):
                raise refused(self.param(name), "by the engines behind this gateway. Leave it out")


def require_text(value: Any, *, param: str) -> str:
    """Return the value if it is a text that can be sent on, else raise a 400 naming the field."""
    if not isinstance(value, str):
        wrong_type(param, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise bad_request(f"{param} holds half a surrogate pair, which is not valid Unicode.", param=param) from None
    return value


def require_object(value: Any, *, param: str) -> dict[str, Any]:
    """Return the value if it is an object, else raise a 400 naming the field."""
    if not isinstance(value, dict):
        wrong_type(param, "an object", value)
    return value


def require_list(value: Any, *, param: str, most: int | None = None) -> list[Any]:
    """Return the value if it is a list that is not too long, else raise a 400 naming the field."""
    if not isinstance(value, list):
        wrong_type(param, "a list", value)
    if most is not None and len(value) > most:
        raise bad_request(
            f"{param} has {len(value)} items, at most {most} are possible.", param=param, code="array_above_max_length"
        )
    return value


def missing(param: str) -> ApiError:
    """Return the 400 for a field that has to be there."""
    return bad_request(f"{param} is missing.", param=param, code="missing_required_parameter")


def unknown(param: str) -> ApiError:
    """Return the 400 for a field that no API here has."""
    return bad_request(f"Unknown parameter: '{param[:80]}'. Leave it out.", param=param, code="unknown_parameter")


def refused(param: str, why: str) -> ApiError:
    """Return the 400 for a field that is known and cannot be honoured; `why` goes on after "is not supported"."""
    return bad_request(f"{param} is not supported {why}.", param=param, code="unsupported_parameter")


def check_range(
    param: str, value: float, low: float, high: float | None, *, above: bool = False, below: bool = False
) -> None:
    """Raise a 400 when a number is outside its limits; NaN always is."""
    # The comparisons are written so that NaN fails them.
    enough = value > low if above else value >= low
    little = high is None or (value < high if below else value <= high)
    if not (enough and little):
        least = f"above {low}" if above else f"at least {low}"
        most = "" if high is None else f" and below {high}" if below else f" and at most {high}"
        raise bad_request(f"{param} is {_short(value)}, expected {least}{most}.", param=param)


def wrong_type(param: str, expected: str, value: Any) -> NoReturn:
    """Raise a 400 that names the field, what it must be and what it is; never the value."""
    kinds = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    found = "null or missing" if value is None else kinds.get(type(value), "something else")
    raise bad_request(f"{param} must be {expected}, got {found}.", param=param, code="invalid_type")


def _equal(value: Any, nothing: Any) -> bool:
    """Whether the values are the same JSON: 0 and 0.0 are, 0 and false are not."""
    if isinstance(value, bool) or isinstance(nothing, bool):
        return value is nothing
    return bool(value == nothing)


def _short(value: float) -> str:
    try:
        text = str(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "a huge number"
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004
