"""``modelzone models``: the model profiles of the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modelzone.cli.exits import ExitCode
from modelzone.cli.formats import parameters, whole
from modelzone.cli.options import JsonOption, examples
from modelzone.cli.output import note, write_json, write_table
from modelzone.cli.project import project_root
from modelzone.errors import SettingsError

if TYPE_CHECKING:
    from modelzone.settings.model_profile import ModelProfile

_BYTES_16_BIT = 2


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "models", short_help="List the model profiles.", epilog=examples("modelzone models", "modelzone models --json")
    )(models)


def models(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """List the model profiles with the numbers that decide how much memory they need."""
    rows, broken = _read(project_root(context))
    if as_json:
        write_json({"models": rows, "broken": [_broken(error) for error in broken]})
    else:
        write_table(
            ["NAME", "TYPE", "PARAMETERS>", "16-BIT BYTES>", "KV BYTES/TOKEN>", "CONTEXT>", "GATED", "SERVED BY", "ON"],
            [_line(row) for row in rows],
        )
    for error in broken:
        note(f"error: {error}")
    if broken:
        raise typer.Exit(ExitCode.REFUSED)


def _read(root: Path) -> tuple[list[dict[str, Any]], list[SettingsError]]:
    """Every profile that can be read, and what is wrong with the others."""
    from modelzone.settings.loading import load_profile, profile_names  # noqa: PLC0415

    rows, broken = [], []
    for name in profile_names(root):
        try:
            rows.append(_row(load_profile(root, name)))
        except SettingsError as error:
            broken.append(error)
    return rows, broken


def _row(profile: ModelProfile) -> dict[str, Any]:
    from modelzone.architectures import kv_cache_bytes_per_token, parameter_count  # noqa: PLC0415

    architecture, serving = profile.model.architecture, profile.serving
    count = parameter_count(architecture)
    return {
        "name": profile.name,
        "description": profile.description,
        "hub_id": profile.model.hub_id,
        "revision": profile.model.revision,
        "license": profile.model.license,
        "gated": profile.model.gated,
        "type": architecture.type,
        "parameters": count,
        "bytes_16_bit": count * _BYTES_16_BIT,
        "kv_cache_bytes_per_token": kv_cache_bytes_per_token(architecture),
        "context_length": architecture.context_length,
        "engine": serving.engine,
        "engine_version": serving.engine_version,
        "instance_type": serving.instance_type,
        "tensor_parallel_degree": serving.tensor_parallel_degree,
    }


def _line(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        row["type"],
        parameters(row["parameters"]),
        whole(row["bytes_16_bit"]),
        whole(row["kv_cache_bytes_per_token"]),
        whole(row["context_length"]),
        "yes" if row["gated"] else "no",
        f"{row['engine']} {row['engine_version']}",
        f"{row['instance_type']}, degree {row['tensor_parallel_degree']}",
    ]


def _broken(error: SettingsError) -> dict[str, str]:
    return {"source": error.source, "key": error.key, "problem": error.problem, "fix": error.fix}
