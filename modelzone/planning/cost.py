"""What an environment costs while it stands idle: ``python -m modelzone.planning.cost [ENVIRONMENT]``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzone.errors import ModelzoneError
from modelzone.planning.network import INTERFACE_ENDPOINTS
from modelzone.planning.plan import EnvironmentPlan, plan_environment
from modelzone.resources import read_data

__all__ = ["CostLine", "environment_costs"]

_HOURS_PER_MONTH = 730


@dataclass(frozen=True, kw_only=True)
class CostLine:
    """One kind of resource: how many, and dollars an hour for all of them."""

    what: str
    stack: str
    count: int
    usd_per_hour: float


def environment_costs(plan: EnvironmentPlan) -> tuple[CostLine, ...]:
    """What is billed by the hour or month whether it is used or not.

    Requests, tokens, log and S3 storage, and compile hosts while they run come on top. The prices are those of
    us-east-1 at the dates of ``modelzone/hardware/data``.
    """
    prices: dict[str, Any] = read_data("modelzone.hardware", "costs.yaml")
    hourly, monthly = prices["usd_per_hour"], prices["usd_per_month"]
    network = plan.environment.network
    zones = network.new_vpc.zones if network.new_vpc else len(set(_existing_zones(plan)))
    lines = []
    if network.new_vpc and network.egress == "nat":
        lines.append(CostLine(what="NAT gateway", stack="NetworkStack", count=1, usd_per_hour=hourly["nat_gateway"]))
    if network.new_vpc or (network.existing_vpc and network.existing_vpc.create_endpoints):
        count = len(INTERFACE_ENDPOINTS) * zones
        lines.append(
            CostLine(
                what=f"interface endpoints, {len(INTERFACE_ENDPOINTS)} in {zones} zones",
                stack="NetworkStack",
                count=count,
                usd_per_hour=count * hourly["interface_endpoint_per_zone"],
            )
        )
    # One key for logs and one for the model store; the hub token's secret.
    lines += [
        CostLine(
            what="KMS keys", stack="NetworkStack, ModelStoreStack", count=2,
            usd_per_hour=2 * monthly["kms_key"] / _HOURS_PER_MONTH,
        ),
        CostLine(
            what="hub token secret", stack="ModelStoreStack", count=1,
            usd_per_hour=monthly["secret"] / _HOURS_PER_MONTH,
        ),
    ]  # fmt: skip
    lines += [
        CostLine(
            what=f"{deployment.serving.instance_type} behind the endpoint",
            stack=deployment.stack_id,
            count=deployment.serving.scaling.min_instances,
            usd_per_hour=deployment.usd_per_hour * deployment.serving.scaling.min_instances,
        )
        for deployment in plan.deployments
    ]
    return tuple(lines)


def _existing_zones(plan: EnvironmentPlan) -> tuple[str, ...]:
    vpc = plan.environment.network.existing_vpc
    return vpc.availability_zones if vpc else ()


def markdown(plan: EnvironmentPlan) -> str:
    """The costs as the README's table."""
    lines = environment_costs(plan)
    date = read_data("modelzone.hardware", "instances.yaml")["date"]
    rows = "".join(f"| {c.stack} | {c.what} | {c.count} | {c.usd_per_hour:.4f} |\n" for c in lines)
    total = sum(c.usd_per_hour for c in lines)
    return (
        f"What environment `{plan.environment.name}` costs while it stands idle, us-east-1, price tables of {date} "
        "(not checked against AWS's live price list):\n\n"
        f"| stack | what | number | USD per hour |\n|---|---|---:|---:|\n{rows}| | **sum** | | **{total:.2f}** |\n"
    )


def main() -> int:
    """Print the table of one environment."""
    name = sys.argv[1] if len(sys.argv) > 1 else "dev"
    try:
        sys.stdout.write(markdown(plan_environment(Path(__file__).resolve().parents[2], name)))
    except ModelzoneError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
