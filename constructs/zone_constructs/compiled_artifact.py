"""The compiled artifact that a deployment serves: compiled when it is missing, checked before anything is served."""

from __future__ import annotations

import math
from collections.abc import Mapping

from aws_cdk import CustomResource, Duration, Token
from constructs import Construct

from modelzone.planning import DeploymentPlan
from modelzone.settings import Compile
from zone_constructs.artifact_check import ArtifactCheck
from zone_constructs.compile_pipeline import CompilePipeline
from zone_constructs.compile_waiter import CompileWaiter
from zone_constructs.deployment_parameters import DeploymentParameters
from zone_constructs.model_store import ModelStore

__all__ = ["TOKENIZER", "CompiledArtifact"]

# The file of an artifact that counts tokens.
TOKENIZER = "tokenizer.json"
# CloudFormation waits an hour for a custom resource; one that answers before can be followed by the next.
_WINDOW_MINUTES = 55
# The parameters that decide what is compiled, and where it has to run: a change of another one waits for nothing.
_COMPILED_PARAMETERS = (
    "ModelId",
    "ModelRevision",
    "TensorParallelDegree",
    "BatchSize",
    "SequenceLength",
    "InstanceType",
)


class CompiledArtifact(Construct):
    """Custom resources that wait for the compilation, one after another, and a last one that checks the artifact.

    The windows never fail: CloudFormation would undo the deployment, and the next one would begin anew. What the last
    of them tells is what the check fails with, in its own words, if there is no artifact; what was served before is
    served on. What the endpoint is told about the artifact comes from its manifest, through these attributes.

    Attributes
    ----------
    s3_uri
        ``s3://<bucket>/compiled/<model>/<key>/``.
    tokenizer_arn
        Of the object that counts tokens.
    manifest_sha256
        Changes with the artifact's content.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        check: ArtifactCheck,
        waiter: CompileWaiter,
        pipeline: CompilePipeline,
        store: ModelStore,
        deployment: DeploymentPlan,
        settings: Compile,
        parameters: DeploymentParameters,
    ) -> None:
        super().__init__(scope, construct_id)
        degrees = {
            instance_type: ",".join(map(str, row))
            for instance_type, row in deployment.allowed_tensor_parallel_degrees.items()
        }
        properties = {
            "Bucket": store.bucket_name,
            "Deployment": deployment.name,
            "Facts": deployment.facts.as_dict(),
            "AllowedTensorParallelDegrees": degrees,
            "MaxSequenceLength": str(deployment.maximum_sequence_length),
            "MaxInputTokens": str(deployment.serving.max_input_tokens),
            "CompileHint": deployment.compile_hint,
            "StateMachineArn": pipeline.state_machine.state_machine_arn,
        }
        compiling = {
            **properties,
            "Planned": _only_compiled(parameters.planned),
            "Given": _only_compiled(parameters.given),
            "WindowSeconds": str(_WINDOW_MINUTES * 60),
            "Compile": _flag(value=settings.automatic),
        }
        windows = _windows(settings)
        outcome = ""
        for number in range(1, windows + 1):
            window = CustomResource(
                self,
                f"Window{number}",
                resource_type="Custom::ArtifactCompilation",
                service_token=waiter.service_token,
                service_timeout=Duration.hours(1),
                # What the one before came to is also what makes CloudFormation wait for it.
                properties={**compiling, "Window": str(number), "Windows": str(windows), "Previous": outcome},
            )
            outcome = window.get_att_string("Outcome")
        self.resource = CustomResource(
            self,
            "Resource",
            resource_type="Custom::CompiledArtifact",
            service_token=check.function.function_arn,
            service_timeout=Duration.minutes(5),
            properties={
                **properties,
                "Planned": dict(parameters.planned),
                "Given": dict(parameters.given),
                "DeleteArtifact": _flag(value=settings.delete_artifacts),
                "Environment": deployment.environment,
                "Outcome": outcome,
            },
        )
        self.s3_uri = self.text("S3Uri")
        self.tokenizer_arn = f"{store.bucket_arn}/{self.text('Prefix')}{TOKENIZER}"
        self.manifest_sha256 = self.text("ManifestSha256")

    def text(self, name: str) -> str:
        """What the check answers under a name; for a parameter of the stack, what the operator gave or the plan's."""
        return self.resource.get_att_string(name)

    def number(self, name: str) -> float:
        """`text` for a property that takes a number."""
        return Token.as_number(self.resource.get_att(name))


def _windows(settings: Compile) -> int:
    """How many are needed for the longest compilation, and one for the waits around it."""
    if not settings.automatic:
        return 1
    return math.ceil(settings.max_hours * 60 / _WINDOW_MINUTES) + 1


def _only_compiled(values: Mapping[str, str]) -> dict[str, str]:
    return {name: values[name] for name in _COMPILED_PARAMETERS}


def _flag(*, value: bool) -> str:
    """CloudFormation hands every property over as text."""
    return "true" if value else "false"
