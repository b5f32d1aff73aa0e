"""The shape that every engine has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from modelzone.settings.model_profile import Serving

__all__ = ["Engine", "EngineVersion"]


@dataclass(frozen=True, kw_only=True)
class EngineVersion:
    """One released container of an engine.

    Attributes
    ----------
    model_types
        ``model_type`` values of ``config.json`` that it can serve.
    dialect
        How the gateway talks to it; one module of ``lambda/invoke_proxy/invoke_proxy/dialects``.
    """

    version: str
    model_types: frozenset[str]
    dialect: str


class Engine(Protocol):
    """A container family that serves models."""

    @property
    def name(self) -> str:
        """The name that settings use."""
        ...

    @property
    def families(self) -> frozenset[str]:
        """Instance families that it runs on."""
        ...

    @property
    def versions(self) -> Mapping[str, EngineVersion]:
        """Supported versions by their name."""
        ...

    def container_environment(self, serving: Serving) -> dict[str, str]:
        """What the container is told at start, without what the compiled artifact decides."""
        ...

    def export_command(self, serving: Serving) -> tuple[str, ...]:
        """The command that compiles a model inside the serving container; ``{model}`` and ``{output}`` are folders."""
        ...
