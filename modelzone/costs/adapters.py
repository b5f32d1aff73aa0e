"""What LoRA adapters save: many on one host instead of a host for each."""

from __future__ import annotations

from dataclasses import dataclass

from modelzone.prices import HOURS_PER_MONTH, instance_price

__all__ = ["AdapterCost", "adapter_cost"]


@dataclass(frozen=True, kw_only=True)
class AdapterCost:
    """Fine-tuned variants as adapters on one instance against one instance for each.

    Attributes
    ----------
    saved
        Share of the hosts' cost that is saved, 0.8 for five adapters. It needs no price, and holds as far as one
        instance carries the requests for all of them; whether it has the memory is the planner's to say.
    """

    adapters: int
    instance_type: str
    region: str
    usd_per_month_shared: float | None
    usd_per_month_apart: float | None
    saved: float


def adapter_cost(adapters: int, instance_type: str, *, region: str) -> AdapterCost:
    """Compare `adapters` variants on one instance with as many instances."""
    price = instance_price(instance_type, region=region)
    month = price.usd * HOURS_PER_MONTH if price else None
    return AdapterCost(
        adapters=adapters,
        instance_type=instance_type,
        region=region,
        usd_per_month_shared=month,
        usd_per_month_apart=None if month is None else month * adapters,
        saved=1 - 1 / adapters,
    )
