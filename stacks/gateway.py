"""The environment's one API."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import CfnOutput
from constructs import Construct

from modelzone.planning import EnvironmentPlan
from stacks.base import ZoneStack
from zone_constructs.gateway import Gateway
from zone_constructs.invoke_proxy import InvokeProxy
from zone_constructs.logs import EncryptedLogs
from zone_constructs.network import ZoneNetwork

__all__ = ["GatewayStack"]


class GatewayStack(ZoneStack):
    """REST API with response streaming in front of the invoke proxy."""

    def __init__(
        self, scope: Construct, construct_id: str, *, plan: EnvironmentPlan, logs: EncryptedLogs, network: ZoneNetwork
    ) -> None:
        environment = plan.environment
        super().__init__(
            scope,
            construct_id,
            environment=environment,
            suffix="gateway",
            description=f"Modelzone {environment.name}: API in front of all deployments",
        )
        self.proxy = InvokeProxy(
            self,
            "Proxy",
            environment_name=environment.name,
            region=environment.region,
            registry_path=plan.registry_path,
            timeout_seconds=environment.gateway.request_timeout_seconds,
            network=network,
            logs=logs,
        )
        self.gateway = Gateway(
            self,
            "Gateway",
            environment_name=environment.name,
            settings=environment.gateway,
            handler=self.proxy.function,
            logs=logs,
        )
        CfnOutput(
            self,
            "ApiUrl",
            value=self.gateway.api.url,
            description="Base URL; OpenAI clients add v1 to it",
        )
        CfnOutput(self, "ApiId", value=self.gateway.api.rest_api_id, description="REST API")
        CfnOutput(self, "StageName", value=self.gateway.api.deployment_stage.stage_name, description="Stage")
        CfnOutput(
            self,
            "ApiKeyId",
            value=self.gateway.api_key.key_id,
            description="Show the key: aws apigateway get-api-key --include-value --query value --api-key ID",
        )
