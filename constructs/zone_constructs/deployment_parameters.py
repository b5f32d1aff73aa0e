"""What an operator may override when a deployment's stack is deployed, and the rules that guard it.

Every parameter is empty by default, which means "as planned". Its default cannot be the planned value itself: the CDK
CLI sends a parameter's previous value on every update, so an edit of the environment file would never arrive. Which
value holds is decided by the check that runs before everything else (`zone_constructs.compiled_artifact`), not by
conditions in the template: those would make the template hard to read and the CDK's validation slow.
"""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import CfnParameter, CfnRule, CfnRuleAssertion, Fn, Stack

from modelzone.planning import DeploymentPlan
from modelzone.planning.parameters import DeployParameter, deploy_parameters

__all__ = ["DeploymentParameters"]

_AS_PLANNED = ""


class DeploymentParameters:
    """CloudFormation parameters of a deployment's stack.

    Few on purpose: everything that is known at synth is decided at synth. They stand at the top of the stack, so that
    their names are what ``--parameters <stack name>:<name>=<value>`` is given.

    Attributes
    ----------
    planned
        By the parameter's name, the value that holds while it is empty, as text.
    given
        By the parameter's name, a reference to what the operator gave.
    """

    def __init__(self, stack: Stack, *, deployment: DeploymentPlan) -> None:
        self._stack = stack
        self._planned: dict[str, str] = {}
        self._given: dict[str, str] = {}
        for parameter in deploy_parameters(deployment):
            self._add(parameter)
        for instance_type in deployment.allowed_tensor_parallel_degrees:
            self._add_degree_rule(instance_type, deployment)

    @property
    def planned(self) -> Mapping[str, str]:
        """What holds while a parameter is empty."""
        return self._planned

    @property
    def given(self) -> Mapping[str, str]:
        """References to the parameters."""
        return self._given

    def _add(self, parameter: DeployParameter) -> None:
        made = CfnParameter(
            self._stack,
            parameter.name,
            type="String",
            default=_AS_PLANNED,
            description=f"{parameter.description}. Empty: as planned, {parameter.planned}",
            allowed_pattern=f"^({parameter.pattern})?$",
            constraint_description=f"must be empty (as planned: {parameter.planned}) or {parameter.constraint}",
        )
        self._planned[parameter.name] = parameter.planned
        self._given[parameter.name] = made.value_as_string

    def _add_degree_rule(self, instance_type: str, deployment: DeploymentPlan) -> None:
        """A degree is possible or not depending on the instance type; an empty parameter stands for the plan."""
        degrees = deployment.allowed_tensor_parallel_degrees[instance_type]
        accepted = [str(degree) for degree in degrees]
        if deployment.serving.tensor_parallel_degree in degrees:
            accepted.append(_AS_PLANNED)
        given = self._given["InstanceType"]
        chosen = Fn.condition_equals(given, instance_type)
        if instance_type == deployment.serving.instance_type:
            chosen = Fn.condition_or(chosen, Fn.condition_equals(given, _AS_PLANNED))
        CfnRule(
            self._stack,
            "Degree" + "".join(part.capitalize() for part in instance_type.split(".")),
            rule_condition=chosen,
            assertions=[
                CfnRuleAssertion(
                    assert_=Fn.condition_contains(accepted, self._given["TensorParallelDegree"]),
                    assert_description=f"on {instance_type} TensorParallelDegree must be "
                    + " or ".join(map(str, degrees)),
                )
            ],
        )
