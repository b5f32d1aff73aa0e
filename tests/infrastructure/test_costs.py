"""The costs count what the templates hold."""

from __future__ import annotations

from collections import Counter

from infrastructure.support import Zone

from modelzone.costs import environment_costs

# Kind of the price table -> the resource type behind it.
_TYPES = {
    "nat_gateway": "AWS::EC2::NatGateway",
    "public_ipv4_address": "AWS::EC2::EIP",
    "kms_key": "AWS::KMS::Key",
    "secret": "AWS::SecretsManager::Secret",
    "firewall": "AWS::WAFv2::WebACL",
}
# Resource types that are billed while nothing uses them, and that the costs have no kind for. Alarms are not among
# them: an account's first ten are free, and others cost ten cents a month. Tables are billed by use.
_BILLED = {
    "AWS::CloudWatch::Dashboard",
    "AWS::EC2::Instance",
    "AWS::EC2::TransitGatewayAttachment",
    "AWS::EC2::Volume",
    "AWS::EC2::VPNConnection",
    "AWS::EFS::FileSystem",
    "AWS::ElasticLoadBalancingV2::LoadBalancer",
    "AWS::RDS::DBInstance",
}


def test_the_costs_count_what_is_deployed(zone: Zone) -> None:
    counted: Counter[str] = Counter()
    for line in environment_costs(zone.plan).lines:
        counted[line.kind] += line.count
    for kind, resource_type in _TYPES.items():
        assert counted[kind] == len(list(zone.resources(resource_type))), kind
    interfaces = [r for r in zone.resources("AWS::EC2::VPCEndpoint") if r.properties["VpcEndpointType"] == "Interface"]
    assert counted["interface_endpoint_per_zone"] == sum(len(r.properties["SubnetIds"]) for r in interfaces)
    rules = [rule for acl in zone.resources("AWS::WAFv2::WebACL") for rule in acl.properties["Rules"]]
    assert counted["firewall_rule"] == len(rules)
    hosts: Counter[str] = Counter()
    for deployment in zone.plan.deployments:
        hosts[deployment.serving.instance_type] += deployment.serving.scaling.min_instances
    assert {instance_type: counted[instance_type] for instance_type in hosts} == hosts
    assert counted["hosting_volume_gb"] == sum(
        (d.volume_size_gib or 0) * d.serving.scaling.min_instances for d in zone.plan.deployments
    )


def test_tables_are_billed_by_use(zone: Zone) -> None:
    for table in zone.resources("AWS::DynamoDB::Table"):
        assert table.properties["BillingMode"] == "PAY_PER_REQUEST"
    assert {"DynamoDB on demand", "metrics"} <= set(environment_costs(zone.plan).not_included)


def test_nothing_that_is_billed_while_it_stands_is_forgotten(zone: Zone) -> None:
    assert {resource.type for resource in zone.resources()} & _BILLED == set()
