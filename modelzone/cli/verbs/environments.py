"""``modelzone environments``: the environments of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from modelzone.cli.exits import ExitCode
from modelzone.cli.formats import usd
from modelzone.cli.options import JsonOption, examples
from modelzone.cli.output import note, write_json, write_table
from modelzone.cli.project import project_root
from modelzone.errors import ModelzoneError


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "environments",
        short_help="List the environments and their deployments.",
        epilog=examples("modelzone environments", "modelzone environments --json"),
    )(environments)


def environments(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """List the environments: region, network, deployments and what a month costs while nothing is asked."""
    from modelzone.settings.loading import environment_names  # noqa: PLC0415

    root = project_root(context)
    rows, broken = [], []
    for name in environment_names(root):
        try:
            rows.append(_row(root, name))
        except ModelzoneError as error:
            broken.append({"name": name, "problem": str(error)})
    if as_json:
        write_json({"environments": rows, "broken": broken})
    else:
        columns = ["NAME", "REGION", "NETWORK", "EGRESS", "DEPLOYMENT", "PROFILE", "SERVED BY", "ON", "INSTANCES"]
        lines = [line for row in rows for line in _lines(row)]
        write_table([*columns, "USD/MONTH>"], lines)
    for entry in broken:
        note(f"error: {entry['problem']}")
    if broken:
        raise typer.Exit(ExitCode.REFUSED)


def _row(root: Path, name: str) -> dict[str, Any]:
    from modelzone.costs import environment_costs  # noqa: PLC0415
    from modelzone.planning import plan_environment  # noqa: PLC0415

    plan = plan_environment(root, name)
    environment, costs = plan.environment, environment_costs(plan)
    return {
        "name": name,
        "description": environment.description,
        "region": environment.region,
        "account": environment.account,
        "network": "new_vpc" if environment.network.new_vpc else "existing_vpc",
        "egress": environment.network.egress,
        "usd_per_month": costs.usd_per_month,
        "deployments": [
            {
                "name": deployment.name,
                "stack": deployment.stack_id,
                "profile": environment.deployments[deployment.name].profile,
                "engine": deployment.serving.engine,
                "engine_version": deployment.serving.engine_version,
                "instance_type": deployment.serving.instance_type,
                "tensor_parallel_degree": deployment.serving.tensor_parallel_degree,
                "min_instances": deployment.serving.scaling.min_instances,
                "max_instances": deployment.serving.scaling.max_instances,
            }
            for deployment in plan.deployments
        ],
    }


def _lines(row: dict[str, Any]) -> list[list[str]]:
    """One line for each deployment; what they share stands on the first."""
    lines: list[list[str]] = []
    for deployment in row["deployments"]:
        first = not lines
        shared = [row["name"], row["region"], row["network"], row["egress"]] if first else [""] * 4
        lines.append(
            [
                *shared,
                deployment["name"],
                deployment["profile"],
                f"{deployment['engine']} {deployment['engine_version']}",
                f"{deployment['instance_type']}, degree {deployment['tensor_parallel_degree']}",
                f"{deployment['min_instances']} to {deployment['max_instances']}",
                usd(row["usd_per_month"]) if first else "",
            ]
        )
    return lines
