"""The endpoints of an existing VPC: those that have to be there, or must not be there yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelzone.doctor.checks.base import Context, Kind, Outcome
from modelzone.doctor.checks.network import existing_vpcs, route_tables
from modelzone.planning.network import API_ENDPOINT, interface_endpoints

if TYPE_CHECKING:
    from modelzone.settings.environment import ExistingVpc

__all__ = ["KINDS"]

_S3, _DYNAMODB = "s3", "dynamodb"


def _found(context: Context, vpc: ExistingVpc) -> dict[str, list[Mapping[str, Any]]]:
    """Endpoints of the VPC that are ready, by the last words of their service's name."""
    pages = (
        context.client("ec2")
        .get_paginator("describe_vpc_endpoints")
        .paginate(Filters=[{"Name": "vpc-id", "Values": [vpc.vpc_id]}])
    )
    prefix = f"com.amazonaws.{context.plan.environment.region}."
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in (row for page in pages for row in page["VpcEndpoints"]):
        if str(row["State"]).lower() == "available":
            found.setdefault(row["ServiceName"].removeprefix(prefix), []).append(row)
    return found


def _endpoints(context: Context, vpc: ExistingVpc) -> Outcome:
    wanted = interface_endpoints(context.plan.environment)
    found = _found(context, vpc)
    # AWS always tells; what an emulator leaves out, here and of the groups, is not held against the VPC.
    named = {service for service, rows in found.items() if any(row.get("PrivateDnsEnabled", True) for row in rows)}
    if vpc.create_endpoints:
        twice = sorted(named & set(wanted))
        if twice:
            return Outcome(
                "fail",
                f"the VPC has endpoints of {', '.join(twice)}, and two with private DNS names cannot be",
                "set network.existing_vpc.create_endpoints: false, and name their security group",
            )
        return Outcome("ok", "none that the stacks make is there yet")
    # That of the API has clients of its own, so a group of its own; the file names it.
    ours = [service for service in wanted if service != API_ENDPOINT]
    missing = [service for service in ours if service not in named]
    problems = [f"no interface endpoint with private DNS of {', '.join(missing)}"] if missing else []
    strange = [service for service in ours if service in named and not _guarded(found[service], vpc)]
    if strange:
        problems.append(f"{vpc.endpoint_security_group_id} is not a security group of {', '.join(strange)}")
    if API_ENDPOINT in wanted:
        those = {row.get("VpcEndpointId") for row in found.get(API_ENDPOINT, [])}
        if vpc.execute_api_endpoint_id not in those:
            problems.append(f"{vpc.execute_api_endpoint_id} is no interface endpoint of {API_ENDPOINT} in the VPC")
    gateways = {_S3: "S3"} | ({_DYNAMODB: "DynamoDB"} if context.plan.caches_answers else {})
    tables = sorted({str(table) for table in route_tables(context, vpc)[0].values()})
    for service, title in gateways.items():
        routed = {table for row in found.get(service, []) for table in row.get("RouteTableIds", [])}
        without = [table for table in tables if table not in routed]
        if without:
            problems.append(f"no gateway endpoint of {title} in {', '.join(without)}")
    if problems:
        return Outcome(
            "fail",
            "; ".join(problems),
            "add what is missing, or let the stacks make all: network.existing_vpc.create_endpoints: true",
        )
    return Outcome(
        "ok",
        f"all {len(wanted)} interface endpoints and the gateway endpoint{'s'[: len(gateways) - 1]} of "
        f"{' and '.join(gateways.values())} are there",
    )


def _guarded(rows: list[Mapping[str, Any]], vpc: ExistingVpc) -> bool:
    groups = [{group["GroupId"] for group in row["Groups"]} for row in rows if "Groups" in row]
    return not groups or any(vpc.endpoint_security_group_id in those for those in groups)


KINDS = (
    Kind(
        id="vpc-endpoints",
        permissions=("ec2:DescribeVpcEndpoints", "ec2:DescribeRouteTables"),
        items=existing_vpcs,
        title=lambda vpc: f"endpoints of {vpc.vpc_id}",
        run=_endpoints,
    ),
)
