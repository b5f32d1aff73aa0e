"""Reads AWS's Price List API (``pricing:GetProducts``).

A product document has one or more on-demand offers, each with price dimensions in strings::

    {"product": {"productFamily": "…", "attributes": {"usagetype": "USE1-Host:ml.g5.xlarge", "regionCode": …}},
     "terms": {"OnDemand": {"SKU.OFFER": {"priceDimensions": {"SKU.OFFER.RATE": {
         "unit": "Hrs", "beginRange": "0", "pricePerUnit": {"USD": "1.4080000000"}}}}}}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from modelzone.prices.catalog import Query

if TYPE_CHECKING:
    from mypy_boto3_pricing import PricingClient
    from mypy_boto3_pricing.type_defs import FilterTypeDef

__all__ = ["UnreadablePriceError", "read_price"]


class UnreadablePriceError(Exception):
    """The Price List's answer holds no price, or several that differ; its text says which."""


def read_price(client: PricingClient, query: Query, *, region: str) -> float:
    """Find the one price that a query means.

    Offers at 0 dollars are passed over: capacity reservations and blocks appear among the on-demand ones.

    Raises
    ------
    UnreadablePriceError
        There is none, or there are several.
    """
    filters: list[FilterTypeDef] = [
        {"Type": "TERM_MATCH", "Field": field, "Value": value}
        for field, value in {"regionCode": region, **query.attributes}.items()
    ]
    pages = client.get_paginator("get_products").paginate(
        ServiceCode=query.service, Filters=filters, FormatVersion="aws_v1"
    )
    found = {
        price
        for page in pages
        for document in page["PriceList"]
        for price in _prices(json.loads(document), query, region=region)
    }
    if not found:
        raise UnreadablePriceError("not in the Price List")
    if len(found) > 1:
        raise UnreadablePriceError(f"several prices: {', '.join(str(price.normalize()) for price in sorted(found))}")
    return float(found.pop())


def _prices(document: Mapping[str, Any], query: Query, *, region: str) -> Iterator[Decimal]:
    attributes: Mapping[str, str] = document.get("product", {}).get("attributes", {})
    usage = attributes.get("usagetype", "")
    if attributes.get("regionCode", region) != region or not (
        usage == query.usage or usage.endswith(f"-{query.usage}")
    ):
        return
    for offer in document.get("terms", {}).get("OnDemand", {}).values():
        for dimension in offer.get("priceDimensions", {}).values():
            if dimension.get("unit", "").lower() not in query.units or dimension.get("beginRange", "0") != "0":
                continue
            try:
                price = Decimal(dimension["pricePerUnit"]["USD"])
            except (KeyError, InvalidOperation):
                continue
            if price > 0:
                yield price
