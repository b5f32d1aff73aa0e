"""Reads the data files that are shipped inside the package."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

__all__ = ["data_path", "read_data"]

_ROOT = Path(__file__).resolve().parent.parent
# libyaml's, ten times as fast, where PyYAML was built with it; both build plain data only.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def data_path(package: str, name: str) -> Path:
    """Where ``data/<name>`` of a package of this project lies."""
    # importlib.resources would do it too, and take 12 ms to import.
    return _ROOT.joinpath(*package.split("."), "data", name)


@cache
def read_data(package: str, name: str) -> Any:
    """Parse ``data/<name>`` of a package once; ``.json`` and ``.yaml`` are known. Do not modify the result."""
    text = data_path(package, name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.load(text, Loader=_LOADER)  # noqa: S506 - safe
