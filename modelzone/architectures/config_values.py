"""Takes values out of a ``config.json`` one by one and says what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from modelzone.errors import SettingsError

__all__ = ["REQUIRED", "ConfigValues", "Required"]


class Required:
    """The default of a key that has none."""


REQUIRED = Required()


class ConfigValues:
    """One mapping of a ``config.json``.

    Parameters
    ----------
    values
        The mapping.
    source
        The file, for messages.
    prefix
        Where in the file the mapping stands: ``text_config.`` or nothing.
    """

    def __init__(self, values: Mapping[str, Any], *, source: str, prefix: str = "") -> None:
        self.values, self.source, self.prefix = values, source, prefix

    def has(self, key: str) -> bool:
        """Whether a key is there with a value."""
        return self.values.get(key) is not None

    def number(self, *keys: str, default: int | Required = REQUIRED, least: int = 1) -> int:
        """Read a whole number under the first of its names that is there; null is as good as absent."""
        key = next((name for name in keys if self.has(name)), keys[0])
        value = self.values.get(key)
        if value is None and not isinstance(default, Required):
            return default
        if value is None:
            self.refuse(key, "is required and missing", fix=f"take {key} from the model's own config.json")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.refuse(key, f"is {value!r}", fix=f"give a whole number of at least {least}")
        return value

    def optional_number(self, key: str, default: int | None = None) -> int | None:
        """Read a whole number or null; `default` stands for an absent key only."""
        if key not in self.values:
            return default
        return None if self.values[key] is None else self.number(key)

    def flag(self, key: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, f"is {value!r}", fix="give true or false")
        return value

    def texts(self, key: str) -> list[str] | None:
        """Read a list of names."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self.refuse(key, f"is {value!r}", fix="give a list of names")
        return value

    def numbers(self, key: str) -> list[int] | None:
        """Read a list of whole numbers."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in value):
            self.refuse(key, f"is {value!r}", fix="give a list of whole numbers")
        return value

    def nested(self, key: str) -> ConfigValues:
        """Read a mapping; an absent one is empty."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            self.refuse(key, f"is {value!r}", fix="give a mapping")
        return ConfigValues(value or {}, source=self.source, prefix=f"{self.prefix}{key}.")

    def expect(self, key: str, *, wanted: bool | int, because: str) -> None:
        """Refuse any other value than the one that the counts are made for; absent or null is as good as that."""
        value = self.values.get(key)
        if value is not None and value != wanted:
            self.refuse(key, f"is {value!r}: {because}", fix="this variant of the model cannot be sized; take another")

    def refuse(self, key: str, problem: str, *, fix: str) -> NoReturn:
        """Say what is wrong with the value of a key."""
        raise SettingsError(source=self.source, key=f"{self.prefix}{key}", problem=problem, fix=fix)
