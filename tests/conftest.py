"""Order of the suites: ``make test`` gives each of three workers one file after another, the longest first.

pytest-xdist would begin with the files of most tests (hence ``--no-loadscope-reorder``), and the longest have few.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
LONGEST = (
    "integration/test_compile_pipeline.py",
    "integration/test_main_job.py",
    "integration/test_gateway.py",
    "integration",
    "infrastructure",
    "contract",
)


def _place(item: pytest.Item) -> int:
    path = item.path.relative_to(TESTS).as_posix()
    return next((place for place, prefix in enumerate(LONGEST) if path.startswith(prefix)), len(LONGEST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
