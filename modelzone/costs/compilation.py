"""What a compile run costs: the host, for as long as it runs."""

from __future__ import annotations

from dataclasses import dataclass

from modelzone.planning import CompileNeeds
from modelzone.prices import HOURS_PER_MONTH, instance_price, resource_price
from modelzone.resources import read_data

__all__ = ["CompileCost", "compile_cost"]


@dataclass(frozen=True, kw_only=True)
class CompileCost:
    """Dollars for one compile run.

    Attributes
    ----------
    instance_type
        EC2's name of the host; None when no type is large enough.
    usd_per_hour
        Of the host; None when the price table has none.
    usd_low, usd_high
        For the shortest and the longest run that is assumed, with the host's volume where its price is known.
    unpriced
        What is missing in the sums.
    """

    instance_type: str | None
    region: str
    usd_per_hour: float | None
    hours_low: float
    hours_high: float
    usd_low: float | None
    usd_high: float | None
    basis: str
    unpriced: tuple[str, ...]


def compile_cost(
    needs: CompileNeeds, *, region: str, hours_low: float | None = None, hours_high: float | None = None
) -> CompileCost:
    """Price a compile run; without hours those of ``data/assumptions.yaml``."""
    assumed = read_data("modelzone.costs", "assumptions.yaml")["compile_hours"]
    low = assumed["low"] if hours_low is None else hours_low
    high = assumed["high"] if hours_high is None else hours_high
    given = hours_low is not None and hours_high is not None
    name = needs.instance.name if needs.instance else None
    price = instance_price(name, region=region) if name else None
    disk = resource_price("gp3_volume_gb", region=region)
    hourly = disk.usd * needs.root_volume_gib / HOURS_PER_MONTH if disk else 0.0
    unpriced = [] if disk else [f"the host's volume of {needs.root_volume_gib} GiB"]
    if price is None:
        unpriced.insert(0, name or "a host: no instance type is large enough")
    return CompileCost(
        instance_type=name,
        region=region,
        usd_per_hour=price.usd if price else None,
        hours_low=low,
        hours_high=high,
        usd_low=(price.usd + hourly) * low if price else None,
        usd_high=(price.usd + hourly) * high if price else None,
        basis="hours as given" if given else assumed["source"],
        unpriced=tuple(unpriced),
    )
