"""The network that everything runs in: a new VPC or one that is already there.

Model hosts and the invoke proxy live in subnets without any route to the internet. Only compile hosts may have one,
through a NAT gateway, to fetch weights from the hub.
"""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from aws_cdk import Aws, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

from modelzone.planning.network import INTERFACE_ENDPOINTS
from modelzone.settings import ExistingVpc, NewVpc
from zone_constructs.acknowledge import acknowledge
from zone_constructs.logs import EncryptedLogs

__all__ = ["ExistingNetwork", "NewNetwork", "ZoneNetwork"]

_HTTPS = ec2.Port.HTTPS
_MOST_ZONES = 3


class ZoneNetwork(Construct):
    """What the rest of an environment needs from its network.

    Attributes
    ----------
    vpc
        The VPC.
    private_subnets
        Where model hosts and the invoke proxy run.
    compile_subnets
        Where compile hosts run; with egress ``nat`` these reach the internet.
    egress
        ``nat`` or ``none``.
    """

    vpc: ec2.IVpc
    private_subnets: ec2.SubnetSelection
    compile_subnets: ec2.SubnetSelection
    egress: Literal["nat", "none"]
    _endpoint_security_group: ec2.ISecurityGroup

    @property
    @abstractmethod
    def private_subnet_ids(self) -> Sequence[str]:
        """Subnet ids of ``private_subnets``."""

    @property
    @abstractmethod
    def compile_subnet_ids(self) -> Sequence[str]:
        """Subnet ids of ``compile_subnets``."""

    def client_security_group(self, scope: Construct, construct_id: str, *, description: str) -> ec2.SecurityGroup:
        """Make a security group that nothing can reach and that reaches the VPC endpoints only.

        Both rules lie in the caller's stack, so this network's stack does not come to depend on it.
        """
        group = ec2.SecurityGroup(scope, construct_id, vpc=self.vpc, description=description, allow_all_outbound=False)
        group.add_egress_rule(self._endpoint_security_group, _HTTPS, "VPC endpoints")
        self._endpoint_security_group.add_ingress_rule(group, _HTTPS, description, remote_rule=True)
        return group

    @staticmethod
    def allow_s3(group: ec2.SecurityGroup, *, why: str) -> None:
        """Let a client send HTTPS anywhere that its subnet has a route to.

        S3's gateway endpoint is reached by public addresses and has no security group; the prefix list that names
        them differs by region and could be found by a look-up only. In a private subnet the gateway endpoint is the
        only such route.
        """
        group.add_egress_rule(ec2.Peer.any_ipv4(), _HTTPS, why)

    def _build_endpoints(
        self, subnets: ec2.SubnetSelection, gateway_subnets: list[ec2.SubnetSelection], *, shared_with: str | None
    ) -> None:
        """Make the endpoints; `shared_with` is the address range of a VPC in which there are others too.

        Private DNS sends everybody in the VPC to these endpoints, so everybody has to be let in there.
        """
        group = ec2.SecurityGroup(
            self,
            "EndpointSecurityGroup",
            vpc=self.vpc,
            description="Modelzone VPC endpoints, HTTPS from hosts of the environment",
            allow_all_outbound=False,
        )
        self._endpoint_security_group = group
        for service in INTERFACE_ENDPOINTS:
            self.vpc.add_interface_endpoint(
                "".join(part.capitalize() for part in service.split(".")),
                service=ec2.InterfaceVpcEndpointAwsService(service),
                subnets=subnets,
                security_groups=[group],
                open=False,
                private_dns_enabled=True,
            )
        s3 = self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3, subnets=gateway_subnets)
        if shared_with is None:
            self._restrict_s3(s3)
        else:
            group.add_ingress_rule(ec2.Peer.ipv4(shared_with), _HTTPS, "everything else in this VPC")

    @staticmethod
    def _restrict_s3(endpoint: ec2.GatewayVpcEndpoint) -> None:
        """Objects may be read from anywhere (ECR's layers, the hub's storage) but written to this account only."""
        endpoint.add_to_policy(
            iam.PolicyStatement(
                sid="ReadAnywhere", principals=[iam.AnyPrincipal()], actions=["s3:GetObject"], resources=["*"]
            )
        )
        endpoint.add_to_policy(
            iam.PolicyStatement(
                sid="BucketsOfThisAccount",
                principals=[iam.AnyPrincipal()],
                actions=["s3:*"],
                resources=["*"],
                conditions={
                    "StringEquals": {
                        "aws:PrincipalAccount": Aws.ACCOUNT_ID,
                        "aws:ResourceAccount": Aws.ACCOUNT_ID,
                    }
                },
            )
        )


class NewNetwork(ZoneNetwork):
    """A VPC of the environment's own, with flow logs."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: NewVpc,
        egress: Literal["nat", "none"],
        logs: EncryptedLogs,
    ) -> None:
        super().__init__(scope, construct_id)
        self.egress = egress
        self._vpc = self._build_vpc(settings)
        self.vpc = self._vpc
        self.private_subnets = ec2.SubnetSelection(subnet_group_name="private")
        self.compile_subnets = (
            ec2.SubnetSelection(subnet_group_name="egress") if egress == "nat" else self.private_subnets
        )
        self._build_flow_log(logs)
        gateway_subnets = [self.private_subnets]
        if egress == "nat":
            gateway_subnets.append(self.compile_subnets)
        self._build_endpoints(self.private_subnets, gateway_subnets, shared_with=None)

    @property
    def private_subnet_ids(self) -> Sequence[str]:
        """Subnet ids of ``private_subnets``."""
        return self._vpc.select_subnets(subnet_group_name="private").subnet_ids

    @property
    def compile_subnet_ids(self) -> Sequence[str]:
        """Subnet ids of ``compile_subnets``."""
        name = self.compile_subnets.subnet_group_name
        return self._vpc.select_subnets(subnet_group_name=name).subnet_ids

    def _build_vpc(self, settings: NewVpc) -> ec2.Vpc:
        # Address ranges are kept for all three kinds in three zones: subnets can be added later, never moved.
        without = self.egress != "nat"
        subnets = [
            ec2.SubnetConfiguration(name="private", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
            ec2.SubnetConfiguration(name="egress", subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS, reserved=without),
            ec2.SubnetConfiguration(
                name="public", subnet_type=ec2.SubnetType.PUBLIC, map_public_ip_on_launch=False, reserved=without
            ),
        ]
        zones = list(settings.availability_zones) or Stack.of(self).availability_zones[: settings.zones]
        return ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(settings.cidr),
            availability_zones=zones,
            reserved_azs=_MOST_ZONES - len(zones),
            # One for the environment: only compile hosts use it, and they are short-lived.
            nat_gateways=1 if self.egress == "nat" else 0,
            subnet_configuration=subnets,
            # CloudFormation cannot take the default group's rules away and a custom resource would need the right to
            # change any group. Nothing here is ever in that group.
            restrict_default_security_group=False,
        )

    def _build_flow_log(self, logs: EncryptedLogs) -> None:
        self._vpc.add_flow_log(
            "FlowLog",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(logs.log_group(self, "FlowLogs")),
            traffic_type=ec2.FlowLogTrafficType.ALL,
        )


class ExistingNetwork(ZoneNetwork):
    """Subnets of a VPC that is already there, named by ids; nothing is looked up."""

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: ExistingVpc, egress: Literal["nat", "none"]
    ) -> None:
        super().__init__(scope, construct_id)
        self.egress = egress
        self._settings = settings
        self.vpc = ec2.Vpc.from_vpc_attributes(
            self,
            "Vpc",
            vpc_id=settings.vpc_id,
            availability_zones=list(settings.availability_zones),
            private_subnet_ids=list(settings.private_subnet_ids),
            private_subnet_route_table_ids=list(settings.private_route_table_ids) or None,
        )
        self.private_subnets = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS)
        self.compile_subnets = self.private_subnets
        if settings.endpoint_security_group_id is None:
            self._build_endpoints(self.private_subnets, [self.private_subnets], shared_with=settings.vpc_cidr)
        else:
            self._endpoint_security_group = ec2.SecurityGroup.from_security_group_id(
                self, "EndpointSecurityGroup", settings.endpoint_security_group_id
            )
            acknowledge(
                self.vpc,
                "Route tables are needed for the S3 gateway endpoint only, and this VPC has its own.",
                "@aws-cdk/aws-ec2:noSubnetRouteTableId",
            )

    @property
    def private_subnet_ids(self) -> Sequence[str]:
        """Subnet ids of ``private_subnets``."""
        return self._settings.private_subnet_ids

    @property
    def compile_subnet_ids(self) -> Sequence[str]:
        """Subnet ids of ``compile_subnets``."""
        return self._settings.private_subnet_ids
