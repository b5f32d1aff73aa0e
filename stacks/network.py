"""The environment's network."""

from __future__ import annotations

from aws_cdk import CfnOutput
from constructs import Construct

from modelzone.planning import EnvironmentPlan
from stacks.base import ZoneStack
from zone_constructs.logs import EncryptedLogs
from zone_constructs.network import ExistingNetwork, GatewayNeeds, NewNetwork, ZoneNetwork

__all__ = ["NetworkStack"]


class NetworkStack(ZoneStack):
    """VPC, endpoints, flow logs, and the key that encrypts all log groups of the environment."""

    def __init__(self, scope: Construct, construct_id: str, *, plan: EnvironmentPlan) -> None:
        environment = plan.environment
        super().__init__(
            scope,
            construct_id,
            environment=environment,
            suffix="network",
            description=f"Modelzone {environment.name}: private network and endpoints",
        )
        self.logs = EncryptedLogs(
            self,
            "Logs",
            environment_name=environment.name,
            retention_days=environment.log_retention_days,
            retain_data=environment.retain_data,
        )
        settings, needs = environment.network, GatewayNeeds.of(plan)
        self.network: ZoneNetwork
        if settings.new_vpc is not None:
            self.network = NewNetwork(
                self, "Network", settings=settings.new_vpc, egress=settings.egress, needs=needs, logs=self.logs
            )
        elif settings.existing_vpc is not None:
            self.network = ExistingNetwork(
                self, "Network", settings=settings.existing_vpc, egress=settings.egress, needs=needs
            )
        CfnOutput(self, "VpcId", value=self.network.vpc.vpc_id, description="VPC of the environment")
