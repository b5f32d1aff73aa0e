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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        suite = item.path.relative_to(TESTS).parts[0]
        item.add_marker(pytest.mark.xdist_group(suite if suite in TOGETHER else item.path.name))
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in ORDER)
