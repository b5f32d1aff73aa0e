"""Environments (``environments/*.yaml``): where models are served, and which."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelzone.schema import Identifier, Settings
from modelzone.settings.access import Access
from modelzone.settings.gateway import AnswerCache, Gateway
from modelzone.settings.model_profile import ServingOverrides

__all__ = [
    "Compile",
    "DeploymentSettings",
    "Environment",
    "ExistingVpc",
    "ModelStoreSettings",
    "Network",
    "NewVpc",
]

Region = Annotated[str, Meta(pattern=r"^[a-z]{2,4}(-[a-z]+)+-\d$")]
AccountId = Annotated[str, Meta(pattern=r"^\d{12}$")]
VpcId = Annotated[str, Meta(pattern=r"^vpc-[0-9a-f]{8,17}$")]
SubnetId = Annotated[str, Meta(pattern=r"^subnet-[0-9a-f]{8,17}$")]
SecurityGroupId = Annotated[str, Meta(pattern=r"^sg-[0-9a-f]{8,17}$")]
Ec2InstanceType = Annotated[str, Meta(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")]
Email = Annotated[str, Meta(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$", max_length=320)]
VpcEndpointId = Annotated[str, Meta(pattern=r"^vpce-[0-9a-f]{8,17}$")]
RouteTableId = Annotated[str, Meta(pattern=r"^rtb-[0-9a-f]{8,17}$")]
PrefixListId = Annotated[str, Meta(pattern=r"^pl-[0-9a-f]{8,17}$")]


def _network(key: str, text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"{key} {error}") from None


class NewVpc(Settings, frozen=True):
    """A VPC of the environment's own, with private subnets in ``zones`` availability zones.

    ``availability_zones`` names them, where an instance type is not offered in the region's first ones.
    """

    cidr: str = "10.40.0.0/16"
    zones: Annotated[int, Meta(ge=2, le=3)] = 2
    availability_zones: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.availability_zones and len(self.availability_zones) != self.zones:
            raise ValueError(
                f"availability_zones has {len(self.availability_zones)} entries and zones is {self.zones}; "
                "name that many zones or none"
            )
        network = _network("cidr", self.cidr)
        if not network.is_private:
            raise ValueError(f"cidr {self.cidr} is not a private network (RFC 1918)")
        if not 16 <= network.prefixlen <= 22:  # noqa: PLR2004 - the VPC's own limit, and room for nine subnets
            raise ValueError(f"cidr {self.cidr} must be between a /16 and a /22")


class ExistingVpc(Settings, frozen=True):
    """A VPC that is already there, by ids: synth looks nothing up, so it needs no credentials.

    With ``create_endpoints: false`` the VPC has the interface and gateway endpoints already: name their security group,
    which then gets a rule for each of this environment's hosts. ``true`` adds them, for the whole VPC, because their
    private DNS names hold for everybody in it: name the VPC's address range, which is let in.

    ``execute_api_endpoint_id`` is the endpoint of such a VPC that a private API is called through.

    ``prefix_list_ids`` are AWS's prefix lists of the services with gateway endpoints: S3's, and DynamoDB's where
    answers are kept. With them hosts and the invoke proxy reach these services and no other addresses; without,
    whatever the subnets have a route to.
    """

    vpc_id: VpcId
    availability_zones: Annotated[tuple[str, ...], Meta(min_length=1)]
    private_subnet_ids: Annotated[tuple[SubnetId, ...], Meta(min_length=1)]
    create_endpoints: bool
    private_route_table_ids: tuple[RouteTableId, ...] = ()
    vpc_cidr: str | None = None
    endpoint_security_group_id: SecurityGroupId | None = None
    execute_api_endpoint_id: VpcEndpointId | None = None
    prefix_list_ids: Annotated[tuple[PrefixListId, ...], Meta(max_length=2)] = ()

    def __post_init__(self) -> None:
        # It is let in at the endpoints: 0.0.0.0/0 must not pass for a VPC.
        if self.vpc_cidr is not None and not 16 <= _network("vpc_cidr", self.vpc_cidr).prefixlen <= 28:  # noqa: PLR2004
            raise ValueError(f"vpc_cidr {self.vpc_cidr} is not the range of a VPC, which is between a /16 and a /28")
        zones, subnets, tables = self.availability_zones, self.private_subnet_ids, self.private_route_table_ids
        if len(zones) != len(subnets):
            raise ValueError(
                f"availability_zones has {len(zones)} entries and private_subnet_ids {len(subnets)}; "
                "list one zone for each subnet, in the same order"
            )
        if self.create_endpoints and len(tables) != len(subnets):
            raise ValueError(
                f"private_route_table_ids has {len(tables)} entries and private_subnet_ids {len(subnets)}; the S3 "
                "gateway endpoint needs one for each subnet (or set create_endpoints: false)"
            )
        if self.create_endpoints == (self.vpc_cidr is None):
            raise ValueError(
                f"create_endpoints is {str(self.create_endpoints).lower()}; give vpc_cidr when, and only when, "
                "it is true"
            )
        if self.create_endpoints == (self.endpoint_security_group_id is not None):
            raise ValueError(
                f"create_endpoints is {str(self.create_endpoints).lower()}; give endpoint_security_group_id when, and "
                "only when, it is false"
            )
        if self.create_endpoints and self.execute_api_endpoint_id is not None:
            raise ValueError(
                f"execute_api_endpoint_id is {self.execute_api_endpoint_id} and create_endpoints is true, which makes "
                "one; leave it out"
            )


class Network(Settings, frozen=True):
    """Exactly one of ``new_vpc`` and ``existing_vpc``.

    ``egress`` says how hosts reach the internet: ``nat``, or ``none`` (weights then come from S3 only).
    """

    new_vpc: NewVpc | None = None
    existing_vpc: ExistingVpc | None = None
    egress: Literal["nat", "none"] = "nat"

    def __post_init__(self) -> None:
        if (self.new_vpc is None) == (self.existing_vpc is None):
            raise ValueError("give either new_vpc or existing_vpc, not both and not neither")


class Compile(Settings, frozen=True):
    """How models are compiled.

    With ``automatic: false`` a deploy refuses a missing artifact instead of compiling it. ``purchase`` is how hosts are
    bought; the last attempt after interruptions is on demand. ``max_hours`` bounds one compilation. ``instance_types``
    are tried after the planned one where that has no capacity; without them the planner chooses. ``delete_artifacts``
    deletes a deployment's artifact with it, unless another deployment uses it. ``notify`` gets a mail at the end of
    every compilation.
    """

    automatic: bool = True
    purchase: Literal["on-demand", "spot"] = "on-demand"
    max_hours: Annotated[int, Meta(ge=1, le=12)] = 6
    instance_types: tuple[Ec2InstanceType, ...] = ()
    delete_artifacts: bool = False
    notify: tuple[Email, ...] = ()

    def __post_init__(self) -> None:
        for name, values in (("instance_types", self.instance_types), ("notify", self.notify)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names {next(v for v in values if values.count(v) > 1)} twice")


class ModelStoreSettings(Settings, frozen=True):
    """Whose model bucket is used: that of another environment in the same region and account."""

    shared_with: Identifier


class DeploymentSettings(ServingOverrides, frozen=True, kw_only=True):
    """One model profile served in this environment, with what differs from the profile, and how it is offered."""

    profile: Identifier
    cache: AnswerCache = msgspec.field(default_factory=AnswerCache)


class Environment(Settings, frozen=True):
    """One file of ``environments/``.

    ``account`` is optional; with it the CDK refuses to deploy anywhere else. ``retain_data`` keeps the model buckets,
    their key, the logs, and the tables of keys and of kept answers when the stacks are destroyed, or when the setting
    that a table belongs to is taken back; nothing takes up a table that was left so.
    """

    name: Identifier
    description: str
    region: Region
    retain_data: bool
    network: Network
    deployments: Annotated[dict[Identifier, DeploymentSettings], Meta(min_length=1)]
    account: AccountId | None = None
    log_retention_days: Literal[7, 14, 30, 60, 90, 180, 365] = 30
    gateway: Gateway = msgspec.field(default_factory=Gateway)
    access: Access = msgspec.field(default_factory=Access)
    compile: Compile = msgspec.field(default_factory=Compile)
    model_store: ModelStoreSettings | None = None

    def __post_init__(self) -> None:
        vpc = self.network.new_vpc or self.network.existing_vpc
        for zone in vpc.availability_zones if vpc else ():
            if not zone.startswith(self.region):
                raise ValueError(f"availability zone {zone} is not in region {self.region}")
        if self.model_store is not None and self.model_store.shared_with == self.name:
            raise ValueError(
                f"model_store.shared_with is {self.name}, the environment itself; leave model_store out for a store "
                "of its own"
            )
