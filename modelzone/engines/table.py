"""The table of engines that the documentation and the command line show."""

from __future__ import annotations

from collections.abc import Sequence

from modelzone.engines.base import FEATURES
from modelzone.engines.registry import ENGINES

__all__ = ["COLUMNS", "engines_markdown", "engines_table", "features_markdown"]

COLUMNS = ("engine", "version", "inside", "hosting", "instance families", "dialect", "quantised weights", "compiled by")


def engines_table() -> list[tuple[str, ...]]:
    """One row for each version; the cells go with `COLUMNS`."""
    return [
        (
            engine.name,
            version.version,
            ", ".join(f"{name} {number}" for name, number in version.components.items()),
            engine.hosting,
            ", ".join(sorted(version.instance_families)),
            version.dialect,
            ", ".join(sorted(version.quantizations)) or "-",
            version.compiler.tool + ("" if version.compiler.required else " (optional)") if version.compiler else "-",
        )
        for engine in ENGINES.values()
        for version in engine.versions.values()
    ]


def engines_markdown() -> str:
    """The table in Markdown, as ``docs/engines.md`` has it."""
    return _markdown(COLUMNS, engines_table())


def features_markdown() -> str:
    """What clients may ask of each version, as ``docs/engines.md`` has it: the words, then who has them."""
    words = [(f"`{word}`", meaning) for word, meaning in FEATURES.items()]
    versions = [
        (engine.name, version.version, ", ".join(sorted(version.features)) or "-")
        for engine in ENGINES.values()
        for version in engine.versions.values()
    ]
    return f"{_markdown(('feature', 'the engine'), words)}\n{_markdown(('engine', 'version', 'features'), versions)}"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (columns, ["---"] * len(columns), *rows))
