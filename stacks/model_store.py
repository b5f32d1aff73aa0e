"""Where weights and compiled artifacts are kept, here or in another environment."""

from __future__ import annotations

from aws_cdk import CfnOutput
from constructs import Construct

from modelzone.planning import EnvironmentPlan
from stacks.base import ZoneStack
from zone_constructs.artifact_check import ArtifactCheck
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore, OwnModelStore, SharedModelStore

__all__ = ["ModelStoreStack"]


class ModelStoreStack(ZoneStack):
    """Key, buckets and hub token, unless another environment's are used, and the function that checks artifacts."""

    def __init__(self, scope: Construct, construct_id: str, *, plan: EnvironmentPlan, logs: EncryptedLogs) -> None:
        environment = plan.environment
        super().__init__(
            scope,
            construct_id,
            environment=environment,
            suffix="model-store",
            description=f"Modelzone {environment.name}: model bucket, key and hub token",
        )
        self.store: ModelStore
        if environment.model_store is None:
            self.store = OwnModelStore(
                self, "Store", environment_name=environment.name, retain_data=environment.retain_data
            )
        else:
            self.store = SharedModelStore(self, "Store", owner=plan.store_owner)
        self.artifact_check = ArtifactCheck(self, "ArtifactCheck", environment=environment, store=self.store, logs=logs)
        CfnOutput(self, "ModelBucketName", value=self.store.bucket_name, description="Bucket of weights and artifacts")
        CfnOutput(
            self,
            "HubTokenSecretArn",
            value=self.store.hub_token_arn,
            description="Put a Hugging Face token here: aws secretsmanager put-secret-value --secret-id ARN "
            "--secret-string file://token.txt",
        )
