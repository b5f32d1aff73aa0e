"""Everything that has a price here: what it is called, its unit, and how AWS's Price List names it.

The Price List's attributes are those that public tools filter by (infracost, awslabs/llmeter, fmbench). None of these
queries ran against AWS here: NOT VERIFIED.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["HOURS_PER_MONTH", "RESOURCES", "Query", "Resource", "instance_query"]

# AWS's own convention for monthly estimates.
HOURS_PER_MONTH = 730

# How the Price List writes the units that this project knows.
_HOUR = frozenset({"hrs", "hours"})
_GB_MONTH = frozenset({"gb-mo"})


@dataclass(frozen=True, kw_only=True)
class Query:
    """How to find one price in the Price List.

    Attributes
    ----------
    attributes
        What ``GetProducts`` filters by, besides the region.
    usage
        How the product's ``usagetype`` ends. Alone, or after a region's prefix and a hyphen: us-east-1 often has none.
        The whole word counts: ``RegionalNatGateway-Hours`` is not ``NatGateway-Hours``.
    units
        The price dimension's unit, in lower case.
    """

    service: str
    attributes: Mapping[str, str]
    usage: str
    units: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A kind of resource with a price of its own."""

    title: str
    unit: str
    query: Query


def _query(service: str, usage: str, units: frozenset[str] = _HOUR, **attributes: str) -> Query:
    return Query(service=service, attributes=attributes, usage=usage, units=units)


def instance_query(name: str) -> Query:
    """Return how to find the on-demand price of an instance type, EC2's or SageMaker's for endpoints (``ml.…``)."""
    if name.startswith("ml."):
        return _query("AmazonSageMaker", f"Host:{name}", instanceName=name, component="Hosting")
    return _query(
        "AmazonEC2",
        f"BoxUsage:{name}",
        instanceType=name,
        operatingSystem="Linux",
        tenancy="Shared",
        preInstalledSw="NA",
        capacitystatus="Used",
    )


RESOURCES: Mapping[str, Resource] = {
    "nat_gateway": Resource(
        title="NAT gateway", unit="hour", query=_query("AmazonEC2", "NatGateway-Hours", productFamily="NAT Gateway")
    ),
    "public_ipv4_address": Resource(
        title="public IPv4 address", unit="hour", query=_query("AmazonVPC", "PublicIPv4:InUseAddress")
    ),
    "interface_endpoint_per_zone": Resource(
        title="interface endpoint in one zone",
        unit="hour",
        query=_query("AmazonVPC", "VpcEndpoint-Hours", productFamily="VpcEndpoint"),
    ),
    "application_load_balancer": Resource(
        title="Application Load Balancer",
        unit="hour",
        query=_query("AWSELB", "LoadBalancerUsage", productFamily="Load Balancer-Application"),
    ),
    "network_load_balancer": Resource(
        title="Network Load Balancer",
        unit="hour",
        query=_query("AWSELB", "LoadBalancerUsage", productFamily="Load Balancer-Network"),
    ),
    "kms_key": Resource(title="KMS key", unit="month", query=_query("awskms", "KMS-Keys", frozenset({"keys"}))),
    "secret": Resource(
        title="secret",
        unit="month",
        query=_query("AWSSecretsManager", "AWSSecretsManager-Secrets", frozenset({"secrets"})),
    ),
    "firewall": Resource(
        title="web ACL of AWS WAF", unit="month", query=_query("awswaf", "WebACLV2", frozenset({"month", "webacl"}))
    ),
    "firewall_rule": Resource(
        title="rule of a web ACL", unit="month", query=_query("awswaf", "RuleV2", frozenset({"month", "rule"}))
    ),
    "hosting_volume_gb": Resource(
        title="GB of an endpoint's volume",
        unit="month",
        query=_query("AmazonSageMaker", "Host:VolumeUsage.gp2", _GB_MONTH, volumeType="General Purpose-Hosting"),
    ),
    "gp3_volume_gb": Resource(
        title="GB of a gp3 volume",
        unit="month",
        query=_query("AmazonEC2", "EBS:VolumeUsage.gp3", _GB_MONTH, productFamily="Storage", volumeApiName="gp3"),
    ),
}
