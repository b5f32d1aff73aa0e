"""The source roots that must not become packages, and who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrastructure.support import ROOT

# Package -> packages of this project that it must not import.
FORBIDDEN = {
    "modelzone": {
        "zone_constructs",
        "stacks",
        "app",
        "aws_cdk",
        "constructs",
        "invoke_proxy",
        "authorizer",
        "compiled_artifact",
    },
    "constructs/zone_constructs": {"stacks", "app", "cdk_nag"},
    "stacks": {"app", "cdk_nag"},
    "lambda/invoke_proxy": {"modelzone", "zone_constructs", "stacks", "authorizer", "compiled_artifact", "compile_job"},
    "lambda/authorizer": {"modelzone", "zone_constructs", "stacks", "invoke_proxy", "compiled_artifact", "compile_job"},
    "lambda/compiled_artifact": {"modelzone", "zone_constructs", "stacks", "invoke_proxy", "authorizer", "compile_job"},
    "compile_job": {"modelzone", "zone_constructs", "stacks", "invoke_proxy", "authorizer", "compiled_artifact"},
}


@pytest.mark.parametrize("folder", ["constructs", "lambda"])
def test_source_roots_are_no_packages(folder: str) -> None:
    """With constructs/__init__.py the PyPI package of that name is hidden and the app does not start."""
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_one_way(folder: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in _imports(path)
        if name.split(".")[0] in FORBIDDEN[folder]
    }
    assert not found


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
