"""How the gateway learns of a deployment."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from modelzone.planning import DeploymentPlan
from zone_constructs.compiled_artifact import TOKENIZER, CompiledArtifact

__all__ = ["RegistryEntry"]


class RegistryEntry(Construct):
    """An SSM parameter that says what is served, where, and in which dialect. It holds no secrets."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        registry_path: str,
        deployment: DeploymentPlan,
        artifact: CompiledArtifact,
        endpoint_name: str,
    ) -> None:
        super().__init__(scope, construct_id)
        entry = {
            "deployment": deployment.name,
            "model_id": artifact.text("ModelId"),
            "endpoint_name": endpoint_name,
            "engine": deployment.facts.engine,
            "engine_version": deployment.facts.engine_version,
            "dialect": deployment.dialect,
            # Empty: the deployment completes text and offers no chat.
            "chat_template": deployment.model.chat_template or "",
            "max_input_tokens": str(deployment.serving.max_input_tokens),
            "max_total_tokens": artifact.text("SequenceLength"),
            # Commas instead of a list, because every value of an entry is text.
            "features": ",".join(sorted(deployment.features)),
            "cache_ttl_seconds": str(deployment.cache_ttl_seconds),
            "tokenizer": f"{artifact.s3_uri}{TOKENIZER}",
            # What must not be deleted while this entry is there.
            "artifact": artifact.s3_uri,
        }
        self.parameter = ssm.StringParameter(
            self,
            "Parameter",
            parameter_name=f"{registry_path}/{deployment.name}",
            description=f"Modelzone {deployment.environment}: deployment {deployment.name}",
            string_value=Stack.of(self).to_json_string(entry),
        )
