"""The compiled artifact that a deployment serves, checked before anything that costs money is started."""

from __future__ import annotations

from aws_cdk import CustomResource, Duration, Token
from constructs import Construct

from modelzone.planning import DeploymentPlan
from zone_constructs.artifact_check import ArtifactCheck
from zone_constructs.deployment_parameters import DeploymentParameters
from zone_constructs.model_store import ModelStore

__all__ = ["CompiledArtifact"]


class CompiledArtifact(Construct):
    """A custom resource that fails the deployment, with the reason, unless a fitting artifact is in the bucket.

    What the endpoint is told about the artifact comes from its manifest, through these attributes.

    Attributes
    ----------
    s3_uri
        ``s3://<bucket>/compiled/<model>/<key>/``.
    manifest_sha256
        Changes with the artifact's content.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        check: ArtifactCheck,
        store: ModelStore,
        deployment: DeploymentPlan,
        parameters: DeploymentParameters,
    ) -> None:
        super().__init__(scope, construct_id)
        degrees = {
            instance_type: ",".join(map(str, row))
            for instance_type, row in deployment.allowed_tensor_parallel_degrees.items()
        }
        self.resource = CustomResource(
            self,
            "Resource",
            resource_type="Custom::CompiledArtifact",
            service_token=check.function.function_arn,
            service_timeout=Duration.minutes(5),
            properties={
                "Bucket": store.bucket.bucket_name,
                "Deployment": deployment.name,
                "Facts": deployment.facts.as_dict(),
                "Planned": dict(parameters.planned),
                "Given": dict(parameters.given),
                "AllowedTensorParallelDegrees": degrees,
                "MaxSequenceLength": str(deployment.maximum_sequence_length),
                "MaxInputTokens": str(deployment.serving.max_input_tokens),
                "CompileHint": deployment.compile_hint,
            },
        )
        self.s3_uri = self.resource.get_att_string("S3Uri")
        self.manifest_sha256 = self.resource.get_att_string("ManifestSha256")
        self.dtype = self.resource.get_att_string("Dtype")
        self.max_batch_prefill_tokens = self.resource.get_att_string("MaxBatchPrefillTokens")

    def text(self, name: str) -> str:
        """The value that holds for a parameter of the stack: what the operator gave, or else the plan's."""
        return self.resource.get_att_string(name)

    def number(self, name: str) -> float:
        """`text` for a property that takes a number."""
        return Token.as_number(self.resource.get_att(name))
