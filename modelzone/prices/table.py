"""Looks prices up in the tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from modelzone.prices.catalog import RESOURCES
from modelzone.resources import read_data

__all__ = ["Price", "instance_price", "priced_regions", "resource_price"]

_PACKAGE = "modelzone.prices"


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one unit of something costs on demand.

    Attributes
    ----------
    unit
        ``hour`` or ``month``.
    date, source
        When and where it was read.
    verified
        Whether it comes from AWS's Price List through a program; False for prices that were copied from documents.
    """

    usd: float
    unit: str
    region: str
    date: str
    source: str
    verified: bool


@cache
def _prices(region: str) -> dict[str, tuple[float, dict[str, Any]]]:
    blocks: list[dict[str, Any]] = read_data(_PACKAGE, "prices.yaml")["regions"].get(region, [])
    return {name: (usd, block) for block in blocks for name, usd in block["usd"].items()}


def _price(name: str, *, unit: str, region: str) -> Price | None:
    found = _prices(region).get(name)
    if found is None:
        return None
    usd, block = found
    return Price(
        usd=usd,
        unit=unit,
        region=region,
        date=str(block["date"]),
        source=block["source"],
        verified=block["verified"],
    )


@cache
def instance_price(name: str, *, region: str) -> Price | None:
    """Return an instance's price per hour: SageMaker's for endpoints of ``ml.…`` names, else EC2's; None: unknown."""
    return _price(name, unit="hour", region=region)


@cache
def resource_price(kind: str, *, region: str) -> Price | None:
    """Return the price of one of `RESOURCES`; None when it is unknown in the region."""
    return _price(kind, unit=RESOURCES[kind].unit, region=region)


def priced_regions() -> tuple[str, ...]:
    """Regions that the tables have any price of."""
    return tuple(read_data(_PACKAGE, "prices.yaml")["regions"])
