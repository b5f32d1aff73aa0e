"""``modelzone engines``: the containers that can serve models."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzone.cli.completion import complete_engine
from modelzone.cli.options import JsonOption, examples
from modelzone.cli.output import write, write_facts, write_heading, write_json, write_table
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.engines.base import Engine, EngineVersion


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    lines = ("modelzone engines", "modelzone engines tgi-neuronx", "modelzone engines --json")
    app.command("engines", short_help="List engines and their versions.", epilog=examples(*lines))(engines)


def engines(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[ENGINE]", help="Everything about one engine.", autocompletion=complete_engine),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List engines: versions, where they run, what they serve; with a name also their limits and sources."""
    from modelzone.engines.registry import ENGINES  # noqa: PLC0415

    if name is not None and name not in ENGINES:
        near = difflib.get_close_matches(name, ENGINES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ModelzoneError(f"there is no engine {name!r}; {hint}known: {', '.join(ENGINES)}")
    rows = [_row(engine) for engine in ENGINES.values() if name in {None, engine.name}]
    if as_json:
        write_json({"engines": rows})
    elif name is None:
        lines = [_line(row, version) for row in rows for version in row["versions"]]
        write_table(
            ["ENGINE", "VERSION", "HOSTING", "STACK", "FAMILIES", "COMPILER", "QUANTIZATION", "MODEL TYPES"], lines
        )
        write("STACK: whether a stack of this project deploys it yet; the others can be planned and compared.")
    else:
        _explain(rows[0])


def _row(engine: Engine) -> dict[str, Any]:
    return {
        "name": engine.name,
        "title": engine.title,
        "hosting": engine.hosting,
        "versions": [_version(version) for version in engine.versions.values()],
    }


def _version(version: EngineVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "instance_families": sorted(version.instance_families),
        "model_types": sorted(version.model_types),
        "dtypes": sorted(version.dtypes),
        "quantizations": sorted(version.quantizations),
        "dialect": version.dialect,
        "compiler": version.compiler.tool if version.compiler else None,
        "components": dict(version.components),
        "deployable": version.deployable,
        "supports_adapters": version.supports_adapters,
        "limits": list(version.limits),
        "sources": list(version.sources),
    }


def _line(row: dict[str, Any], version: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        version["version"],
        row["hosting"],
        "yes" if version["deployable"] else "no",
        ", ".join(version["instance_families"]),
        version["compiler"] or "-",
        ", ".join(version["quantizations"]) or "-",
        ", ".join(version["model_types"]),
    ]


def _explain(row: dict[str, Any]) -> None:
    write(f"{row['name']}: {row['title']} (hosted by {row['hosting']})")
    for version in row["versions"]:
        write_heading(f"{row['name']} {version['version']}")
        facts = [
            ("families", ", ".join(version["instance_families"])),
            ("model types", ", ".join(version["model_types"])),
            ("dtypes", ", ".join(version["dtypes"])),
            ("quantization", ", ".join(version["quantizations"]) or "none"),
            ("dialect", version["dialect"]),
            ("compiler", version["compiler"] or "none"),
            ("components", ", ".join(f"{k} {v}" for k, v in version["components"].items()) or "not listed"),
            ("adapters", "yes" if version["supports_adapters"] else "no"),
        ]
        write_facts(facts)
        for limit in version["limits"]:
            write(f"  limit: {limit}")
        for source in version["sources"]:
            write(f"  source: {source}")
