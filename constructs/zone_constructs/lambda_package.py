"""Folders that become function packages: our sources beside their pinned third-party packages.

``python -m zone_constructs.lambda_package`` (with ``constructs`` on the path) stages them all, so that a later synth
needs no network. A folder is named by a hash of what goes into it and is made once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modelzone.errors import ModelzoneError

__all__ = ["PACKAGES", "main", "stage"]

ROOT = Path(__file__).resolve().parents[2]
_BUILD = ROOT / ".build" / "lambda"
# Package name -> its folder. The folder's name is the name that the code imports.
PACKAGES = {
    "invoke_proxy": ROOT / "lambda" / "invoke_proxy",
    "authorizer": ROOT / "lambda" / "authorizer",
    "compiled_artifact": ROOT / "lambda" / "compiled_artifact",
    "compile_job": ROOT / "compile_job",
}
_REQUIREMENTS = "requirements.txt"
_LAUNCHER = "run.sh"
# Where a package runs: Lambda's Python, and that of a compile host (Ubuntu 22.04).
_PYTHON = "3.13"
_HOST_PYTHON = "3.10"
_ON_HOSTS = frozenset({"compile_job"})
_PLATFORM_UV = "x86_64-manylinux_2_28"
_PLATFORMS_PIP = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")
# Change it when the way of staging changes, so that folders staged before are not taken for current ones.
_LAYOUT = b"1"
_INSTALL_SECONDS = 300
_LAST_LINES = 8


def stage(name: str) -> Path:
    """Return the staged folder of a package, making it when its sources or requirements are new.

    Raises
    ------
    ModelzoneError
        Its requirements could not be installed.
    """
    source = PACKAGES[name]
    target = _BUILD / name / _digest(source)
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".staging-") as folder:
        draft = Path(folder) / "package"
        draft.mkdir()
        if (source / _REQUIREMENTS).is_file():
            _install(source / _REQUIREMENTS, draft, python=_HOST_PYTHON if name in _ON_HOSTS else _PYTHON)
            _strip(draft)
        _copy_sources(source, draft)
        try:
            draft.rename(target)
        except OSError:
            # Another process staged the same content meanwhile.
            if not target.is_dir():
                raise
    return target


def _source_files(source: Path) -> Iterator[Path]:
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield path


def _digest(source: Path) -> str:
    digest = hashlib.sha256(_LAYOUT)
    for path in _source_files(source):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(source).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _copy_sources(source: Path, target: Path) -> None:
    for path in _source_files(source):
        relative = path.relative_to(source)
        if str(relative) == _REQUIREMENTS:
            continue
        executable = str(relative) == _LAUNCHER
        copy = target / relative if executable else target / source.name / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copy.chmod(0o755 if executable else 0o644)


def _install(requirements: Path, target: Path, *, python: str) -> None:
    if importlib.util.find_spec("uv") is not None:
        command = [
            sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:",
            "--python-platform", _PLATFORM_UV, "--python-version", python,
            "--target", str(target), "--requirement", str(requirements),
        ]  # fmt: skip
    else:
        platforms = [argument for platform in _PLATFORMS_PIP for argument in ("--platform", platform)]
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
            "--no-deps", "--only-binary", ":all:", "--implementation", "cp", *platforms, "--python-version", python,
            "--target", str(target), "--requirement", str(requirements),
        ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
        code, output = done.returncode, done.stderr.strip() or done.stdout.strip()
    except subprocess.TimeoutExpired:
        code, output = -1, f"no answer within {_INSTALL_SECONDS} seconds"
    if code:
        lines = "\n  ".join(output.splitlines()[-_LAST_LINES:])
        raise ModelzoneError(
            f"{requirements}: the function's packages could not be installed:\n  {lines}\n"
            "  fix: connect to a package index once; later runs use the copy under .build/"
        )


def _strip(folder: Path) -> None:
    """Remove what differs from machine to machine: scripts with an interpreter's path, install records."""
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.name == "__pycache__":
            shutil.rmtree(path)
        elif path.name in {".lock", "RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}:
            path.unlink()
    for path in folder.rglob("*"):
        path.chmod(stat.S_IRWXU | 0o055 if path.is_dir() else 0o644)


def main() -> int:
    """Stage every package and print where."""
    try:
        for name in PACKAGES:
            sys.stdout.write(f"{name}: {stage(name).relative_to(ROOT)}\n")
    except ModelzoneError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
