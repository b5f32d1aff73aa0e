"""What an environment costs while it stands, by stack and kind of resource."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from modelzone.planning import DeploymentPlan, EnvironmentPlan
from modelzone.planning.network import interface_endpoints
from modelzone.prices import HOURS_PER_MONTH, Price, instance_price, resource_price

__all__ = ["NOT_INCLUDED", "CostLine", "EnvironmentCosts", "environment_costs"]

# What is billed by use.
NOT_INCLUDED = (
    "requests",
    "data transfer",
    "storage in S3",
    "DynamoDB on demand",
    "logs",
    "metrics",
    "compile hosts while they run",
)
# AWS's rule groups, each of which is billed as a rule.
_MANAGED_RULE_GROUPS = 3


@dataclass(frozen=True, kw_only=True)
class CostLine:
    """One kind of resource in one stack.

    Attributes
    ----------
    kind
        Name in the price table: a key of `modelzone.prices.RESOURCES` or an instance type.
    count, count_maximum
        How many there are at the deployment's smallest and largest number of instances.
    usd_per_hour, usd_per_hour_maximum
        For all of them; None when the price is unknown.
    price
        Of one, with its date and source.
    """

    what: str
    kind: str
    stack: str
    count: int
    count_maximum: int
    price: Price | None

    @property
    def usd_per_hour(self) -> float | None:
        """For all of them at the smallest scale."""
        return self._hourly(self.count)

    @property
    def usd_per_hour_maximum(self) -> float | None:
        """For all of them at the largest scale."""
        return self._hourly(self.count_maximum)

    def _hourly(self, count: int) -> float | None:
        if self.price is None:
            return None
        return self.price.usd * count / (HOURS_PER_MONTH if self.price.unit == "month" else 1)


@dataclass(frozen=True, kw_only=True)
class EnvironmentCosts:
    """All lines of an environment, and their sums. What has no price is in `unpriced` and in no sum."""

    environment: str
    region: str
    lines: tuple[CostLine, ...]
    not_included: tuple[str, ...] = NOT_INCLUDED

    @property
    def usd_per_hour(self) -> float:
        """Sum at the smallest scale."""
        return sum(line.usd_per_hour or 0.0 for line in self.lines)

    @property
    def usd_per_hour_maximum(self) -> float:
        """Sum at the largest scale."""
        return sum(line.usd_per_hour_maximum or 0.0 for line in self.lines)

    @property
    def usd_per_month(self) -> float:
        """Sum at the smallest scale, for 730 hours."""
        return self.usd_per_hour * HOURS_PER_MONTH

    @property
    def usd_per_month_maximum(self) -> float:
        """Sum at the largest scale, for 730 hours."""
        return self.usd_per_hour_maximum * HOURS_PER_MONTH

    @property
    def unpriced(self) -> tuple[str, ...]:
        """What the region's price table lacks."""
        return tuple(dict.fromkeys(line.what for line in self.lines if line.price is None))

    @property
    def unverified(self) -> tuple[str, ...]:
        """What has a price that was not read from AWS's Price List by a program."""
        return tuple(dict.fromkeys(line.what for line in self.lines if line.price and not line.price.verified))

    @property
    def price_dates(self) -> tuple[str, str] | None:
        """Oldest and newest date of the prices; None when there are none."""
        dates = sorted(line.price.date for line in self.lines if line.price)
        return (dates[0], dates[-1]) if dates else None

    def to_dict(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "environment": self.environment,
            "region": self.region,
            "usd_per_hour": self.usd_per_hour,
            "usd_per_hour_maximum": self.usd_per_hour_maximum,
            "usd_per_month": self.usd_per_month,
            "usd_per_month_maximum": self.usd_per_month_maximum,
            "unpriced": list(self.unpriced),
            "unverified": list(self.unverified),
            "not_included": list(self.not_included),
            "lines": [
                asdict(line) | {"usd_per_hour": line.usd_per_hour, "usd_per_hour_maximum": line.usd_per_hour_maximum}
                for line in self.lines
            ],
        }


def environment_costs(plan: EnvironmentPlan) -> EnvironmentCosts:
    """Count what is billed by the hour or the month whether it is used or not."""
    region = plan.environment.region
    lines = [*_network(plan), *_stores(plan), *_gateway(plan)]
    for deployment in plan.deployments:
        lines += _deployment(deployment)
    return EnvironmentCosts(environment=plan.environment.name, region=region, lines=tuple(lines))


def _line(kind: str, what: str, *, stack: str, region: str, count: int = 1) -> CostLine:
    price = resource_price(kind, region=region)
    return CostLine(what=what, kind=kind, stack=stack, count=count, count_maximum=count, price=price)


def _network(plan: EnvironmentPlan) -> Iterable[CostLine]:
    network, region, stack = plan.environment.network, plan.environment.region, "NetworkStack"
    if network.new_vpc and network.egress == "nat":
        yield _line("nat_gateway", "NAT gateway", stack=stack, region=region)
        yield _line("public_ipv4_address", "NAT gateway's address", stack=stack, region=region)
    existing = network.existing_vpc
    if existing is not None and not existing.create_endpoints:
        return
    zones = len(set(existing.availability_zones)) if existing else network.new_vpc.zones if network.new_vpc else 0
    endpoints = len(interface_endpoints(plan.environment))
    yield _line(
        "interface_endpoint_per_zone",
        f"interface endpoints, {endpoints} in {zones} zones",
        stack=stack,
        region=region,
        count=endpoints * zones,
    )


def _stores(plan: EnvironmentPlan) -> Iterable[CostLine]:
    # One key for logs and one for the model store; who shares another environment's store pays for logs only.
    region = plan.environment.region
    if plan.environment.model_store is not None:
        yield _line("kms_key", "KMS key", stack="NetworkStack", region=region)
        return
    yield _line("kms_key", "KMS keys", stack="NetworkStack, ModelStoreStack", region=region, count=2)
    yield _line("secret", "hub token secret", stack="ModelStoreStack", region=region)


def _gateway(plan: EnvironmentPlan) -> Iterable[CostLine]:
    firewall, region = plan.environment.gateway.firewall, plan.environment.region
    if firewall is None:
        return
    rules = 1 + (_MANAGED_RULE_GROUPS if firewall.managed_rules else 0)
    yield _line("firewall", "firewall", stack="GatewayStack", region=region)
    yield _line("firewall_rule", "rules of the firewall", stack="GatewayStack", region=region, count=rules)


def _deployment(deployment: DeploymentPlan) -> Iterable[CostLine]:
    serving, region, stack = deployment.serving, deployment.region, deployment.stack_id
    low, high = serving.scaling.min_instances, serving.scaling.max_instances
    hosted = serving.instance_type.startswith("ml.")
    yield CostLine(
        what=f"{serving.instance_type} behind the endpoint" if hosted else f"{serving.instance_type} host",
        kind=serving.instance_type,
        stack=stack,
        count=low,
        count_maximum=high,
        price=instance_price(serving.instance_type, region=region),
    )
    size = deployment.volume_size_gib
    if size is not None:
        kind = "hosting_volume_gb" if hosted else "gp3_volume_gb"
        yield CostLine(
            what="GiB of endpoint volumes" if hosted else "GiB of host volumes",
            kind=kind,
            stack=stack,
            count=low * size,
            count_maximum=high * size,
            price=resource_price(kind, region=region),
        )
