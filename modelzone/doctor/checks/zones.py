"""Whether the environment's zones offer its instance types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelzone.doctor.checks.base import Context, Kind, Outcome

if TYPE_CHECKING:
    from modelzone.planning import EnvironmentPlan

__all__ = ["KINDS"]


def _types(plan: EnvironmentPlan) -> Iterable[str]:
    """EC2's names. SageMaker has no list of its own: what EC2 offers in a zone is the best that can be asked."""
    names = [deployment.serving.instance_type.removeprefix("ml.") for deployment in plan.deployments]
    names += [deployment.compile.instance_type for deployment in plan.deployments if deployment.compile]
    return dict.fromkeys(names)


def _zones(context: Context) -> tuple[str, ...]:
    """The named ones, or the region's first, as CloudFormation picks them."""
    network = context.plan.environment.network
    vpc = network.new_vpc or network.existing_vpc
    named: tuple[str, ...] = vpc.availability_zones if vpc else ()
    if named:
        return named
    found = context.once("zones", lambda: context.client("ec2").describe_availability_zones())["AvailabilityZones"]
    names = sorted(
        zone["ZoneName"] for zone in found if zone.get("ZoneType", "availability-zone") == "availability-zone"
    )
    return tuple(names[: network.new_vpc.zones if network.new_vpc else len(names)])


def _offered(context: Context, instance_type: str) -> Outcome:
    zones = _zones(context)
    pages = (
        context.client("ec2")
        .get_paginator("describe_instance_type_offerings")
        .paginate(LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [instance_type]}])
    )
    offered = sorted(offer["Location"] for page in pages for offer in page["InstanceTypeOfferings"])
    with_it = [zone for zone in zones if zone in offered]
    elsewhere = f"EC2 offers it in {', '.join(offered)}" if offered else "EC2 offers it nowhere in this region"
    if not with_it:
        return Outcome(
            "fail",
            f"none of {', '.join(zones)} has it; {elsewhere}",
            "name such zones in the environment's network before the first deploy (subnets cannot move)"
            if offered
            else "use another region or instance type",
        )
    without = [zone for zone in zones if zone not in offered]
    if without:
        return Outcome(
            "warn",
            f"{', '.join(with_it)} have it, {', '.join(without)} do not; {elsewhere}",
            "start compile hosts in a subnet that has it (SUBNET_ID), or name other zones before the first deploy",
        )
    return Outcome("ok", f"offered in {', '.join(zones)}")


KINDS = (
    Kind(
        id="zones",
        permissions=("ec2:DescribeInstanceTypeOfferings", "ec2:DescribeAvailabilityZones"),
        items=_types,
        title=lambda instance_type: f"{instance_type} in the environment's zones",
        run=_offered,
    ),
)
