"""Costs as text: the table of the documentation, and one line for ``cdk synth``."""

from __future__ import annotations

from modelzone.costs.environment import EnvironmentCosts, environment_costs
from modelzone.planning import EnvironmentPlan

__all__ = ["markdown", "monthly_line"]


def monthly_line(plan: EnvironmentPlan) -> str:
    """Say in one line what an environment costs a month."""
    costs = environment_costs(plan)
    total = f"about ${costs.usd_per_month:,.0f} a month"
    if costs.usd_per_month_maximum > costs.usd_per_month:
        total += f" at minimum and ${costs.usd_per_month_maximum:,.0f} at maximum scale"
    if costs.price_dates is None:
        total = "an unknown amount"
    unpriced = f"; no price known: {', '.join(costs.unpriced)}" if costs.unpriced else ""
    return (
        f"modelzone: {costs.environment} costs {total} ({costs.region}, {_dates(costs)}{unpriced}; "
        f"not included: {', '.join(costs.not_included)})"
    )


def _dates(costs: EnvironmentCosts) -> str:
    if costs.price_dates is None:
        return "no prices known"
    oldest, newest = costs.price_dates
    return f"prices of {oldest}" if oldest == newest else f"prices of {oldest} to {newest}"


def _usd(usd: float | None, digits: int = 4) -> str:
    return "unknown" if usd is None else f"{usd:,.{digits}f}"


def _count(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def markdown(costs: EnvironmentCosts) -> str:
    """Costs as a table of Markdown."""
    rows = "".join(
        f"| {line.stack} | {line.what} | {_count(line.count, line.count_maximum)} | {_usd(line.usd_per_hour)} "
        f"| {_usd(line.usd_per_hour_maximum)} | {line.price.date if line.price else '-'} |\n"
        for line in costs.lines
    )
    missing = f" No price is known for: {', '.join(costs.unpriced)}." if costs.unpriced else ""
    unverified = f" Not checked against AWS's Price List: {', '.join(costs.unverified)}." if costs.unverified else ""
    return (
        f"What environment `{costs.environment}` costs in {costs.region} while it stands, at its deployments' smallest "
        "and largest number of instances, in US dollars an hour:\n\n"
        "| stack | what | number | smallest | largest | price of |\n|---|---|---:|---:|---:|---|\n"
        f"{rows}| | **sum an hour** | | **{_usd(costs.usd_per_hour, 2)}** | **{_usd(costs.usd_per_hour_maximum, 2)}** "
        "| |\n"
        f"| | **sum a month of 730 hours** | | **{_usd(costs.usd_per_month, 0)}** "
        f"| **{_usd(costs.usd_per_month_maximum, 0)}** | |\n\n"
        f"Not included: {', '.join(costs.not_included)}.{missing}{unverified}\n"
    )
