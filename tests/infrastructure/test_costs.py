"""The cost table counts what the templates hold."""

from __future__ import annotations

from infrastructure.support import Zone

from modelzone.planning.cost import environment_costs

# Line of the table, by how it begins -> the resource type behind it.
_TYPES = {
    "NAT gateway": "AWS::EC2::NatGateway",
    "KMS keys": "AWS::KMS::Key",
    "hub token secret": "AWS::SecretsManager::Secret",
}


def test_the_cost_table_counts_what_is_deployed(zone: Zone) -> None:
    counted = {line.what: line.count for line in environment_costs(zone.plan)}
    for what, kind in _TYPES.items():
        assert counted.get(what, 0) == len(list(zone.resources(kind))), what
    interfaces = [r for r in zone.resources("AWS::EC2::VPCEndpoint") if r.properties["VpcEndpointType"] == "Interface"]
    shown = sum(count for what, count in counted.items() if what.startswith("interface endpoints"))
    assert shown == sum(len(r.properties["SubnetIds"]) for r in interfaces)
    hosts = sum(count for what, count in counted.items() if what.endswith("behind the endpoint"))
    assert hosts == sum(d.serving.scaling.min_instances for d in zone.plan.deployments)
