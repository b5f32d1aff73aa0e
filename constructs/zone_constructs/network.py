"""The network that everything runs in: a new VPC or one that is already there.

Model hosts and the invoke proxy live in subnets without any route to the internet. Only compile hosts may have one,
through a NAT gateway, to fetch weights from the hub.
"""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aws_cdk import Aws, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from modelzone.planning import EnvironmentPlan
from modelzone.planning.network import API_ENDPOINT, INTERFACE_ENDPOINTS
from modelzone.settings import ExistingVpc, NewVpc
from zone_constructs.acknowledge import acknowledge
from zone_constructs.logs import EncryptedLogs

__all__ = ["ExistingNetwork", "GatewayNeeds", "NewNetwork", "ZoneNetwork"]

_HTTPS = ec2.Port.HTTPS
_MOST_ZONES = 3


@dataclass(frozen=True, kw_only=True)
class GatewayNeeds:
    """What the gateway asks of the network.

    Attributes
    ----------
    private
        The API is called through an endpoint in the VPC.
    allowed_networks
        The clients' address ranges; empty: the VPC's.
    caches_answers
        The proxy needs DynamoDB.
    """

    environment_name: str
    private: bool
    allowed_networks: tuple[str, ...]
    caches_answers: bool

    @classmethod
    def of(cls, plan: EnvironmentPlan) -> GatewayNeeds:
        """Read them from a plan."""
        gateway = plan.environment.gateway
        return cls(
            environment_name=plan.environment.name,
            private=gateway.private,
            allowed_networks=gateway.allowed_networks,
            caches_answers=plan.caches_answers,
        )


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
    # What a private API is called through, as this network's stack knows it; None: the API is public.
    _api_endpoint: ec2.IInterfaceVpcEndpoint | None = None
    _api_endpoint_parameter: str | None = None
    # Prefix lists that name S3's and DynamoDB's addresses; empty: none are known.
    _prefix_lists: tuple[str, ...] = ()

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

    def api_endpoint_in(self, scope: Construct, construct_id: str) -> ec2.IInterfaceVpcEndpoint | None:
        """What a private API is called through, for another stack; None: the API is public.

        An endpoint that this network makes goes by an SSM parameter. An export could not go as long as the other stack
        imports it, and this stack is updated first: `private` could never be set to false again.
        """
        if self._api_endpoint is None or self._api_endpoint_parameter is None:
            return self._api_endpoint
        return ec2.InterfaceVpcEndpoint.from_interface_vpc_endpoint_attributes(
            scope,
            construct_id,
            vpc_endpoint_id=ssm.StringParameter.value_for_string_parameter(scope, self._api_endpoint_parameter),
            port=443,
        )

    def allow_gateway_endpoints(self, group: ec2.SecurityGroup, *, why: str) -> None:
        """Let a client reach S3 and DynamoDB through their gateway endpoints, which have no security group.

        Both are reached by public addresses. The prefix lists that name these differ by region and could be found by a
        look-up only: an existing VPC may name them, and then nothing else is reached. Without them the rule lets HTTPS
        go anywhere, and the routes of the client's subnet bound it. In a new VPC's private subnets there are none but
        those of the gateway endpoints; in an existing VPC a NAT gateway would be one.
        """
        if self._prefix_lists:
            for prefix_list in self._prefix_lists:
                group.add_egress_rule(ec2.Peer.prefix_list(prefix_list), _HTTPS, why)
        else:
            self.allow_internet(group, why=why)

    @staticmethod
    def allow_internet(group: ec2.SecurityGroup, *, why: str) -> None:
        """Let a client send HTTPS anywhere that its subnet has a route to."""
        group.add_egress_rule(ec2.Peer.any_ipv4(), _HTTPS, why)

    def _build_endpoints(
        self,
        subnets: ec2.SubnetSelection,
        gateway_subnets: list[ec2.SubnetSelection],
        *,
        needs: GatewayNeeds,
        addresses: str,
        shared_with: str | None,
    ) -> None:
        """Make the endpoints in a VPC with these addresses, in which there are others too where they are `shared_with`.

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
        if needs.caches_answers:
            # Only the proxy uses it, and it is in these subnets.
            table = self.vpc.add_gateway_endpoint(
                "DynamoDb", service=ec2.GatewayVpcEndpointAwsService.DYNAMODB, subnets=[subnets]
            )
            if shared_with is None:
                self._restrict_dynamodb(table, needs.environment_name)
        if needs.private:
            self._api_endpoint = self._build_api_endpoint(subnets, needs.allowed_networks or (addresses,))
            self._api_endpoint_parameter = f"/modelzone/{needs.environment_name}/network/api-endpoint"
            ssm.StringParameter(
                self,
                "ApiEndpointId",
                parameter_name=self._api_endpoint_parameter,
                description=f"Modelzone {needs.environment_name}: endpoint that the private API is called through",
                string_value=self._api_endpoint.vpc_endpoint_id,
            )

    def _build_api_endpoint(self, subnets: ec2.SubnetSelection, clients: Sequence[str]) -> ec2.InterfaceVpcEndpoint:
        """Make what clients call a private API through; it leads to APIs of this account only."""
        group = ec2.SecurityGroup(
            self,
            "ApiEndpointSecurityGroup",
            vpc=self.vpc,
            description="Modelzone private API, HTTPS from its clients",
            allow_all_outbound=False,
        )
        for cidr in clients:
            group.add_ingress_rule(ec2.Peer.ipv4(cidr), _HTTPS, "clients of the API")
        endpoint = self.vpc.add_interface_endpoint(
            "ExecuteApi",
            service=ec2.InterfaceVpcEndpointAwsService(API_ENDPOINT),
            subnets=subnets,
            security_groups=[group],
            open=False,
            private_dns_enabled=True,
        )
        stack = Stack.of(self)
        endpoint.add_to_policy(
            iam.PolicyStatement(
                sid="ApisOfThisAccount",
                # Whoever the API's own authorizer lets through: with keys and user pools IAM knows no principal.
                principals=[iam.AnyPrincipal()],
                actions=["execute-api:Invoke"],
                resources=[stack.format_arn(service="execute-api", resource="*")],
            )
        )
        return endpoint

    @staticmethod
    def _restrict_dynamodb(endpoint: ec2.GatewayVpcEndpoint, environment_name: str) -> None:
        """Items of the gateway's tables only: their names begin with their stack's."""
        endpoint.add_to_policy(
            iam.PolicyStatement(
                sid="TablesOfTheGateway",
                principals=[iam.AnyPrincipal()],
                actions=["dynamodb:GetItem", "dynamodb:PutItem"],
                resources=[
                    Stack.of(endpoint).format_arn(
                        service="dynamodb", resource="table", resource_name=f"modelzone-{environment_name}-gateway-*"
                    )
                ],
                conditions={"StringEquals": {"aws:PrincipalAccount": Aws.ACCOUNT_ID}},
            )
        )

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
        needs: GatewayNeeds,
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
        self._build_endpoints(
            self.private_subnets, gateway_subnets, needs=needs, addresses=settings.cidr, shared_with=None
        )

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
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: ExistingVpc,
        egress: Literal["nat", "none"],
        needs: GatewayNeeds,
    ) -> None:
        super().__init__(scope, construct_id)
        self.egress = egress
        self._settings = settings
        self._prefix_lists = settings.prefix_list_ids
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
            cidr = settings.vpc_cidr or ""  # required where endpoints are made
            self._build_endpoints(
                self.private_subnets, [self.private_subnets], needs=needs, addresses=cidr, shared_with=cidr
            )
        else:
            if settings.execute_api_endpoint_id is not None:
                self._api_endpoint = ec2.InterfaceVpcEndpoint.from_interface_vpc_endpoint_attributes(
                    self, "ApiEndpoint", vpc_endpoint_id=settings.execute_api_endpoint_id, port=443
                )
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
