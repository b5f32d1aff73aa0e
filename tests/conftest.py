"""Order of the suites: ``make test`` gives each of three workers one file after another, the longest first."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
LONG = ("integration", "infrastructure")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in LONG)
