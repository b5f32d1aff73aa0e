"""``modelzone params``: how to give an override set to ``cdk deploy``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelzone.cli.completion import complete_deployment, complete_override
from modelzone.cli.options import EnvironmentArgument, JsonOption, examples
from modelzone.cli.output import note, write, write_json
from modelzone.cli.project import project_root
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.planning import DeploymentPlan
    from modelzone.planning.parameters import DeployParameter

_EXAMPLES = examples(
    "modelzone params dev mixtral scaling.max_instances=4 health_check_timeout_seconds=3600",
    "modelzone params dev mixtral instance_type=ml.inf2.48xlarge tensor_parallel_degree=24",
    "modelzone params dev mixtral --synth batch_size=4",
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An override set, divided between the two ways to give it."""

    plan: DeploymentPlan
    context: Mapping[str, str]
    parameters: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def command(self) -> list[tuple[str, ...]]:
        """The words of ``cdk deploy``, those together that belong on one line."""
        from modelzone.planning.parameters import stack_name  # noqa: PLC0415

        stack = stack_name(self.plan)
        return [
            ("cdk", "deploy", self.plan.stack_id, "-c", f"environment={self.plan.environment}"),
            *(("-c", f"{key}={value}") for key, value in self.context.items()),
            *(("--parameters", f"{stack}:{name}={value}") for name, value in self.parameters.items()),
        ]


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
    everything else, and with --synth everything, with -c. A FIELD may also be a parameter's name (MaxInstanceCount).
    """
    answer = _answer(project_root(context), environment, deployment, _pairs(overrides), synth=synth)
    if as_json:
        from modelzone.planning.parameters import stack_name  # noqa: PLC0415

        document = {
            "environment": environment,
            "deployment": deployment,
            "stack": answer.plan.stack_id,
            "stack_name": stack_name(answer.plan),
            "context": dict(answer.context),
            "parameters": dict(answer.parameters),
            "command": [word for words in answer.command for word in words],
            "notes": list(answer.notes),
        }
        write_json(document)
        return
    write(" \\\n  ".join(shlex.join(words) for words in answer.command))
    for line in answer.notes:
        note(f"note: {line}")


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


def _plan(root: Path, environment: str, deployment: str, fields: Mapping[str, str]) -> DeploymentPlan:
    from modelzone.planning import plan_environment  # noqa: PLC0415

    plans = plan_environment(root, environment, overrides={deployment: dict(fields)} if fields else None).deployments
    found = next((plan for plan in plans if plan.name == deployment), None)
    if found is None:
        names = ", ".join(plan.name for plan in plans)
        raise ModelzoneError(f"environment {environment} has no deployment {deployment!r}; it has: {names}")
    return found


def _answer(root: Path, environment: str, deployment: str, pairs: Mapping[str, str], *, synth: bool) -> Answer:
    from modelzone.planning.parameters import deploy_parameters  # noqa: PLC0415

    base = _plan(root, environment, deployment, {})
    known = {parameter.name: parameter for parameter in deploy_parameters(base)}
    fields, facts = _by_field(pairs, known, synth=synth)
    plan = _plan(root, environment, deployment, fields)
    given = {} if synth else _as_parameters(root, environment, deployment, fields)
    context = {f"deployment.{deployment}.{name}": value for name, value in fields.items() if name not in given}
    parameters = {known_name: fields[field] for field, known_name in given.items()} | facts
    return Answer(
        plan=plan, context=context, parameters=parameters, notes=tuple(_notes(known, parameters, bool(context)))
    )


def _by_field(
    pairs: Mapping[str, str], known: Mapping[str, DeployParameter], *, synth: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Overrides by field, and those that only parameters can say (``ModelId``)."""
    fields: dict[str, str] = {}
    facts: dict[str, str] = {}
    for name, value in pairs.items():
        parameter = known.get(name)
        if parameter is not None and parameter.field is None:
            if synth:
                raise ModelzoneError(f"{name} is the model profile's: edit the profile instead of --synth")
            if not parameter.takes(value):
                raise ModelzoneError(f"{name}={value} is refused: it must be {parameter.constraint}")
            facts[name] = value
            continue
        field = parameter.field if parameter and parameter.field else name
        if field in fields:
            raise typer.BadParameter(f"{name} and {field} are the same")
        fields[field] = value
    return fields, facts


def _as_parameters(root: Path, environment: str, deployment: str, fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that the stack takes as parameters, and their names there.

    The stack is made from what is given with ``-c``: with that alone the plan has to be possible, and its parameters
    have to take the other values. Where they do not, everything goes with ``-c``.
    """
    from modelzone.planning.parameters import deploy_parameters  # noqa: PLC0415

    base = {p.field: p for p in deploy_parameters(_plan(root, environment, deployment, {})) if p.field}
    left = {field: value for field, value in fields.items() if field not in base}
    try:
        synthesised = _plan(root, environment, deployment, left)
    except ModelzoneError:
        return {}
    parameters = {p.field: p for p in deploy_parameters(synthesised) if p.field}
    wanted = {field: value for field, value in fields.items() if field not in left}
    if all(field in parameters and parameters[field].takes(value) for field, value in wanted.items()):
        return {field: parameters[field].name for field in wanted}
    return {}


def _notes(known: Mapping[str, DeployParameter], parameters: Mapping[str, str], has_context: bool) -> list[str]:  # noqa: FBT001
    notes = []
    if has_context:
        notes.append("-c holds for one command: give it again next time, or write it into the environment file")
    if parameters:
        notes.append("a parameter stays until it is set to empty again (--parameters …=)")
    if any(known[name].shapes_artifact for name in parameters if name in known):
        notes.append("the artifact has to be compiled with the same values, which CompileStack does with -c only")
    return notes
