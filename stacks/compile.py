"""Where models are compiled."""

from __future__ import annotations

from aws_cdk import CfnOutput
from constructs import Construct

from modelzone.planning import EnvironmentPlan
from stacks.base import ZoneStack
from zone_constructs.compile_host import CompileHost
from zone_constructs.compile_pipeline import CompilePipeline
from zone_constructs.compile_shutdown import CompileShutdown
from zone_constructs.compile_waiter import CompileWaiter
from zone_constructs.logs import EncryptedLogs
from zone_constructs.model_store import ModelStore
from zone_constructs.network import ZoneNetwork

__all__ = ["CompileStack"]


class CompileStack(ZoneStack):
    """State machine, launch templates and SSM document; hosts exist only while they compile."""

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
        self.host = CompileHost(self, "Host", plan=plan, network=network, store=store, logs=logs)
        self.pipeline = CompilePipeline(
            self, "Pipeline", plan=plan, host=self.host, network=network, store=store, logs=logs
        )
        self.waiter = CompileWaiter(self, "Waiter", plan=plan, pipeline=self.pipeline, store=store, logs=logs)
        CompileShutdown(
            self, "Shutdown", environment_name=environment.name, host=self.host, pipeline=self.pipeline, logs=logs
        )
        machine = self.pipeline.state_machine
        CfnOutput(self, "StateMachineArn", value=machine.state_machine_arn, description="Compiles one model")
        CfnOutput(
            self, "DocumentName", value=self.host.document_name, description="SSM document that runs a job on a host"
        )
        CfnOutput(self, "LogGroupName", value=self.host.log_group.log_group_name, description="Output of compile jobs")
        CfnOutput(self, "TopicArn", value=self.pipeline.topic.topic_arn, description="Notices of ended compilations")
        CfnOutput(
            self,
            "SubnetIds",
            value=",".join(network.compile_subnet_ids),
            description="Where hosts are started, in the order in which they are tried",
        )
        for template in self.host.templates:
            CfnOutput(
                self,
                f"LaunchTemplateId{template.label}",
                value=template.launch_template_id,
                description=f"Launch template of {template.label} hosts that compile, or that somebody debugs on",
            )
        for deployment in plan.deployments:
            CfnOutput(
                self,
                f"Compile{deployment.camel_name}",
                value=self.pipeline.start_command(deployment),
                description=f"Compiles {deployment.name} as planned, unless that is done: modelzone compile "
                f"{deployment.name} does the same and shows how far it is",
            )
