"""Where models are compiled for Inferentia2."""

from __future__ import annotations

from aws_cdk import CfnOutput
from constructs import Construct

from modelzone.planning import EnvironmentPlan
from stacks.base import ZoneStack
from zone_constructs.compile_host import CompileHost
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore
from zone_constructs.network import ZoneNetwork

__all__ = ["CompileStack"]


class CompileStack(ZoneStack):
    """Launch template and SSM document; hosts exist only while they compile."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        plan: EnvironmentPlan,
        logs: EncryptedLogs,
        network: ZoneNetwork,
        store: ModelStore,
    ) -> None:
        environment = plan.environment
        super().__init__(
            scope,
            construct_id,
            environment=environment,
            suffix="compile",
            description=f"Modelzone {environment.name}: hosts that compile models",
        )
        self.host = CompileHost(self, "Host", deployments=plan.deployments, network=network, store=store, logs=logs)
        CfnOutput(
            self,
            "LaunchTemplateId",
            value=self.host.launch_template_id,
            description="Launch template of compile hosts",
        )
        CfnOutput(
            self, "DocumentName", value=self.host.document_name, description="SSM document that compiles one model"
        )
        CfnOutput(self, "LogGroupName", value=self.host.log_group.log_group_name, description="Output of compile jobs")
        for deployment in plan.deployments:
            if not deployment.can_fetch_weights:
                # A host would be paid for and reach no weights.
                continue
            CfnOutput(
                self,
                f"Start{deployment.camel_name}",
                value=self.host.start_command(deployment),
                description=f"Starts a host that can compile {deployment.name}; prints its instance id",
            )
            CfnOutput(
                self,
                f"Compile{deployment.camel_name}",
                value=self.host.compile_command(deployment),
                description=f"Compiles {deployment.name} on the host $INSTANCE_ID, then shuts it down",
            )
