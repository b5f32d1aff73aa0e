"""Environments (``environments/*.yaml``): where models are served, and which."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from modelzone.settings.base import Identifier, Settings
from modelzone.settings.model_profile import ServingOverrides

__all__ = ["DeploymentSettings", "Environment", "ExistingVpc", "Gateway", "Network", "NewVpc"]

Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,4}(-[a-z]+)+-\d$")]
AccountId = Annotated[str, StringConstraints(pattern=r"^\d{12}$")]
VpcId = Annotated[str, StringConstraints(pattern=r"^vpc-[0-9a-f]{8,17}$")]
SubnetId = Annotated[str, StringConstraints(pattern=r"^subnet-[0-9a-f]{8,17}$")]
SecurityGroupId = Annotated[str, StringConstraints(pattern=r"^sg-[0-9a-f]{8,17}$")]
RouteTableId = Annotated[str, StringConstraints(pattern=r"^rtb-[0-9a-f]{8,17}$")]


class NewVpc(Settings):
    """A VPC of the environment's own, with private subnets in ``zones`` availability zones.

    ``availability_zones`` names them, where an instance type is not offered in the region's first ones.
    """

    cidr: str = "10.40.0.0/16"
    zones: int = Field(default=2, ge=2, le=3)
    availability_zones: tuple[str, ...] = ()

    @field_validator("availability_zones", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _named_zones(self) -> Self:
        if self.availability_zones and len(self.availability_zones) != self.zones:
            raise ValueError(
                f"availability_zones has {len(self.availability_zones)} entries and zones is {self.zones}; "
                "name that many zones or none"
            )
        return self

    @field_validator("cidr")
    @classmethod
    def _is_private_network(cls, value: str) -> str:
        network = IPv4Network(value)
        if not network.is_private:
            raise ValueError(f"{value} is not a private network (RFC 1918)")
        if not 16 <= network.prefixlen <= 22:  # noqa: PLR2004 - the VPC's own limit, and room for nine subnets
            raise ValueError(f"{value} must be between a /16 and a /22")
        return value


class ExistingVpc(Settings):
    """A VPC that is already there, by ids: synth looks nothing up, so it needs no credentials.

    With ``create_endpoints: false`` the VPC has the interface and gateway endpoints already: name their security group,
    which then gets a rule for each of this environment's hosts. ``true`` adds them, for the whole VPC, because their
    private DNS names hold for everybody in it: name the VPC's address range, which is let in.
    """

    vpc_id: VpcId
    availability_zones: tuple[str, ...] = Field(min_length=1)
    private_subnet_ids: tuple[SubnetId, ...] = Field(min_length=1)
    private_route_table_ids: tuple[RouteTableId, ...] = ()
    create_endpoints: bool
    vpc_cidr: str | None = None
    endpoint_security_group_id: SecurityGroupId | None = None

    @field_validator("availability_zones", "private_subnet_ids", "private_route_table_ids", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("vpc_cidr")
    @classmethod
    def _is_a_vpcs_range(cls, value: str | None) -> str | None:
        # It is let in at the endpoints: 0.0.0.0/0 must not pass for a VPC.
        if value is not None and not 16 <= IPv4Network(value).prefixlen <= 28:  # noqa: PLR2004 - what a VPC can have
            raise ValueError(f"{value} is not the range of a VPC, which is between a /16 and a /28")
        return value

    @model_validator(mode="after")
    def _same_length(self) -> Self:
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
        return self


class Network(Settings):
    """Exactly one of ``new_vpc`` and ``existing_vpc``.

    ``egress`` says how hosts reach the internet: ``nat``, or ``none`` (weights then come from S3 only).
    """

    new_vpc: NewVpc | None = None
    existing_vpc: ExistingVpc | None = None
    egress: Literal["nat", "none"] = "nat"

    @model_validator(mode="after")
    def _one_vpc(self) -> Self:
        if (self.new_vpc is None) == (self.existing_vpc is None):
            raise ValueError("give either new_vpc or existing_vpc, not both and not neither")
        return self


class Gateway(Settings):
    """Limits of the API's usage plan."""

    rate_limit_per_second: int = Field(default=20, ge=1, le=10_000)
    burst_limit: int = Field(default=40, ge=1, le=5_000)
    monthly_quota: int = Field(default=1_000_000, ge=1)
    request_timeout_seconds: int = Field(default=480, ge=30, le=900)


class DeploymentSettings(ServingOverrides):
    """One model profile served in this environment, with what differs from the profile."""

    profile: Identifier


class Environment(Settings):
    """One file of ``environments/``.

    ``account`` is optional; with it the CDK refuses to deploy anywhere else. ``retain_data`` keeps the model buckets,
    their key and the logs when the stacks are destroyed.
    """

    name: Identifier
    description: str
    region: Region
    account: AccountId | None = None
    retain_data: bool
    log_retention_days: Literal[7, 14, 30, 60, 90, 180, 365] = 30
    network: Network
    gateway: Gateway = Gateway()
    deployments: dict[Identifier, DeploymentSettings] = Field(min_length=1)

    @model_validator(mode="after")
    def _zones_of_the_region(self) -> Self:
        vpc = self.network.new_vpc or self.network.existing_vpc
        for zone in vpc.availability_zones if vpc else ():
            if not zone.startswith(self.region):
                raise ValueError(f"availability zone {zone} is not in region {self.region}")
        return self
