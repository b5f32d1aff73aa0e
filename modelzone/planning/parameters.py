"""What may still be changed when a deployment's stack is deployed: CloudFormation parameters, as plain data.

`zone_constructs.deployment_parameters` makes them, ``modelzone params`` prints how to give them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modelzone.patterns import integer_range_pattern
from modelzone.planning.plan import DeploymentPlan

__all__ = ["DeployParameter", "deploy_parameters", "stack_name"]

_COUNT = (1, 100)
_SECONDS = (60, 3600)
_VOLUME_GIB = (1, 512)
_CONCURRENCY = (1, 1000)
_BATCH = (1, 256)


@dataclass(frozen=True, kw_only=True)
class DeployParameter:
    """One parameter of a deployment's stack.

    Attributes
    ----------
    name
        CloudFormation's name of it.
    field
        The deployment's field that it overrides, dotted; None for facts of the model itself.
    planned
        What holds while it is empty.
    pattern
        What it takes beside an empty value: a regular expression without anchors, and `constraint` in words.
    beyond_plan
        Whether it takes values that its field does not, which no plan can check.
    """

    name: str
    field: str | None
    planned: str
    description: str
    pattern: str
    constraint: str
    beyond_plan: bool = False

    def takes(self, value: str) -> bool:
        """Whether CloudFormation lets the value pass (it says nothing about other parameters)."""
        return re.fullmatch(self.pattern, value) is not None


def stack_name(deployment: DeploymentPlan) -> str:
    """CloudFormation's name of a deployment's stack, which ``--parameters`` wants."""
    return f"modelzone-{deployment.environment}-deployment-{deployment.name}"


def deploy_parameters(deployment: DeploymentPlan) -> tuple[DeployParameter, ...]:
    """All parameters of the deployment's stack."""
    serving, facts = deployment.serving, deployment.facts
    allowed = deployment.allowed_tensor_parallel_degrees
    volume = deployment.volume_size_gib
    return (
        _number(
            "MinInstanceCount",
            "scaling.min_instances",
            serving.scaling.min_instances,
            "Instances that always run",
            _COUNT,
        ),
        _number(
            "MaxInstanceCount",
            "scaling.max_instances",
            serving.scaling.max_instances,
            "Most instances that autoscaling starts",
            _COUNT,
        ),
        _number(
            "TargetConcurrency",
            "scaling.target_concurrency",
            deployment.target_concurrency,
            "Concurrent requests per instance that autoscaling holds",
            _CONCURRENCY,
        ),
        _number(
            "HealthCheckTimeoutSeconds",
            "health_check_timeout_seconds",
            serving.health_check_timeout_seconds,
            "Seconds that the container may take to load the model and answer its health check",
            _SECONDS,
        ),
        _number(
            "ModelDownloadTimeoutSeconds",
            "download_timeout_seconds",
            serving.download_timeout_seconds,
            "Seconds that SageMaker may take to download the artifact to an instance",
            _SECONDS,
        ),
        *(
            ()
            if volume is None
            else (_number("VolumeSizeGiB", "volume_size_gib", volume, "Size of each instance's volume", _VOLUME_GIB),)
        ),
        DeployParameter(
            name="ImageUri",
            field="image_uri",
            planned=deployment.image_uri,
            description="Serving container",
            pattern=r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.[a-z0-9.-]+/[a-z0-9._-]+:[A-Za-z0-9._-]{1,128}",
            constraint="an image in ECR with a tag, <account>.dkr.ecr.<region>.<domain>/<repository>:<tag>",
            beyond_plan=True,
        ),
        DeployParameter(
            name="ModelId",
            field=None,
            planned=facts.model_id,
            description="Model on the Hugging Face Hub that was compiled",
            pattern="[A-Za-z0-9._-]{1,48}/[A-Za-z0-9._-]{1,48}",
            constraint="<organisation>/<model>",
        ),
        DeployParameter(
            name="ModelRevision",
            field=None,
            planned=facts.model_revision,
            description="Commit of the model on the hub",
            pattern="[0-9a-f]{40}",
            constraint="a full commit id of 40 hexadecimal digits",
        ),
        _choice(
            "InstanceType",
            "instance_type",
            serving.instance_type,
            "Instance type that serves the model",
            list(allowed),
        ),
        _choice(
            "TensorParallelDegree",
            "tensor_parallel_degree",
            serving.tensor_parallel_degree,
            "NeuronCores that share the model, as compiled in",
            sorted({degree for degrees in allowed.values() for degree in degrees}),
        ),
        _number(
            "BatchSize",
            "batch_size",
            serving.batch_size,
            "Batch size that was compiled in",
            _BATCH,
        ),
        _number(
            "SequenceLength",
            "sequence_length",
            serving.sequence_length,
            "Sequence length (prompt and answer) that was compiled in",
            (serving.max_input_tokens + 1, deployment.maximum_sequence_length),
        ),
    )


def _number(
    name: str,
    field: str,
    planned: int,
    description: str,
    bounds: tuple[int, int],
) -> DeployParameter:
    return DeployParameter(
        name=name,
        field=field,
        planned=str(planned),
        description=description,
        pattern=integer_range_pattern(*bounds),
        constraint=f"a whole number from {bounds[0]} to {bounds[1]}",
    )


def _choice(
    name: str, field: str, planned: str | int, description: str, values: Sequence[str | int]
) -> DeployParameter:
    texts = [str(value) for value in values]
    return DeployParameter(
        name=name,
        field=field,
        planned=str(planned),
        description=description,
        pattern="|".join(text.replace(".", r"\.") for text in texts),
        constraint=f"one with which the model fits: {', '.join(texts)}",
    )
