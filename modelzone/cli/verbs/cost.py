"""``modelzone cost``: what an environment costs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzone.cli.formats import UNKNOWN, usd, whole
from modelzone.cli.options import EnvironmentArgument, JsonOption, Overrides, context_overrides, examples
from modelzone.cli.output import write, write_facts, write_heading, write_json, write_table
from modelzone.cli.project import project_root

if TYPE_CHECKING:
    from modelzone.planning import DeploymentPlan, EnvironmentPlan

_EXAMPLES = examples(
    "modelzone cost dev",
    "modelzone cost dev -c deployment.mixtral.scaling.max_instances=4",
    "modelzone cost dev --compare --adapters 5",
    "modelzone cost prod --markdown",
)


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("cost", short_help="Print what an environment costs.", epilog=_EXAMPLES)(cost)


def cost(
    context: typer.Context,
    environment: EnvironmentArgument,
    *,
    overrides: Overrides = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also the cheapest Inferentia and GPU that serve each deployment.")
    ] = False,
    adapters: Annotated[
        int | None,
        typer.Option("--adapters", min=1, metavar="N", help="Also N LoRA adapters on one host against N hosts."),
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what an environment costs by the hour and the month, by stack, and what its tokens and compilations cost.

    A price that is not in the tables is reported as unknown and is in no sum.
    """
    if as_markdown and (as_json or compare or adapters):
        raise typer.BadParameter("--markdown is the environment's table alone: leave out the other options")
    from modelzone.costs import environment_costs, markdown  # noqa: PLC0415
    from modelzone.planning import plan_environment  # noqa: PLC0415

    plan = plan_environment(project_root(context), environment, overrides=context_overrides(overrides))
    costs = environment_costs(plan)
    if as_markdown:
        sys.stdout.write(markdown(costs))
        return
    deployments = [_deployment(deployment, compare=compare, adapters=adapters) for deployment in plan.deployments]
    document = {**costs.to_dict(), "deployments": deployments}
    if as_json:
        write_json(document)
    else:
        _show(plan, document)


def _deployment(plan: DeploymentPlan, *, compare: bool, adapters: int | None) -> dict[str, Any]:
    from modelzone.costs import adapter_cost, compile_cost  # noqa: PLC0415
    from modelzone.planning import assess  # noqa: PLC0415

    found = assess(plan.model, plan.serving, region=plan.region)
    throughput = found.throughput
    row: dict[str, Any] = {
        "name": plan.name,
        "instance_type": plan.serving.instance_type,
        "usd_per_hour": found.usd_per_hour,
        "tokens_per_second": throughput.tokens_per_second if throughput else None,
        "throughput_basis": throughput.basis if throughput else None,
        "usd_per_million_tokens": found.usd_per_million_tokens,
        "compile": asdict(compile_cost(found.compile, region=plan.region)) if found.compile else None,
    }
    if compare:
        row["alternatives"] = _alternatives(plan)
    if adapters is not None:
        cost = asdict(adapter_cost(adapters, plan.serving.instance_type, region=plan.region))
        supported = found.version is not None and found.version.supports_adapters
        row["adapters"] = {**cost, "engine_loads_adapters": supported}
    return row


def _alternatives(plan: DeploymentPlan) -> dict[str, Any]:
    from modelzone.costs import cheapest_of_each_kind, compare  # noqa: PLC0415
    from modelzone.planning import search  # noqa: PLC0415

    best = cheapest_of_each_kind(compare(search(plan.model, plan.serving, region=plan.region)))
    return {kind: asdict(row) for kind, row in best.items()}


def _show(plan: EnvironmentPlan, document: dict[str, Any]) -> None:
    write(f"environment {plan.environment.name} in {plan.environment.region}, US dollars")
    lines = [
        [
            line["stack"],
            line["what"],
            _range(line["count"], line["count_maximum"]),
            usd(line["usd_per_hour"]),
            usd(line["usd_per_hour_maximum"]),
            line["price"]["date"] if line["price"] else "-",
        ]
        for line in document["lines"]
    ]
    hour, month = document["usd_per_hour"], document["usd_per_month"]
    hour_maximum, month_maximum = document["usd_per_hour_maximum"], document["usd_per_month_maximum"]
    known = " of known prices" if document["unpriced"] else ""
    lines += [
        ["", f"sum{known} an hour", "", usd(hour), usd(hour_maximum), ""],
        ["", f"sum{known} a month (730 h)", "", usd(month), usd(month_maximum), ""],
    ]
    write_table(["STACK", "WHAT", "NUMBER>", "SMALLEST/H>", "LARGEST/H>", "PRICE OF"], lines)
    for deployment in document["deployments"]:
        write_heading(f"deployment {deployment['name']}")
        write_facts(_facts(deployment))
    write("")
    for name, words in (("unpriced", "no price known, in no sum"), ("unverified", "not checked with AWS's Price List")):
        if document[name]:
            write(f"{words}: {'; '.join(document[name])}")
    write(f"not included: {', '.join(document['not_included'])}")


def _range(low: int, high: int) -> str:
    return whole(low) if low == high else f"{whole(low)} to {whole(high)}"


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if row["tokens_per_second"] is not None:
        rate, basis = row["tokens_per_second"], row["throughput_basis"]
        facts += [
            ("output tokens", f"{rate:,.0f} a second of one instance ({basis})"),
            ("USD per million", f"{usd(row['usd_per_million_tokens'])} for output tokens, never idle"),
        ]
    if run := row["compile"]:
        facts.append(("a compile run", _compile_run(run)))
    for kind, other in row.get("alternatives", {}).items():
        facts.append((f"cheapest {kind}", _alternative(other)))
    if "alternatives" in row and not row["alternatives"]:
        facts.append(("alternatives", f"{UNKNOWN}: nothing that fits has a price here"))
    if many := row.get("adapters"):
        shared, apart = usd(many["usd_per_month_shared"]), usd(many["usd_per_month_apart"])
        text = f"{shared} a month on one host, {apart} on a host each: {many['saved']:.0%} saved"
        if not many["engine_loads_adapters"]:
            text += "; this deployment's engine loads none (modelzone engines)"
        facts.append((f"{many['adapters']} adapters", text))
    return facts


def _compile_run(run: dict[str, Any]) -> str:
    host = run["instance_type"] or "no host large enough"
    hours = f"{run['hours_low']:g} to {run['hours_high']:g} h"
    unpriced = f"; no price known: {', '.join(run['unpriced'])}" if run["unpriced"] else ""
    return f"{usd(run['usd_low'])} to {usd(run['usd_high'])} on {host}, {hours} ({run['basis']}){unpriced}"


def _alternative(other: dict[str, Any]) -> str:
    return (
        f"{usd(other['usd_per_million_tokens'])} per million output tokens, {usd(other['usd_per_hour'])} an hour: "
        f"{other['engine']} {other['engine_version']} on {other['instance_type']}, degree "
        f"{other['tensor_parallel_degree']}, batch {other['batch_size']}"
    )
