"""Finds the project whose environments and models a verb is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from modelzone.errors import ModelzoneError

__all__ = ["Project", "find_project", "project_root"]

_MARKS = ("cdk.json", "environments")


@dataclass(frozen=True)
class Project:
    """What ``--project`` said, kept in the context until a verb needs it."""

    given: Path | None


def find_project(start: Path) -> Path | None:
    """The nearest folder, from `start` upwards, that holds a ``cdk.json`` and ``environments``."""
    here = start.resolve()
    return next((f for f in (here, *here.parents) if all((f / mark).exists() for mark in _MARKS)), None)


def project_root(context: typer.Context) -> Path:
    """The project's root folder.

    Raises
    ------
    ModelzoneError
        There is none.
    """
    project = context.find_root().obj
    given = project.given if isinstance(project, Project) else None
    root = find_project(given or Path())
    if root is None or (given and root != given.resolve()):
        where = f"{given} is no project" if given else "this folder is in no project"
        raise ModelzoneError(
            f"{where}: it has no cdk.json beside a folder environments; "
            "change to a checkout of Modelzone or name one: modelzone --project PATH …"
        )
    return root
