"""What the shell is offered for names: profiles, environments, deployments, engines, instance types.

Typer calls these with what stands on the command line so far; `Frame` keeps their errors from the shell. Names of
profiles and environments are file names, so that no file has to be read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer

from modelzone.cli.project import find_project

__all__ = [
    "complete_deployment",
    "complete_engine",
    "complete_engine_version",
    "complete_environment",
    "complete_instance",
    "complete_model",
    "complete_override",
    "complete_profile",
]


def _stems(context: typer.Context, folder: str) -> list[str]:
    given = context.find_root().params.get("project")
    root = find_project(Path(given) if given else Path())
    return sorted(path.stem for path in (root / folder).glob("*.yaml")) if root else []


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def complete_environment(context: typer.Context, incomplete: str) -> list[str]:
    """Names of ``environments/``."""
    return _starting(_stems(context, "environments"), incomplete)


def complete_profile(context: typer.Context, incomplete: str) -> list[str]:
    """Names of ``models/``."""
    return _starting(_stems(context, "models"), incomplete)


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Names of ``models/``, and paths: a model may also be a folder or a ``config.json``."""
    folder = Path(incomplete).parent if incomplete and not incomplete.endswith("/") else Path(incomplete or ".")
    paths = [f"{p}/" if p.is_dir() else str(p) for p in sorted(folder.glob("*")) if p.is_dir() or p.suffix == ".json"]
    return complete_profile(context, incomplete) + (_starting(paths, incomplete) if incomplete else [])


def complete_deployment(context: typer.Context, incomplete: str) -> list[str]:
    """Deployments of the environment that was named before."""
    from modelzone.settings.loading import load_environment  # noqa: PLC0415

    given = context.find_root().params.get("project")
    root = find_project(Path(given) if given else Path())
    name = context.params.get("environment")
    return _starting(load_environment(root, name).deployments, incomplete) if root and name else []


def complete_override(incomplete: str) -> list[str]:
    """Fields of a deployment that may be overridden, with the equals sign."""
    from modelzone.settings.model_profile import ScalingOverrides, ServingOverrides  # noqa: PLC0415

    plain = [f"{name}=" for name in ServingOverrides.__struct_fields__ if name != "scaling"]
    return _starting([*plain, *(f"scaling.{name}=" for name in ScalingOverrides.__struct_fields__)], incomplete)


def complete_engine(incomplete: str) -> list[str]:
    """Names of engines."""
    from modelzone.engines.registry import ENGINES  # noqa: PLC0415

    return _starting(ENGINES, incomplete)


def complete_engine_version(context: typer.Context, incomplete: str) -> list[str]:
    """Versions of the engine that was named before, or of all."""
    from modelzone.engines.registry import ENGINES  # noqa: PLC0415

    name = context.params.get("engine")
    versions = [v for engine in ENGINES.values() if name in {None, engine.name} for v in engine.versions]
    return _starting(dict.fromkeys(versions), incomplete)


def complete_instance(incomplete: str) -> list[str]:
    """Instance types by SageMaker's names, and by EC2's once no ``ml.`` can follow."""
    from modelzone.hardware import instance_types  # noqa: PLC0415

    names = [f"ml.{name}" for name in instance_types()]
    return _starting(names, incomplete) or _starting(instance_types(), incomplete)
