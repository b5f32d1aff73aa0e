"""The private places of MiniStack: these tests fail clearly when its version moves."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from modelzone.errors import ModelzoneError
from modelzone.local import emulator
from modelzone.local.emulator import seams

PACKAGE = Path(emulator.__file__).parent


def used_seams() -> list[tuple[str, str]]:
    """(module, name) of every constant access through ``seams`` in the package's source."""
    found = set()
    for file in sorted(PACKAGE.glob("*.py")):
        tree = ast.parse(file.read_text())
        modules = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ministack")
            for alias in node.names
        }
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="seams")),
                    args=[ast.Name(id=module), ast.Constant(value=str(name)), *_],
                ) if module in modules:
                    found.add((modules[module], name))
    return sorted(found)


def test_the_pinned_version_is_installed() -> None:
    seams.check_version()


def test_the_source_is_searched() -> None:
    assert ("ministack.services.apigateway_v1", "_invoke_lambda_proxy_v1") in used_seams()
    assert len(used_seams()) > 20


@pytest.mark.parametrize(("module", "name"), used_seams())
def test_every_seam_exists(module: str, name: str) -> None:
    seams.attribute(importlib.import_module(module), name)


def test_another_version_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "MINISTACK_VERSION", "0.0.1")
    with pytest.raises(ModelzoneError, match=r"pip install ministack==0\.0\.1"):
        seams.check_version()


def test_a_name_that_is_gone_is_named() -> None:
    module = ModuleType("ministack.services.made_up")
    with pytest.raises(ModelzoneError, match=r"ministack\.services\.made_up has no _gone"):
        seams.replace(module, "_gone", None)


def test_replacing_gives_what_was_there() -> None:
    module = ModuleType("made_up")
    module.__dict__["_kept"] = "before"
    assert seams.replace(module, "_kept", "after") == "before"
    assert module.__dict__["_kept"] == "after"
