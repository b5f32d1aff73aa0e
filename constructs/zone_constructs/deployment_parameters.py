"""What an operator may override when a deployment's stack is deployed, and the rules that guard it.

Every parameter is empty by default, which means "as planned". Its default cannot be the planned value itself: the CDK
CLI sends a parameter's previous value on every update, so an edit of the environment file would never arrive. Which
value holds is decided by the check that runs before everything else (`zone_constructs.compiled_artifact`), not by
conditions in the template: those would make the template hard to read and the CDK's validation slow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import CfnParameter, CfnRule, CfnRuleAssertion, Fn, Stack

from modelzone.patterns import integer_range_pattern
from modelzone.planning import DeploymentPlan

__all__ = ["DeploymentParameters"]

_AS_PLANNED = ""
_COUNT = (1, 100)
_SECONDS = (60, 3600)


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
        serving, facts = deployment.serving, deployment.facts
        self._number("MinInstanceCount", serving.scaling.min_instances, "Instances that always run", _COUNT)
        self._number(
            "MaxInstanceCount", serving.scaling.max_instances, "Most instances that autoscaling starts", _COUNT
        )
        self._number(
            "TargetConcurrency",
            deployment.target_concurrency,
            "Concurrent requests per instance that autoscaling holds",
            (1, 1000),
        )
        self._number(
            "HealthCheckTimeoutSeconds",
            serving.health_check_timeout_seconds,
            "Seconds that the container may take to load the model and answer its health check",
            _SECONDS,
        )
        self._number(
            "ModelDownloadTimeoutSeconds",
            serving.download_timeout_seconds,
            "Seconds that SageMaker may take to download the artifact to an instance",
            _SECONDS,
        )
        if deployment.volume_size_gib is not None:
            self._number("VolumeSizeGiB", deployment.volume_size_gib, "Size of each instance's volume", (1, 512))
        self._add(
            "ImageUri",
            planned=deployment.image_uri,
            description="Serving container",
            pattern=r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.[a-z0-9.-]+/[a-z0-9._-]+:[A-Za-z0-9._-]{1,128}",
            constraint="an image in ECR with a tag, <account>.dkr.ecr.<region>.<domain>/<repository>:<tag>",
        )
        self._add(
            "ModelId",
            planned=facts.model_id,
            description="Model on the Hugging Face Hub that was compiled",
            pattern="[A-Za-z0-9._-]{1,48}/[A-Za-z0-9._-]{1,48}",
            constraint="<organisation>/<model>",
        )
        self._add(
            "ModelRevision",
            planned=facts.model_revision,
            description="Commit of the model on the hub",
            pattern="[0-9a-f]{40}",
            constraint="a full commit id of 40 hexadecimal digits",
        )
        allowed = deployment.allowed_tensor_parallel_degrees
        self._choice("InstanceType", serving.instance_type, "Instance type that serves the model", list(allowed))
        self._choice(
            "TensorParallelDegree",
            serving.tensor_parallel_degree,
            "NeuronCores that share the model, as compiled in",
            sorted({degree for degrees in allowed.values() for degree in degrees}),
        )
        for instance_type in allowed:
            self._add_degree_rule(instance_type, deployment)
        self._number("BatchSize", serving.batch_size, "Batch size that was compiled in", (1, 256))
        self._number(
            "SequenceLength",
            serving.sequence_length,
            "Sequence length (prompt and answer) that was compiled in",
            (serving.max_input_tokens + 1, deployment.maximum_sequence_length),
        )

    @property
    def planned(self) -> Mapping[str, str]:
        """What holds while a parameter is empty."""
        return self._planned

    @property
    def given(self) -> Mapping[str, str]:
        """References to the parameters."""
        return self._given

    def _number(self, name: str, planned: int, description: str, bounds: tuple[int, int]) -> None:
        self._add(
            name,
            planned=planned,
            description=description,
            pattern=integer_range_pattern(*bounds),
            constraint=f"a whole number from {bounds[0]} to {bounds[1]}",
        )

    def _choice(self, name: str, planned: str | int, description: str, values: Sequence[str | int]) -> None:
        texts = [str(value) for value in values]
        self._add(
            name,
            planned=planned,
            description=description,
            pattern="|".join(text.replace(".", r"\.") for text in texts),
            constraint=f"one with which the model fits: {', '.join(texts)}",
        )

    def _add(self, name: str, *, planned: str | int, description: str, pattern: str, constraint: str) -> None:
        parameter = CfnParameter(
            self._stack,
            name,
            type="String",
            default=_AS_PLANNED,
            description=f"{description}. Empty: as planned, {planned}",
            allowed_pattern=f"^({pattern})?$",
            constraint_description=f"must be empty (as planned: {planned}) or {constraint}",
        )
        self._planned[name] = str(planned)
        self._given[name] = parameter.value_as_string

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
