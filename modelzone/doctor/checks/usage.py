"""What other endpoints of the account and region run now: they use the same quotas."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelzone.doctor.checks.base import Context

__all__ = ["PERMISSIONS", "Usage", "usage"]

PERMISSIONS = ("sagemaker:ListEndpoints", "sagemaker:DescribeEndpoint", "sagemaker:DescribeEndpointConfig")
# Two requests for each: an account with more is told so instead of being waited for.
_MOST_ENDPOINTS = 100


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Instances by type, other than those of the environment's own endpoints.

    Attributes
    ----------
    uncounted
        What is not among them; empty when nothing is missing.
    """

    instances: Mapping[str, int]
    uncounted: str = ""


def usage(context: Context) -> Usage:
    """Count them, once for all checks. Never raises: a quota is worth knowing without it."""
    return context.once("endpoint-usage", lambda: _usage(context))


def _usage(context: Context) -> Usage:
    counts: Counter[str] = Counter()
    try:
        others = _others(context)
        for name in others[:_MOST_ENDPOINTS]:
            for instance_type, instances in _variants(context, name):
                counts[instance_type] += instances
    except Exception as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code") or type(error).__name__
        return Usage(instances={}, uncounted=f"what runs in other endpoints could not be counted ({code})")
    left = len(others) - _MOST_ENDPOINTS
    return Usage(instances=counts, uncounted=f"{left} more endpoints were not counted" if left > 0 else "")


def _others(context: Context) -> list[str]:
    # As the stacks name theirs: the planned instances are counted in their stead.
    own = re.compile("|".join(rf"{re.escape(d.endpoint_prefix)}-[0-9a-f]{{8}}" for d in context.plan.deployments))
    pages = context.client("sagemaker").get_paginator("list_endpoints").paginate(PaginationConfig={"PageSize": 100})
    names = [row["EndpointName"] for page in pages for row in page["Endpoints"]]
    return [name for name in names if not own.fullmatch(name)]


def _variants(context: Context, name: str) -> Iterator[tuple[str, int]]:
    """Instance type and instances of an endpoint's variants; none when it has been deleted meanwhile."""
    client = context.client("sagemaker")
    try:
        endpoint = client.describe_endpoint(EndpointName=name)
        config = client.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    except client.exceptions.ClientError as error:
        if "Could not find" in str(error):
            return
        raise
    running = {row["VariantName"]: row for row in endpoint.get("ProductionVariants", [])}
    for variant in config["ProductionVariants"]:
        # A serverless variant has no instances.
        if "InstanceType" in variant:
            yield variant["InstanceType"], _instances(running.get(variant["VariantName"], {}))


def _instances(variant: Mapping[str, Any]) -> int:
    return max(int(variant.get("CurrentInstanceCount", 0)), int(variant.get("DesiredInstanceCount", 0)))
