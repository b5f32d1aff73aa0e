"""The environment's one API."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import CfnOutput
from constructs import Construct

from modelzone.planning import EnvironmentPlan
from stacks.base import ZoneStack
from zone_constructs.encrypted_table import EncryptedTable
from zone_constructs.gateway import Gateway
from zone_constructs.gateway_tenants import GatewayParameters
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
        cache = self._build_cache(plan, logs)
        self.proxy = InvokeProxy(
            self,
            "Proxy",
            environment_name=environment.name,
            region=environment.region,
            registry_path=plan.registry_path,
            gateway_path=plan.gateway_path,
            cache=cache,
            timeout_seconds=environment.gateway.request_timeout_seconds,
            network=network,
            logs=logs,
        )
        self.gateway = Gateway(
            self,
            "Gateway",
            environment=environment,
            handler=self.proxy.function,
            api_endpoint=network.api_endpoint_in(self, "ApiEndpoint"),
            logs=logs,
        )
        GatewayParameters(self, "Parameters", environment=environment, path=plan.gateway_path)
        CfnOutput(
            self,
            "ApiUrl",
            value=self.gateway.api.url,
            description="Base URL; OpenAI clients add v1 to it",
        )
        CfnOutput(self, "ApiId", value=self.gateway.api.rest_api_id, description="REST API")
        CfnOutput(self, "StageName", value=self.gateway.api.deployment_stage.stage_name, description="Stage")
        if self.gateway.keys is not None:
            CfnOutput(
                self,
                "KeysTableName",
                value=self.gateway.keys.table.table_name,
                description="Keys of the gateway by their ids: modelzone keys makes and revokes them",
            )

    def _build_cache(self, plan: EnvironmentPlan, logs: EncryptedLogs) -> EncryptedTable | None:
        """Where answers are kept, if any deployment's are."""
        if not plan.caches_answers:
            return None
        return EncryptedTable(
            self,
            "Cache",
            partition_key="cache_key",
            time_to_live_attribute="expires",
            key=logs.key,
            retain_data=plan.environment.retain_data,
        )
