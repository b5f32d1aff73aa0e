"""The private places of MiniStack that the emulator reads or replaces.

MiniStack offers no plug-in points, so the emulator is written against one exact version of it. Every access to a
private name goes through this module, which fails with a readable message as soon as that version moves.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from types import ModuleType
from typing import Any

from modelzone.errors import ModelzoneError

__all__ = ["MINISTACK_VERSION", "after_provisioning", "attribute", "check_version", "replace"]

MINISTACK_VERSION = "1.5.33"


def check_version() -> None:
    """Refuse to run on any other version of MiniStack."""
    installed = importlib.metadata.version("ministack")
    if installed != MINISTACK_VERSION:
        raise ModelzoneError(
            f"ministack {installed} is installed; the embedded AWS is written against {MINISTACK_VERSION}. "
            f"Run: pip install ministack=={MINISTACK_VERSION}"
        )


def attribute(module: ModuleType | type, name: str) -> Any:
    """Read a private name of a MiniStack module.

    Raises
    ------
    ModelzoneError
        The module has no such name: MiniStack is not the version the emulator is written against.
    """
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise ModelzoneError(f"{module.__name__} has no {name}: ministack {MINISTACK_VERSION} is required") from error


def replace(module: ModuleType | type, name: str, value: Any) -> Any:
    """Put ``value`` in place of an existing private name and return what was there."""
    original = attribute(module, name)
    setattr(module, name, value)
    return original


def after_provisioning(resource_type: str, complete: Callable[[str, dict[str, Any]], None]) -> None:
    """Call ``complete(physical id, properties)`` after MiniStack's own create and update of a resource type."""
    from ministack.services.cloudformation import provisioners  # noqa: PLC0415 - loaded under a prepared environment

    handler = attribute(provisioners, "_RESOURCE_HANDLERS")[resource_type]
    create, update = handler["create"], handler.get("update")

    def completed_create(logical_id: str, props: dict[str, Any], stack_name: str) -> Any:
        created = create(logical_id, props, stack_name)
        complete(created[0], props)
        return created

    def completed_update(physical_id: str, old: dict[str, Any], new: dict[str, Any], *rest: Any) -> Any:
        updated = update(physical_id, old, new, *rest)
        complete(updated[0], new)
        return updated

    handler["create"] = completed_create
    if update is not None:
        handler["update"] = completed_update
