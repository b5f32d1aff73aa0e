"""What environments cost, and that the README shows what the command prints."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from modelzone.costs import EnvironmentCosts, environment_costs, markdown, monthly_line
from modelzone.planning import EnvironmentPlan, plan_environment
from modelzone.prices import instance_price, resource_price
from modelzone.settings import Firewall

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-east-1"


@pytest.fixture(scope="module")
def dev() -> EnvironmentPlan:
    return plan_environment(ROOT, "dev")


@pytest.fixture(scope="module")
def prod() -> EnvironmentPlan:
    return plan_environment(ROOT, "prod")


def _elsewhere(plan: EnvironmentPlan, region: str) -> EnvironmentPlan:
    return EnvironmentPlan(
        environment=msgspec.structs.replace(plan.environment, region=region),
        deployments=tuple(replace(deployment, region=region) for deployment in plan.deployments),
    )


def test_the_readme_shows_what_the_command_prints(dev: EnvironmentPlan) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- costs:begin.*?-->\n(.*)<!-- costs:end -->", readme, re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == markdown(environment_costs(dev)).strip()


def test_every_deployment_is_counted_at_both_ends_of_its_scale(prod: EnvironmentPlan) -> None:
    (line,) = (found for found in environment_costs(prod).lines if found.kind == "ml.inf2.24xlarge")
    assert (line.stack, line.count, line.count_maximum) == ("InferentiaMixtralStack", 2, 4)
    assert line.usd_per_hour == pytest.approx(2 * 7.79)
    assert line.usd_per_hour_maximum == pytest.approx(4 * 7.79)


def test_the_sums_are_those_of_the_price_tables(dev: EnvironmentPlan) -> None:
    def usd(kind: str) -> float:
        price = resource_price(kind, region=REGION)
        assert price is not None
        return price.usd

    host = instance_price("ml.inf2.24xlarge", region=REGION)
    assert host is not None
    network = usd("nat_gateway") + usd("public_ipv4_address") + 11 * 2 * usd("interface_endpoint_per_zone")
    monthly = 2 * usd("kms_key") + usd("secret")
    costs = environment_costs(dev)
    assert costs.usd_per_hour == pytest.approx(network + monthly / 730 + host.usd)
    assert costs.usd_per_hour_maximum == pytest.approx(network + monthly / 730 + 2 * host.usd)
    assert costs.usd_per_month == pytest.approx(730 * (network + host.usd) + monthly)
    assert costs.usd_per_month_maximum - costs.usd_per_month == pytest.approx(730 * host.usd)


def test_a_firewall_costs_its_rules(dev: EnvironmentPlan) -> None:
    def firewall(settings: Firewall | None) -> dict[str, float | None]:
        gateway = msgspec.structs.replace(dev.environment.gateway, firewall=settings)
        environment = msgspec.structs.replace(dev.environment, gateway=gateway)
        lines = environment_costs(replace(dev, environment=environment)).lines
        return {line.kind: line.usd_per_hour for line in lines if line.kind.startswith("firewall")}

    assert firewall(None) == {}
    # Five dollars a month, and one for each rule: the limit by address and three groups of AWS's.
    assert firewall(Firewall()) == {"firewall": pytest.approx(5 / 730), "firewall_rule": pytest.approx(4 / 730)}
    assert firewall(Firewall(managed_rules=False))["firewall_rule"] == pytest.approx(1 / 730)


def test_a_private_api_has_an_endpoint_more(dev: EnvironmentPlan) -> None:
    gateway = msgspec.structs.replace(dev.environment.gateway, private=True)
    plan = replace(dev, environment=msgspec.structs.replace(dev.environment, gateway=gateway))
    (line,) = (line for line in environment_costs(plan).lines if line.kind == "interface_endpoint_per_zone")
    assert (line.what, line.count) == ("interface endpoints, 12 in 2 zones", 24)


def test_what_is_billed_by_use_is_said(dev: EnvironmentPlan) -> None:
    assert "DynamoDB on demand" in environment_costs(dev).not_included


def test_without_egress_there_is_no_nat_gateway_and_no_address(dev: EnvironmentPlan, prod: EnvironmentPlan) -> None:
    gateway = {"nat_gateway", "public_ipv4_address"}
    assert gateway <= {line.kind for line in environment_costs(dev).lines}
    assert not gateway & {line.kind for line in environment_costs(prod).lines}


def test_a_third_zone_is_paid_for(dev: EnvironmentPlan, prod: EnvironmentPlan) -> None:
    def endpoints(plan: EnvironmentPlan) -> int:
        return sum(line.count for line in environment_costs(plan).lines if line.kind == "interface_endpoint_per_zone")

    assert endpoints(dev) * 3 == endpoints(prod) * 2


def test_what_has_no_price_is_said_and_in_no_sum(dev: EnvironmentPlan) -> None:
    costs = environment_costs(dev)
    assert costs.unpriced == ("GiB of endpoint volumes",)
    (line,) = (found for found in costs.lines if found.price is None)
    assert (line.count, line.count_maximum, line.usd_per_hour) == (512, 1024, None)
    assert "no price known: GiB of endpoint volumes" in monthly_line(dev)
    assert "| unknown | unknown | - |" in markdown(costs)
    assert "No price is known for: GiB of endpoint volumes" in markdown(costs)


def test_a_region_without_prices_costs_nothing_that_is_known(dev: EnvironmentPlan) -> None:
    plan = _elsewhere(dev, "eu-west-1")
    costs = environment_costs(plan)
    assert (costs.region, costs.usd_per_hour, costs.price_dates) == ("eu-west-1", 0.0, None)
    assert len(costs.unpriced) == len({line.what for line in costs.lines})
    line = monthly_line(plan)
    assert "unknown" in line
    assert "$0" not in line
    assert "ml.inf2.24xlarge behind the endpoint" in line


def test_the_line_for_synth_has_both_sums_region_dates_and_what_is_missing(dev: EnvironmentPlan) -> None:
    costs = environment_costs(dev)
    line = monthly_line(dev)
    assert "\n" not in line
    assert line.startswith(
        f"modelzone: dev costs about ${costs.usd_per_month:,.0f} a month at minimum and "
        f"${costs.usd_per_month_maximum:,.0f} at maximum scale (us-east-1, prices of 2025-01-26 to 2026-11-21"
    )
    assert "not included: requests" in line


def test_copied_prices_are_named_as_unverified(dev: EnvironmentPlan) -> None:
    assert "ml.inf2.24xlarge behind the endpoint" in environment_costs(dev).unverified


def test_costs_are_json(dev: EnvironmentPlan) -> None:
    data = json.loads(json.dumps(environment_costs(dev).to_dict()))
    assert data["usd_per_month"] == pytest.approx(data["usd_per_hour"] * 730)
    assert data["unpriced"] == ["GiB of endpoint volumes"]
    assert {"what", "kind", "stack", "count", "count_maximum", "price", "usd_per_hour"} <= set(data["lines"][0])
    assert data["lines"][0]["price"]["source"]


def test_an_environment_with_fixed_scale_has_one_sum(dev: EnvironmentPlan) -> None:
    fixed = EnvironmentPlan(environment=dev.environment, deployments=())
    assert "at maximum scale" not in monthly_line(fixed)
    assert isinstance(environment_costs(fixed), EnvironmentCosts)
