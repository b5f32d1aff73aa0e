"""Staging of function packages: the same content everywhere, once, and readable when it fails."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from infrastructure.support import ROOT

from modelzone.errors import ModelzoneError
from zone_constructs import lambda_package


def _content(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mode & 0o777,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of its own, so that nothing has to be installed."""
    source = tmp_path / "source" / "sample"
    (source / "inner").mkdir(parents=True)
    (source / "__init__.py").write_text("", encoding="utf-8")
    (source / "inner" / "code.py").write_text("VALUE = 1\n", encoding="utf-8")
    (source / "run.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "x.pyc").write_bytes(b"1")
    monkeypatch.setitem(lambda_package.PACKAGES, "sample", source)
    monkeypatch.setattr(lambda_package, "_BUILD", tmp_path / "build")
    return source


def test_code_lies_in_its_package_and_the_launcher_beside_it(package: Path) -> None:
    staged = lambda_package.stage("sample")
    content = _content(staged)
    assert set(content) == {"sample/__init__.py", "sample/inner/code.py", "run.sh"}
    assert content["run.sh"][1] == 0o755
    assert content["sample/inner/code.py"][1] == 0o644


def test_a_package_is_staged_once_until_it_changes(package: Path) -> None:
    first = lambda_package.stage("sample")
    (first / "mark").write_text("", encoding="utf-8")
    assert lambda_package.stage("sample") == first
    assert (first / "mark").exists()
    (package / "inner" / "code.py").write_text("VALUE = 2\n", encoding="utf-8")
    second = lambda_package.stage("sample")
    assert second != first
    assert (second / "sample" / "inner" / "code.py").read_text(encoding="utf-8") == "VALUE = 2\n"


def test_moving_content_between_files_makes_another_package(package: Path) -> None:
    first = lambda_package.stage("sample")
    (package / "inner" / "code.py").rename(package / "inner" / "other.py")
    assert lambda_package.stage("sample") != first


def test_caches_make_no_difference(package: Path) -> None:
    first = lambda_package.stage("sample")
    (package / "__pycache__" / "y.pyc").write_bytes(b"2")
    assert lambda_package.stage("sample") == first


def test_what_differs_between_machines_is_not_packed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts name an interpreter, records list scripts and caches: the package's hash would differ with them."""
    files = ("third/__init__.py", "third/__pycache__/x.pyc", "bin/third", "third.dist-info/RECORD", ".lock")
    kept = ("third/__init__.py", "third.dist-info/METADATA")

    def install(_: Path, target: Path, *, python: str) -> None:
        assert python == "3.13"
        for name in (*files, *kept):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_text("", encoding="utf-8")
            (target / name).chmod(0o600)

    (package / "requirements.txt").write_text("third==1\n", encoding="utf-8")
    monkeypatch.setattr(lambda_package, "_install", install)
    content = _content(lambda_package.stage("sample"))
    ours = {"sample/__init__.py", "sample/inner/code.py", "run.sh"}
    assert set(content) == {*kept, *ours}
    assert all(mode == 0o644 for name, (_, mode) in content.items() if name != "run.sh")


def test_nothing_is_left_behind_when_the_install_fails(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "requirements.txt").write_text("starlette==0.0.0.dev0\n", encoding="utf-8")
    for name in ("UV_OFFLINE", "UV_NO_CONFIG"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(package.parent / "cache"))
    with pytest.raises(ModelzoneError) as refusal:
        lambda_package.stage("sample")
    message = str(refusal.value)
    assert "requirements.txt: the function's packages could not be installed" in message
    assert "starlette" in message
    assert "fix: " in message
    assert list((package.parents[1] / "build" / "sample").iterdir()) == []


def test_pip_is_used_where_uv_is_missing(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    class Done:
        returncode, stdout, stderr = 1, "", "no"

    def run(command: list[str], **_: object) -> Done:
        commands.append(command)
        return Done()

    (package / "requirements.txt").write_text("starlette==1.0.0\n", encoding="utf-8")
    monkeypatch.setattr(lambda_package.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(lambda_package.subprocess, "run", run)
    with pytest.raises(ModelzoneError):
        lambda_package.stage("sample")
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "install"]
    assert {"--no-deps", "--only-binary", "--no-compile"} <= set(command)
    assert command[command.index("--python-version") + 1] == "3.13"


def test_the_real_packages_hold_nothing_of_this_machine() -> None:
    staged = lambda_package.stage("invoke_proxy")
    names = set(_content(staged))
    assert "run.sh" in names
    assert not [n for n in names if n.startswith("bin/") or n.endswith((".pyc", "/RECORD", "/INSTALLER", "/REQUESTED"))]
    here = str(ROOT).encode()
    assert not [n for n in names if here in (staged / n).read_bytes()]


@pytest.mark.parametrize("name", ["compiled_artifact", "authorizer"])
def test_packages_without_requirements_hold_their_sources_only(name: str) -> None:
    assert {path.name for path in lambda_package.stage(name).iterdir()} == {name}


@pytest.mark.parametrize("name", ["invoke_proxy", "compiled_artifact", "authorizer"])
def test_packages_stay_far_below_lambdas_limit(name: str) -> None:
    """250 MB unpacked, layers included; what is loaded at a cold start should be a fraction of it."""
    staged = lambda_package.stage(name)
    size = sum(path.stat().st_size for path in staged.rglob("*") if path.is_file())
    assert size < 60_000_000


def test_what_runs_on_hosts_is_staged_for_their_python(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged_for = []
    monkeypatch.setitem(lambda_package.PACKAGES, "compile_job", package)
    monkeypatch.setattr(lambda_package, "_install", lambda *_, python: staged_for.append(python))
    (package / "requirements.txt").write_text("third==1\n", encoding="utf-8")

    for name in ("sample", "compile_job"):
        lambda_package.stage(name)

    assert staged_for == ["3.13", "3.10"]


def test_the_compile_job_brings_its_own_boto3_which_is_pure_python() -> None:
    """A host may be without a package index, and its distribution's boto3 cannot send checksums."""
    staged = lambda_package.stage("compile_job")

    names = set(_content(staged))
    assert {
        "boto3/__init__.py",
        "botocore/__init__.py",
        "compile_job/__main__.py",
        "compile_job/signatures.json",
    } <= names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or name.startswith("bin/")]


@pytest.mark.parametrize("source", [lambda_package.PACKAGES[name] for name in ("invoke_proxy", "compile_job")])
def test_requirements_are_pinned(source: Path) -> None:
    lines = (source / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))


def test_the_compile_job_is_tested_with_what_it_ships() -> None:
    lines = (ROOT / "compile_job" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    constraints = set((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    assert {line for line in lines if line and not line.startswith("#")} <= constraints
