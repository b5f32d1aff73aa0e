"""Where weights and compiled artifacts are kept."""

from __future__ import annotations

from aws_cdk import CfnOutput
from constructs import Construct

from modelzone.planning import EnvironmentPlan
from stacks.base import ZoneStack
from zone_constructs.artifact_check import ArtifactCheck
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore

__all__ = ["ModelStoreStack"]


class ModelStoreStack(ZoneStack):
    """Key, buckets, hub token, and the function that checks compiled artifacts before they are served."""

    def __init__(self, scope: Construct, construct_id: str, *, plan: EnvironmentPlan, logs: EncryptedLogs) -> None:
        environment = plan.environment
        super().__init__(
            scope,
            construct_id,
            environment=environment,
            suffix="model-store",
            description=f"Modelzone {environment.name}: model bucket, key and hub token",
        )
        self.store = ModelStore(self, "Store", environment_name=environment.name, retain_data=environment.retain_data)
        self.artifact_check = ArtifactCheck(self, "ArtifactCheck", store=self.store, logs=logs)
        CfnOutput(
            self, "ModelBucketName", value=self.store.bucket.bucket_name, description="Bucket of weights and artifacts"
        )
        CfnOutput(
            self,
            "HubTokenSecretArn",
            value=self.store.hub_token.secret_arn,
            description="Put a Hugging Face token here: aws secretsmanager put-secret-value --secret-id ARN "
            "--secret-string file://token.txt",
        )
