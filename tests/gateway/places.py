"""Virtual environments for programs that do not fit into this one: made once for each set of pins, and kept.

Other clients and other gateways bring dependencies that contradict ours. Each gets an environment under ``.build``,
named by the digest of its pins; whoever needs it first makes it while the others wait for the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["PINS", "made_environment", "run_script"]

ROOT = Path(__file__).resolve().parents[2]
PINS = Path(__file__).parent / "client_pins"
SCRIPTS = Path(__file__).parent / "client_scripts"
PLACES = ROOT / ".build" / "clients"
INSTALL_SECONDS = 600
SCRIPT_SECONDS = 180


def made_environment(pins: Path) -> Path:
    """Return the Python of the environment that has these pins; make it when it is not there.

    Raises
    ------
    RuntimeError
        When the packages cannot be installed, with uv's own words.
    """
    identity = hashlib.sha256(pins.read_bytes() + platform.python_version().encode()).hexdigest()[:16]
    folder = PLACES / identity
    python = folder / "bin" / "python"
    PLACES.mkdir(parents=True, exist_ok=True)
    with (PLACES / f"{identity}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").is_file():
            uv = [sys.executable, "-m", "uv"]
            _install([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], pins)
            _install([*uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(pins)], pins)
            # The first start would compile these, and be measured or time out with it.
            subprocess.run([python, "-m", "compileall", "-qq", folder / "lib"], check=False, capture_output=True)
            (folder / "complete").touch()
    return python


def _install(command: list[str], pins: Path) -> None:
    environment = dict(os.environ)
    if "PIP_FIND_LINKS" in environment:
        environment.setdefault("UV_FIND_LINKS", environment["PIP_FIND_LINKS"].replace(" ", ","))
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
    )
    if done.returncode:
        words = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise RuntimeError(
            f"The packages of {pins.name} cannot be installed, so their client cannot be tested. Is PyPI within reach? "
            f"uv says:\n{words}"
        )


def run_script(name: str, *, pins: Path | None, variables: Mapping[str, str]) -> dict[str, Any]:
    """Run a client's script in its environment (this one without `pins`) and return what it prints.

    Raises
    ------
    RuntimeError
        When it fails, with the end of what it said.
    """
    python = Path(sys.executable) if pins is None else made_environment(pins)
    inherited = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    done = subprocess.run(
        [python, SCRIPTS / f"{name}.py"],
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=SCRIPT_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"{name}.py ended with {done.returncode}:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
