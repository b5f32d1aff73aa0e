"""An existing VPC: whether what the environment file names is there and belongs together."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from modelzone.doctor.checks.base import Context, Kind, Outcome

if TYPE_CHECKING:
    from modelzone.planning import EnvironmentPlan
    from modelzone.settings.environment import ExistingVpc

__all__ = ["KINDS", "existing_vpcs", "route_tables"]


def existing_vpcs(plan: EnvironmentPlan) -> list[ExistingVpc]:
    """The VPC of an environment that makes none, if it is one."""
    vpc = plan.environment.network.existing_vpc
    return [vpc] if vpc else []


def _outcome(problems: list[str], good: str) -> Outcome:
    if problems:
        return Outcome("fail", "; ".join(problems), "correct network.existing_vpc in the environment file")
    return Outcome("ok", good)


def _described(context: Context, kind: str, id_key: str, name: str, ids: tuple[str, ...]) -> dict[str, Any]:
    """Those of the ids that exist. A filter, as asking by id fails for all when one is missing."""
    ask = getattr(context.client("ec2"), f"describe_{kind}")
    key = "".join(part.capitalize() for part in kind.split("_"))
    rows = ask(Filters=[{"Name": name, "Values": list(dict.fromkeys(ids))}])[key]
    return {row[id_key]: row for row in rows}


def _vpc(context: Context, vpc: ExistingVpc) -> Outcome:
    found = _described(context, "vpcs", "VpcId", "vpc-id", (vpc.vpc_id,)).get(vpc.vpc_id)
    if found is None:
        return _outcome([f"there is no {vpc.vpc_id}"], "")
    ranges = [row["CidrBlock"] for row in found.get("CidrBlockAssociationSet", [])] or [found["CidrBlock"]]
    inside = vpc.vpc_cidr is None or any(IPv4Network(vpc.vpc_cidr).subnet_of(IPv4Network(one)) for one in ranges)
    problems = [] if inside else [f"vpc_cidr {vpc.vpc_cidr} is not in its ranges {', '.join(ranges)}"]
    return _outcome(problems, f"exists, with {', '.join(ranges)}")


def _subnets(context: Context, vpc: ExistingVpc) -> Outcome:
    found = _described(context, "subnets", "SubnetId", "subnet-id", vpc.private_subnet_ids)
    problems = []
    for subnet_id, zone in zip(vpc.private_subnet_ids, vpc.availability_zones, strict=True):
        subnet = found.get(subnet_id)
        if subnet is None:
            problems.append(f"there is no {subnet_id}")
        elif subnet["VpcId"] != vpc.vpc_id:
            problems.append(f"{subnet_id} belongs to {subnet['VpcId']}")
        elif subnet["AvailabilityZone"] != zone:
            problems.append(f"{subnet_id} is in {subnet['AvailabilityZone']}, not {zone}")
    return _outcome(problems, f"{len(found)} in {', '.join(vpc.availability_zones)}")


def route_tables(context: Context, vpc: ExistingVpc) -> tuple[dict[str, str], set[str]]:
    """The table that holds for each subnet, and all tables of the VPC.

    A subnet without an association of its own takes the VPC's main table.
    """

    def ask() -> tuple[dict[str, str], set[str]]:
        tables = _described(context, "route_tables", "RouteTableId", "vpc-id", (vpc.vpc_id,))
        named = {row.get("SubnetId"): table_id for table_id, t in tables.items() for row in t["Associations"]}
        main = [table_id for table_id, t in tables.items() if any(row.get("Main") for row in t["Associations"])]
        holding = {subnet_id: named.get(subnet_id, *main) for subnet_id in vpc.private_subnet_ids}
        return holding, set(tables)

    return context.once(f"route-tables:{vpc.vpc_id}", ask)


def _route_tables(context: Context, vpc: ExistingVpc) -> Outcome:
    holding, tables = route_tables(context, vpc)
    problems = []
    for table_id, subnet_id in zip(vpc.private_route_table_ids, vpc.private_subnet_ids, strict=True):
        if table_id not in tables:
            problems.append(f"{vpc.vpc_id} has no {table_id}")
        elif holding[subnet_id] != table_id:
            problems.append(f"{subnet_id} uses {holding[subnet_id]}, not {table_id}")
    return _outcome(problems, f"{len(set(vpc.private_route_table_ids))} hold for the subnets")


def _security_group(context: Context, vpc: ExistingVpc) -> Outcome:
    group_id = vpc.endpoint_security_group_id or ""
    group = _described(context, "security_groups", "GroupId", "group-id", (group_id,)).get(group_id)
    if group is None:
        return _outcome([f"there is no {group_id}"], "")
    problems = [] if group["VpcId"] == vpc.vpc_id else [f"{group_id} belongs to {group['VpcId']}"]
    return _outcome(problems, f"{group_id} belongs to the VPC")


KINDS = (
    Kind(
        id="vpc",
        permissions=("ec2:DescribeVpcs",),
        items=existing_vpcs,
        title=lambda vpc: f"VPC {vpc.vpc_id}",
        run=_vpc,
    ),
    Kind(
        id="subnets",
        permissions=("ec2:DescribeSubnets",),
        items=existing_vpcs,
        title=lambda vpc: f"subnets of {vpc.vpc_id}",
        run=_subnets,
    ),
    Kind(
        id="route-tables",
        permissions=("ec2:DescribeRouteTables",),
        items=lambda plan: [vpc for vpc in existing_vpcs(plan) if vpc.private_route_table_ids],
        title=lambda vpc: f"route tables of {vpc.vpc_id}",
        run=_route_tables,
    ),
    Kind(
        id="endpoint-security-group",
        permissions=("ec2:DescribeSecurityGroups",),
        items=lambda plan: [vpc for vpc in existing_vpcs(plan) if vpc.endpoint_security_group_id],
        title=lambda vpc: f"security group of the endpoints in {vpc.vpc_id}",
        run=_security_group,
    ),
)
