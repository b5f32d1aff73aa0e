"""``modelzone params``: how to give an override set to ``cdk deploy``."""

from __future__ import annotations

import re
import shlex
from typing import Annotated

import typer

from modelzone.cli.completion import complete_deployment, complete_override
from modelzone.cli.options import EnvironmentArgument, JsonOption, examples
from modelzone.cli.output import note, write, write_json
from modelzone.cli.override_set import Command, divide
from modelzone.cli.project import project_root

_EXAMPLES = examples(
    "modelzone params dev mixtral scaling.max_instances=4 health_check_timeout_seconds=3600",
    "modelzone params dev mixtral MaxInstanceCount=",
    "modelzone params dev mixtral --synth batch_size=4",
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("params", short_help="Check overrides, print the cdk command with them.", epilog=_EXAMPLES)(params)


def params(
    context: typer.Context,
    environment: EnvironmentArgument,
    deployment: Annotated[
        str,
        typer.Argument(metavar="DEPLOYMENT", help="One of its deployments.", autocompletion=complete_deployment),
    ],
    overrides: Annotated[
        list[str],
        typer.Argument(metavar="FIELD=VALUE...", help="What is to differ.", autocompletion=complete_override),
    ],
    *,
    synth: Annotated[
        bool, typer.Option("--synth", help="Give everything with -c, nothing as a CloudFormation parameter.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check an override set and print the cdk command that deploys with it.

    What the deployment's stack has a CloudFormation parameter for is given as one, if the parameter takes the value;
    everything else, and with --synth everything, with -c. A FIELD may also be a parameter's name: MaxInstanceCount=4;
    MaxInstanceCount= sets it back to what is planned.
    """
    found = divide(project_root(context), environment, deployment, _pairs(overrides), synth=synth)
    if as_json:
        document = {
            "environment": environment,
            "deployment": deployment,
            "stack": found.plan.stack_id,
            "stack_name": found.stack_name,
            "context": dict(found.context),
            "parameters": dict(found.parameters),
            "command": _words(found.deploy),
            "notes": list(found.notes),
        }
        write_json(document)
        return
    write(" \\\n  ".join(shlex.join(words) for words in found.deploy))
    for line in found.notes:
        note(f"note: {line}")


def _words(command: Command) -> list[str]:
    return [word for words in command for word in words]


def _pairs(overrides: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not FIELD=VALUE")
        if name in pairs:
            raise typer.BadParameter(f"{name} is given twice")
        if _CONTROL.search(text):
            raise typer.BadParameter(f"{text!r} has control characters, which cdk cuts off")
        pairs[name] = value
    return pairs
