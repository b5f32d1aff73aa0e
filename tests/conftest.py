"""Which tests may run at the same time (``make test`` runs two workers).

Infrastructure tests share templates that take long to make: they stay on one worker. Of the others each file may run
anywhere.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
TOGETHER = {"infrastructure"}
# What takes longest begins first.
ORDER = ("integration", "infrastructure")


def pytest_itemcollected(item: pytest.Item) -> None:
    # Not later: xdist reads the groups before any other plugin may change the list.
    item.add_marker(pytest.mark.xdist_group(_suite(item) if _suite(item) in TOGETHER else item.path.stem))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _suite(item) not in ORDER)


def _suite(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0]
