"""What is public: nothing but the API, which asks for a key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest
from infrastructure.support import Resource, Zone, as_list, proxy_function, text

from modelzone.planning.network import INTERFACE_ENDPOINTS, interface_endpoints

ANYWHERE = {"0.0.0.0/0", "::/0"}


def _has_endpoints(zone: Zone) -> bool:
    """Whether the environment's VPC was there before, with endpoints."""
    vpc = zone.plan.environment.network.existing_vpc
    return vpc is not None and not vpc.create_endpoints


def _egress(zone: Zone) -> dict[str, list[dict[str, object]]]:
    """Egress rules by security group, inline and separate ones."""
    rules: dict[str, list[dict[str, object]]] = defaultdict(list)
    for group in zone.resources("AWS::EC2::SecurityGroup"):
        rules[group.logical_id] += group.properties.get("SecurityGroupEgress", [])
    for rule in zone.resources("AWS::EC2::SecurityGroupEgress"):
        rules[rule.properties["GroupId"]["Fn::GetAtt"][0]].append(dict(rule.properties))
    return rules


def test_nothing_is_let_in_from_addresses(zone: Zone) -> None:
    """Every rule names a security group; there is no SSH and no open port.

    New endpoints in somebody else's VPC are the exception: their private DNS names send the whole VPC there. So is
    the endpoint of a private API, which its clients call.
    """
    inline = [
        (g.logical_id, rule["CidrIp"], rule["FromPort"])
        for g in zone.resources("AWS::EC2::SecurityGroup")
        if "ApiEndpointSecurityGroup" not in g.logical_id
        for rule in g.properties.get("SecurityGroupIngress", [])
    ]
    vpc = zone.plan.environment.network.existing_vpc
    if vpc is not None and vpc.create_endpoints:
        ((group, cidr, port),) = inline
        assert "EndpointSecurityGroup" in group
        assert (cidr, port) == (vpc.vpc_cidr, 443)
    else:
        assert not inline
    rules = list(zone.resources("AWS::EC2::SecurityGroupIngress"))
    assert rules
    for rule in rules:
        assert "SourceSecurityGroupId" in rule.properties, rule.logical_id
        assert (rule.properties["FromPort"], rule.properties["ToPort"]) == (443, 443)
        assert "EndpointSecurityGroup" in text(rule.properties["GroupId"]) or _has_endpoints(zone)


def test_no_security_group_keeps_the_default_of_letting_everything_out(zone: Zone) -> None:
    """EC2 adds an allow-all rule to a group for which no egress rule is given."""
    rules = _egress(zone)
    groups = [group.logical_id for group in zone.resources("AWS::EC2::SecurityGroup")]
    assert groups
    assert all(rules[group] for group in groups)
    for group in groups:
        for rule in rules[group]:
            assert rule["IpProtocol"] == "tcp" or rule["CidrIp"] == "255.255.255.255/32"
            if rule.get("CidrIp") in ANYWHERE:
                assert (rule["FromPort"], rule["ToPort"]) == (443, 443)


def test_the_proxy_sends_https_to_endpoints_and_what_its_subnets_have_a_route_to(zone: Zone) -> None:
    """The interface endpoints by their group, the gateway endpoints by prefix lists, or by any address.

    In a new VPC only the gateway endpoints have a route in private subnets, see below. In an existing VPC it may be a
    NAT gateway too; that VPC's owner can name the prefix lists.
    """
    (group,) = zone.resources("AWS::EC2::SecurityGroup", stack="GatewayStack")
    rules = _egress(zone)[group.logical_id]
    reached = [
        rule.get("CidrIp") or rule.get("DestinationPrefixListId") or "group"
        for rule in rules
        if {"DestinationSecurityGroupId", "CidrIp", "DestinationPrefixListId"} & rule.keys()
    ]
    vpc = zone.plan.environment.network.existing_vpc
    named = list(vpc.prefix_list_ids) if vpc is not None else []
    assert sorted(map(str, reached)) == sorted(["group", *(named or ["0.0.0.0/0"])])
    assert len(rules) == len(reached)
    assert all((rule["FromPort"], rule["ToPort"]) == (443, 443) for rule in rules)
    ids = proxy_function(zone).properties["VpcConfig"]["SecurityGroupIds"]
    assert ids == [{"Fn::GetAtt": [group.logical_id, "GroupId"]}]


def test_with_named_prefix_lists_nothing_but_compile_hosts_has_a_way_to_the_internet(
    synthesise: Callable[[str], Zone],
) -> None:
    zone = synthesise("signed")
    assert zone.plan.environment.network.egress == "nat"
    anywhere = [
        group
        for group, rules in _egress(zone).items()
        for rule in rules
        if rule.get("CidrIp") in ANYWHERE and rule["IpProtocol"] == "tcp"
    ]
    (group,) = anywhere
    (hosts,) = zone.resources("AWS::EC2::SecurityGroup", stack="CompileStack")
    assert group == hosts.logical_id
    lists = [
        rule["DestinationPrefixListId"]
        for rules in _egress(zone).values()
        for rule in rules
        if "DestinationPrefixListId" in rule
    ]
    assert lists == ["pl-63a5400a"] * 2  # model hosts, proxy


@pytest.mark.parametrize("name", ["dev", "prod", "two"])
def test_private_subnets_have_no_way_to_the_internet(name: str, synthesise: Callable[[str], Zone]) -> None:
    """Model hosts may send HTTPS to any address, so the routes of their subnets have to bound it."""
    zone = synthesise(name)
    tables = {
        text(r.properties["SubnetId"]): text(r.properties["RouteTableId"])
        for r in zone.resources("AWS::EC2::SubnetRouteTableAssociation")
    }
    default_routes = {text(r.properties["RouteTableId"]) for r in zone.resources("AWS::EC2::Route")}
    private = _subnets(zone, "private")
    zones = zone.plan.environment.network.new_vpc.zones
    assert len(private) == zones
    assert not {tables[f"<{subnet.logical_id}>"] for subnet in private} & default_routes
    for kind in ("AWS::Lambda::Function", "AWS::SageMaker::Model", "AWS::EC2::VPCEndpoint"):
        for resource in zone.resources(kind):
            properties = resource.properties
            used = properties.get("VpcConfig", properties)
            subnets = used.get("SubnetIds") or used.get("Subnets") or []
            assert all("privateSubnet" in text(subnet) for subnet in subnets), resource.logical_id


def test_without_egress_there_is_no_gateway_to_the_internet(prod: Zone) -> None:
    kinds = ("AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::EIP", "AWS::EC2::Route")
    assert not [resource for kind in kinds for resource in prod.resources(kind)]
    assert {_group(subnet) for subnet in prod.resources("AWS::EC2::Subnet")} == {"private"}


def test_with_nat_only_compile_subnets_have_a_route_through_it(dev: Zone) -> None:
    nat_routes = {
        text(route.properties["RouteTableId"])
        for route in dev.resources("AWS::EC2::Route")
        if "NatGatewayId" in route.properties
    }
    assert len(nat_routes) == 2
    assert all("egressSubnet" in table for table in nat_routes)
    (steps,) = [f for f in dev.resources("AWS::Lambda::Function") if f.logical_id.startswith("PipelineSteps")]
    assert text(steps.properties["Environment"]["Variables"]["SUBNET_IDS"]).count("egressSubnet") == 2


def test_nothing_gets_a_public_address(zone: Zone) -> None:
    for subnet in zone.resources("AWS::EC2::Subnet"):
        assert subnet.properties["MapPublicIpOnLaunch"] is False
    (template,) = zone.resources("AWS::EC2::LaunchTemplate")
    # At instance level, so that a subnet can be chosen; a subnet's own setting decides on addresses.
    assert "NetworkInterfaces" not in template.properties["LaunchTemplateData"]
    assert "KeyName" not in template.properties["LaunchTemplateData"]


def test_buckets_are_private_and_answer_tls_only(zone: Zone) -> None:
    policies = {text(p.properties["Bucket"]): p for p in zone.resources("AWS::S3::BucketPolicy")}
    for bucket in zone.resources("AWS::S3::Bucket"):
        assert all(bucket.properties["PublicAccessBlockConfiguration"].values())
        assert len(bucket.properties["PublicAccessBlockConfiguration"]) == 4
        (rule,) = bucket.properties["OwnershipControls"]["Rules"]
        assert rule["ObjectOwnership"] == "BucketOwnerEnforced"
        statements = policies[f"<{bucket.logical_id}>"].properties["PolicyDocument"]["Statement"]
        denied = [s["Condition"] for s in statements if s["Effect"] == "Deny"]
        assert {"Bool": {"aws:SecureTransport": "false"}} in denied


@pytest.mark.parametrize("name", ["dev", "prod", "existing", "two", "everything", "pool"])
def test_aws_services_are_reached_inside_the_vpc(name: str, synthesise: Callable[[str], Zone]) -> None:
    zone = synthesise(name)
    region = zone.plan.environment.region
    endpoints = [r.properties for r in zone.resources("AWS::EC2::VPCEndpoint")]
    interfaces = [e for e in endpoints if e["VpcEndpointType"] == "Interface"]
    services = interface_endpoints(zone.plan.environment)
    assert {e["ServiceName"] for e in interfaces} == {f"com.amazonaws.{region}.{s}" for s in services}
    assert ("execute-api" in services) == zone.plan.environment.gateway.private
    assert len(services) - len(INTERFACE_ENDPOINTS) == zone.plan.environment.gateway.private
    assert all(e["PrivateDnsEnabled"] for e in interfaces)
    gateways = {text(e["ServiceName"]).rsplit(".", 1)[-1]: e for e in endpoints if e["VpcEndpointType"] == "Gateway"}
    assert set(gateways) == {"s3"} | ({"dynamodb"} if zone.plan.caches_answers else set())
    gateway = gateways["s3"]
    network = zone.plan.environment.network
    if network.existing_vpc:
        assert set(gateway["RouteTableIds"]) == set(network.existing_vpc.private_route_table_ids)
        return
    tables = {text(t) for t in gateway["RouteTableIds"]}
    expected = {
        text(r.properties["RouteTableId"])
        for r in zone.resources("AWS::EC2::SubnetRouteTableAssociation")
        if "publicSubnet" not in text(r.properties["SubnetId"])
    }
    assert tables == expected


def test_the_s3_endpoint_writes_to_this_account_only(dev: Zone) -> None:
    (gateway,) = [
        r.properties for r in dev.resources("AWS::EC2::VPCEndpoint") if r.properties["VpcEndpointType"] == "Gateway"
    ]
    for statement in gateway["PolicyDocument"]["Statement"]:
        if as_list(statement["Action"]) != ["s3:GetObject"]:
            assert set(statement["Condition"]["StringEquals"]) == {"aws:PrincipalAccount", "aws:ResourceAccount"}


def test_the_dynamodb_endpoint_leads_to_the_gateways_tables_only(synthesise: Callable[[str], Zone]) -> None:
    zone = synthesise("everything")
    (endpoint,) = [
        r.properties
        for r in zone.resources("AWS::EC2::VPCEndpoint")
        if text(r.properties["ServiceName"]).endswith(".dynamodb")
    ]
    (statement,) = endpoint["PolicyDocument"]["Statement"]
    assert statement["Action"] == ["dynamodb:GetItem", "dynamodb:PutItem"]
    assert text(statement["Resource"]).endswith(":<AWS::AccountId>:table/modelzone-everything-gateway-*")
    # CloudFormation's names of tables begin with their stack's.
    assert zone.manifest["artifacts"]["GatewayStack"]["properties"]["stackName"] == "modelzone-everything-gateway"
    assert statement["Condition"] == {"StringEquals": {"aws:PrincipalAccount": {"Ref": "AWS::AccountId"}}}
    private = {subnet.logical_id for subnet in _subnets(zone, "private")}
    tables = {
        text(r.properties["RouteTableId"])
        for r in zone.resources("AWS::EC2::SubnetRouteTableAssociation")
        if text(r.properties["SubnetId"]).strip("<>") in private
    }
    assert {text(table) for table in endpoint["RouteTableIds"]} == tables


def test_in_a_vpc_of_others_the_dynamodb_endpoint_is_for_everybody(synthesise: Callable[[str], Zone]) -> None:
    zone = synthesise("pool")
    (endpoint,) = [
        r.properties
        for r in zone.resources("AWS::EC2::VPCEndpoint")
        if text(r.properties["ServiceName"]).endswith(".dynamodb")
    ]
    assert "PolicyDocument" not in endpoint
    assert endpoint["RouteTableIds"] == list(zone.plan.environment.network.existing_vpc.private_route_table_ids)


@pytest.mark.parametrize("name", ["shared", "signed"])
def test_a_vpc_with_its_own_endpoints_only_gets_rules(name: str, synthesise: Callable[[str], Zone]) -> None:
    zone = synthesise(name)
    assert not list(zone.resources("AWS::EC2::VPCEndpoint"))
    admitted = [r.properties["GroupId"] for r in zone.resources("AWS::EC2::SecurityGroupIngress")]
    assert admitted == ["sg-0123456789abcdef0"] * 3  # model hosts, compile hosts, proxy


def test_all_traffic_of_a_new_vpc_is_recorded(dev: Zone) -> None:
    flow_log = dev.one("AWS::EC2::FlowLog")
    vpc = dev.one("AWS::EC2::VPC")
    assert flow_log.properties["TrafficType"] == "ALL"
    assert flow_log.properties["ResourceId"] == {"Ref": vpc.logical_id}


def _group(subnet: Resource) -> str:
    return next(t["Value"] for t in subnet.properties["Tags"] if t["Key"] == "aws-cdk:subnet-name")


def _subnets(zone: Zone, group: str) -> list[Resource]:
    return [subnet for subnet in zone.resources("AWS::EC2::Subnet") if _group(subnet) == group]
