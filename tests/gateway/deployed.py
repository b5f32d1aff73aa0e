"""An environment of a test's own, deployed with the CDK CLI to the embedded AWS."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from modelzone.local.emulator.settings import MODEL_SERVER_COMMAND_VARIABLE
from modelzone.local.main_job import Embedded, MainJob
from modelzone.local.processes import stop_everything
from modelzone.local.workspace import Workspace

__all__ = ["counting_model_server", "deployed", "project"]

ROOT = Path(__file__).resolve().parents[2]
_LINKED = ("models", "stacks", "constructs", "lambda", "compile_job", "modelzone", "node_modules", "package.json")
# app.py reads the environments beside itself, so it has to lie there.
_COPIED = ("app.py", "cdk.json", "pyproject.toml")


def project(folder: Path, *, name: str, environment: str) -> Path:
    """Make a checkout that has one environment only, given as the text of its file."""
    folder.mkdir()
    for item in _LINKED:
        (folder / item).symlink_to(ROOT / item)
    for item in _COPIED:
        shutil.copy(ROOT / item, folder / item)
    (folder / "environments").mkdir()
    (folder / "environments" / f"{name}.yaml").write_text(environment, encoding="utf-8")
    return folder


@contextlib.contextmanager
def deployed(folder: Path, *, name: str, environment: str) -> Iterator[Embedded]:
    """Deploy the environment and stop everything in the end."""
    workspace = Workspace(project(folder / "project", name=name, environment=environment), folder / "embedded")
    try:
        job = MainJob(workspace, environment=name)
        embedded, cdk = job.prepare()
        job.deploy(embedded, cdk)
        yield embedded
    finally:
        stop_everything(workspace)


@contextlib.contextmanager
def counting_model_server(folder: Path) -> Iterator[None]:
    """Let emulators that are started meanwhile run the fake, which counts when it is asked to, as container."""
    world = folder / "world.json"
    world.write_text(json.dumps({"parameters": {}, "dialects": {"container": "tgi-generate"}}), encoding="utf-8")
    command = [sys.executable, str(ROOT / "tests" / "gateway" / "container.py"), "--world", str(world)]
    os.environ[MODEL_SERVER_COMMAND_VARIABLE] = json.dumps(command)
    try:
        yield
    finally:
        del os.environ[MODEL_SERVER_COMMAND_VARIABLE]
