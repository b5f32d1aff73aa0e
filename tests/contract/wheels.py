"""Wheels from PyPI, alone: their dependencies weigh gigabytes, and only their sources are read."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / ".build" / "wheels"


def wheel_path(package: str, version: str) -> Path:
    """Download once; skip the test without a network."""
    path = FOLDER / f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(FOLDER)]
        done = subprocess.run(
            [*command, f"{package}=={version}"], check=False, capture_output=True, text=True, timeout=180
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no output"]
            pytest.skip(f"{package}=={version} cannot be downloaded: {lines[-1]}")
    return path


def read_wheel(package: str, version: str, name: str) -> str:
    with zipfile.ZipFile(wheel_path(package, version)) as archive:
        return archive.read(name).decode()


def names_in_wheel(package: str, version: str) -> list[str]:
    with zipfile.ZipFile(wheel_path(package, version)) as archive:
        return archive.namelist()
