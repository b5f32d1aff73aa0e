"""What AWS asks for what this project deploys: dated tables by region (``data/prices.yaml``).

A price that is not in the tables is None and has to be reported as unknown: no price is derived from another.
"""

from modelzone.prices.catalog import HOURS_PER_MONTH, RESOURCES, Resource
from modelzone.prices.table import Price, instance_price, priced_regions, resource_price

__all__ = [
    "HOURS_PER_MONTH",
    "RESOURCES",
    "Price",
    "Resource",
    "instance_price",
    "priced_regions",
    "resource_price",
]
