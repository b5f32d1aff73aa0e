"""Checks single values of a job file; every message names file, key and value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from .errors import JobError

__all__ = ["Reader"]


class Reader:
    """Reads values of one file."""

    def __init__(self, file: str) -> None:
        self._file = file

    def keys(self, name: str, values: Mapping[str, Any], *, required: set[str], optional: set[str]) -> None:
        """Refuse missing and unknown keys; `name` is empty for the whole file."""
        at = f"{name}." if name else ""
        for key in sorted(required - set(values)):
            message = f"{self._file}: key '{at}{key}' is missing"
            raise JobError(message)
        for key in sorted(set(values) - required - optional):
            message = f"{self._file}: key '{at}{key}' is unknown; known are {', '.join(sorted(required | optional))}"
            raise JobError(message)

    def mapping(self, key: str, value: Any) -> dict[str, Any]:
        """Read an object."""
        if not isinstance(value, dict):
            self.fail(key, value, "expected an object")
        return value

    def text(self, key: str, value: Any) -> str:
        """Read a text that is not empty."""
        if not isinstance(value, str) or not value.strip():
            self.fail(key, value, "expected a text that is not empty")
        return value

    def text_or_empty(self, key: str, value: Any, meaning: str) -> str:
        """Read a text; `meaning` says what an empty one means."""
        if not isinstance(value, str):
            self.fail(key, value, f"expected a text, empty for {meaning}")
        return value

    def texts(self, key: str, value: Any) -> dict[str, str]:
        """Read an object of texts."""
        values = self.mapping(key, value)
        for name, item in values.items():
            if not name or not isinstance(item, str):
                self.fail(f"{key}.{name}", item, "expected a text")
        return values

    def choice(self, key: str, value: Any, choices: tuple[str, ...]) -> str:
        """Read one of some texts."""
        if value not in choices:
            self.fail(key, value, f"expected one of {', '.join(choices)}")
        return str(value)

    def number(self, key: str, value: Any) -> int:
        """Read a whole number."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.fail(key, value, "expected a whole number of at least 0")
        return value

    def flag(self, key: str, value: Any) -> bool:
        """Read true or false."""
        if not isinstance(value, bool):
            self.fail(key, value, "expected true or false")
        return value

    def absolute(self, key: str, value: Any) -> Path:
        """Read an absolute path."""
        path = Path(self.text(key, value))
        if not path.is_absolute() or "," in str(path):
            # docker reads a comma as the end of a mount's path
            self.fail(key, value, "expected an absolute path without commas")
        return path

    def fail(self, key: str, value: object, reason: str) -> NoReturn:
        """Refuse a value."""
        message = f"{self._file}: key '{key}' has value {value!r:.200}: {reason}"
        raise JobError(message)
