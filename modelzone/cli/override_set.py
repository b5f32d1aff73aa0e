"""An override set: what goes with ``-c``, what as a CloudFormation parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.planning import DeploymentPlan
    from modelzone.planning.parameters import DeployParameter

__all__ = ["Command", "OverrideSet", "divide"]

# The words of a command, those together that belong on one line.
Command = list[tuple[str, ...]]

# Parameters that no field has: what they are of the compiled artifact, and in the model profile.
_OF_THE_MODEL = {"ModelId": ("model_id", "model.hub_id"), "ModelRevision": ("model_revision", "model.revision")}


@dataclass(frozen=True, kw_only=True)
class OverrideSet:
    """Overrides that were checked, divided between the ways to give them.

    Attributes
    ----------
    base, plan
        The deployment without and with them.
    fields
        Everything that the plan was made with, by field.
    context
        What goes with ``-c`` when the deployment's stack is deployed.
    parameters
        What goes as a parameter; an empty value resets it.
    automatic
        Whether a deploy compiles what is missing.
    """

    base: DeploymentPlan
    plan: DeploymentPlan
    fields: Mapping[str, str]
    context: Mapping[str, str]
    parameters: Mapping[str, str]
    automatic: bool

    @property
    def stack_name(self) -> str:
        """CloudFormation's name of the deployment's stack."""
        from modelzone.planning.parameters import stack_name  # noqa: PLC0415

        return stack_name(self.plan)

    @property
    def deploy(self) -> Command:
        """How to deploy with them."""
        given = [("--parameters", f"{self.stack_name}:{name}={value}") for name, value in self.parameters.items()]
        return [*self._cdk(self.plan.stack_id, self.context), *given]

    def _cdk(self, stack: str, context: Mapping[str, str]) -> Command:
        begin = ("cdk", "deploy", stack, "-c", f"environment={self.plan.environment}")
        return [begin, *(("-c", f"{key}={value}") for key, value in context.items())]

    @property
    def changes_artifact(self) -> bool:
        """Whether another compiled artifact is wanted than without them."""
        return self.plan.artifact_prefix != self.base.artifact_prefix

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to know about the commands."""
        plan, notes = self.plan, []
        reset = f"modelzone params {plan.environment} {plan.name}"
        if self.changes_artifact:
            notes.append(f"this takes another compiled artifact, {plan.artifact_prefix}: {self._how_to_compile()}")
        if self._moves:
            notes.append(
                "a deployed endpoint keeps its instance type, and its stack refuses another one: add a second "
                "deployment, move the clients and remove this one, or destroy the stack and deploy it again"
            )
        if self.context:
            notes.append("-c holds for one command: give it again next time, or write it into the environment file")
        if hidden := [f"{name}=" for name in self._hidden]:
            notes.append(
                f"a parameter that was set in an earlier deploy wins over -c; to reset: {reset} {' '.join(hidden)}"
            )
        if stay := [f"{name}=" for name, value in self.parameters.items() if value]:
            notes.append(f"a parameter stays until it is reset: {reset} {' '.join(stay)}")
        return tuple(notes)

    def _how_to_compile(self) -> str:
        if self.automatic:
            source = (
                "" if self.plan.compile.weights_source == "hub" else " from weights in the model store (egress: none)"
            )
            return f"unless it is there already, the deploy compiles it first{source}"
        return f"unless it is there already, this has to be done first. {self.plan.compile_hint}"

    @property
    def _moves(self) -> bool:
        return "InstanceType" in self.parameters or self.plan.serving.instance_type != self.base.serving.instance_type

    @property
    def _hidden(self) -> list[str]:
        """Parameters that may have been set for what goes with ``-c`` now."""
        from modelzone.planning.parameters import deploy_parameters  # noqa: PLC0415

        known = deploy_parameters(self.plan)
        return [p.name for p in known if p.field in self.fields and p.name not in self.parameters]


def divide(root: Path, environment: str, deployment: str, pairs: Mapping[str, str], *, synth: bool) -> OverrideSet:
    """Check overrides and divide them; with `synth` all of them go with ``-c``.

    Raises
    ------
    ModelzoneError
        They cannot be planned, or not be given.
    """
    from modelzone.planning.parameters import deploy_parameters  # noqa: PLC0415
    from modelzone.settings import load_environment  # noqa: PLC0415

    base = _plan(root, environment, deployment, {})
    fields, parameters = _by_field(pairs, deploy_parameters(base), synth=synth)
    plan = _plan(root, environment, deployment, fields)
    given = {} if synth else _as_parameters(root, base, fields)
    facts = {fact: parameters[name] for name, (fact, _) in _OF_THE_MODEL.items() if parameters.get(name)}
    return OverrideSet(
        base=base,
        plan=replace(plan, facts=replace(plan.facts, **facts)),
        fields=fields,
        context={f"deployment.{deployment}.{name}": value for name, value in fields.items() if name not in given},
        parameters={name: fields[field] for field, name in given.items()} | parameters,
        automatic=load_environment(root, environment).compile.automatic,
    )


def _plan(root: Path, environment: str, deployment: str, fields: Mapping[str, str]) -> DeploymentPlan:
    from modelzone.planning import plan_environment  # noqa: PLC0415

    plans = plan_environment(root, environment, overrides={deployment: dict(fields)} if fields else None).deployments
    found = next((plan for plan in plans if plan.name == deployment), None)
    if found is None:
        names = ", ".join(plan.name for plan in plans)
        raise ModelzoneError(f"environment {environment} has no deployment {deployment!r}; it has: {names}")
    return found


def _by_field(
    pairs: Mapping[str, str], known: tuple[DeployParameter, ...], *, synth: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Overrides by field, for the plan; and those that only parameters can say, by the parameters' names."""
    fields: dict[str, str] = {}
    parameters: dict[str, str] = {}
    named = {parameter.name: parameter for parameter in known}
    of_field = {parameter.field: parameter for parameter in known if parameter.field}
    seen: dict[str, str] = {}
    for name, value in pairs.items():
        parameter = named.get(name) or of_field.get(name)
        subject = (parameter and parameter.field) or name
        if subject in seen:
            raise typer.BadParameter(f"{name} and {seen[subject]} are the same")
        seen[subject] = name
        if parameter is None or not _only_as_parameter(parameter, name, value, synth=synth):
            fields[subject] = value
        elif value and not parameter.takes(value):
            raise ModelzoneError(f"{name}={value} is refused: it must be {parameter.constraint}")
        else:
            parameters[parameter.name] = value
    return fields, parameters


def _only_as_parameter(parameter: DeployParameter, name: str, value: str, *, synth: bool) -> bool:
    """Whether there is nothing to plan: a reset, a fact of the model, a value that only the parameter takes."""
    resets = not value and name == parameter.name
    if synth:
        if resets:
            raise ModelzoneError(f"{name}= resets a parameter, which -c cannot do: leave out --synth")
        if parameter.field is None:
            raise ModelzoneError(f"{name} is the model profile's: edit the profile instead of --synth")
        return False
    return (
        resets
        or parameter.field is None
        or (parameter.beyond_plan and (name == parameter.name or parameter.takes(value)))
    )


def _as_parameters(root: Path, base: DeploymentPlan, fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that the stack takes as parameters, and their names there.

    The stack is made from what is given with ``-c``: with that alone the plan has to be possible, and its parameters
    have to take the other values. Where they do not, everything goes with ``-c``.
    """
    from modelzone.planning.parameters import deploy_parameters  # noqa: PLC0415

    of_base = {p.field for p in deploy_parameters(base)}
    left = {field: value for field, value in fields.items() if field not in of_base}
    try:
        synthesised = _plan(root, base.environment, base.name, left)
    except ModelzoneError:
        return {}
    parameters = {p.field: p for p in deploy_parameters(synthesised) if p.field}
    wanted = {field: value for field, value in fields.items() if field not in left}
    if all(field in parameters and parameters[field].takes(value) for field, value in wanted.items()):
        return {field: parameters[field].name for field in wanted}
    return {}
