"""A model served on Inferentia2."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import CfnOutput, Tags
from constructs import Construct

from modelzone.planning import DeploymentPlan, EnvironmentPlan
from stacks.base import ZoneStack
from zone_constructs.artifact_check import ArtifactCheck
from zone_constructs.autoscaling import EndpointScaling
from zone_constructs.compile_pipeline import CompilePipeline
from zone_constructs.compile_waiter import CompileWaiter
from zone_constructs.compiled_artifact import CompiledArtifact
from zone_constructs.deployment_parameters import DeploymentParameters
from zone_constructs.inferentia_endpoint import InferentiaEndpoint
from zone_constructs.invoke_proxy import InvokeProxy
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore
from zone_constructs.network import ZoneNetwork
from zone_constructs.registry_entry import RegistryEntry

__all__ = ["InferentiaStack"]


class InferentiaStack(ZoneStack):
    """Compiled artifact, SageMaker endpoint, autoscaling and registry entry of one deployment."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        plan: EnvironmentPlan,
        deployment: DeploymentPlan,
        network: ZoneNetwork,
        store: ModelStore,
        logs: EncryptedLogs,
        artifact_check: ArtifactCheck,
        waiter: CompileWaiter,
        pipeline: CompilePipeline,
        proxy: InvokeProxy,
    ) -> None:
        super().__init__(
            scope,
            construct_id,
            environment=plan.environment,
            suffix=f"deployment-{deployment.name}",
            description=f"Modelzone {deployment.environment}: {deployment.model.hub_id} on Inferentia2",
        )
        Tags.of(self).add("modelzone:deployment", deployment.name)
        parameters = DeploymentParameters(self, deployment=deployment)
        self.artifact = CompiledArtifact(
            self,
            "Artifact",
            check=artifact_check,
            waiter=waiter,
            pipeline=pipeline,
            store=store,
            deployment=deployment,
            settings=plan.environment.compile,
            parameters=parameters,
        )
        self.endpoint = InferentiaEndpoint(
            self,
            "Endpoint",
            deployment=deployment,
            artifact=self.artifact,
            network=network,
            store=store,
            logs=logs,
        )
        self.endpoint.grant_use(proxy.role, artifact=self.artifact, store=store)
        EndpointScaling(
            self,
            "Scaling",
            endpoint_name=self.endpoint.endpoint_name,
            variant_name=self.endpoint.variant_name,
            scaling=deployment.serving.scaling,
            artifact=self.artifact,
        )
        RegistryEntry(
            self,
            "Registry",
            registry_path=plan.registry_path,
            deployment=deployment,
            artifact=self.artifact,
            endpoint_name=self.endpoint.endpoint_name,
        )
        CfnOutput(self, "EndpointName", value=self.endpoint.endpoint_name, description="SageMaker endpoint")
        CfnOutput(self, "ArtifactUri", value=self.artifact.s3_uri, description="Compiled artifact that it serves")
