"""Reads the data files that are shipped inside the package."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

__all__ = ["read_data"]


@cache
def read_data(package: str, name: str) -> Any:
    """Parse ``data/<name>`` of a package once; ``.json`` and ``.yaml`` are known. Do not modify the result."""
    text = files(package).joinpath("data", name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
