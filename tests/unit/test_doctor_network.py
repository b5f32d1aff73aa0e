"""An existing VPC, its route tables and its endpoints."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from unit.test_doctor_support import EXISTING, Account, plan, run

from modelzone.planning.network import INTERFACE_ENDPOINTS
from modelzone.settings.environment import ExistingVpc

GROUP = "sg-12345678"
SHARED = ExistingVpc(
    vpc_id="vpc-12345678",
    availability_zones=("us-east-1a", "us-east-1b"),
    private_subnet_ids=("subnet-aaaaaaaa", "subnet-bbbbbbbb"),
    create_endpoints=False,
    endpoint_security_group_id=GROUP,
)
S3 = {
    "ServiceName": "com.amazonaws.us-east-1.s3",
    "State": "available",
    "RouteTableIds": ["rtb-aaaaaaaa", "rtb-bbbbbbbb"],
}

DYNAMODB = S3 | {"ServiceName": "com.amazonaws.us-east-1.dynamodb"}


def interface(service: str, **changed: Any) -> dict[str, Any]:
    return {
        "ServiceName": f"com.amazonaws.us-east-1.{service}",
        "State": "available",
        "PrivateDnsEnabled": True,
        "Groups": [{"GroupId": GROUP}],
        **changed,
    }


def endpoints(**changed: dict[str, Any]) -> list[dict[str, Any]]:
    return [interface(service, **changed.get(service.replace(".", "_"), {})) for service in INTERFACE_ENDPOINTS]


def answered(rows: list[dict[str, Any]]) -> Account:
    return Account(ec2__DescribeVpcEndpoints={"VpcEndpoints": rows})


def test_an_existing_vpc_that_is_as_the_file_says() -> None:
    checks = run(plan(vpc=EXISTING))
    assert [checks[name].status for name in ("vpc", "subnets", "route-tables", "vpc-endpoints", "zones")] == ["ok"] * 5
    assert "endpoint-security-group" not in checks


@pytest.mark.parametrize(
    ("changed", "name", "detail"),
    [
        ({"ec2__DescribeVpcs": {"Vpcs": []}}, "vpc", "there is no vpc-12345678"),
        (
            {"ec2__DescribeVpcs": {"Vpcs": [{"VpcId": "vpc-12345678", "CidrBlock": "10.0.0.0/16"}]}},
            "vpc",
            "not in its ranges",
        ),
        (
            {"ec2__DescribeSubnets": {"Subnets": []}},
            "subnets",
            "there is no subnet-aaaaaaaa; there is no subnet-bbbbbbbb",
        ),
        (
            {
                "ec2__DescribeSubnets": {
                    "Subnets": [
                        {"SubnetId": "subnet-aaaaaaaa", "VpcId": "vpc-other", "AvailabilityZone": "us-east-1a"},
                        {"SubnetId": "subnet-bbbbbbbb", "VpcId": "vpc-12345678", "AvailabilityZone": "us-east-1c"},
                    ]
                }
            },
            "subnets",
            "subnet-aaaaaaaa belongs to vpc-other; subnet-bbbbbbbb is in us-east-1c, not us-east-1b",
        ),
        (
            {
                "ec2__DescribeRouteTables": {
                    "RouteTables": [
                        {
                            "RouteTableId": "rtb-aaaaaaaa",
                            "VpcId": "vpc-12345678",
                            "Associations": [{"Main": True}],
                        },
                        {
                            "RouteTableId": "rtb-cccccccc",
                            "VpcId": "vpc-12345678",
                            "Associations": [{"SubnetId": "subnet-aaaaaaaa"}],
                        },
                    ]
                }
            },
            "route-tables",
            "subnet-aaaaaaaa uses rtb-cccccccc, not rtb-aaaaaaaa; vpc-12345678 has no rtb-bbbbbbbb",
        ),
    ],
)
def test_an_existing_vpc_that_is_not(changed: dict[str, Any], name: str, detail: str) -> None:
    check = run(plan(vpc=EXISTING), Account(**changed))[name]
    assert (check.status, "existing_vpc" in check.remedy) == ("fail", True)
    assert detail in check.detail


@pytest.mark.parametrize(("group", "status"), [("sg-12345678", "ok"), ("sg-87654321", "fail")])
def test_the_endpoints_security_group(group: str, status: str) -> None:
    vpc = ExistingVpc(
        vpc_id="vpc-12345678",
        availability_zones=("us-east-1a",),
        private_subnet_ids=("subnet-aaaaaaaa",),
        create_endpoints=False,
        endpoint_security_group_id=group,
    )
    assert run(plan(vpc=vpc))["endpoint-security-group"].status == status


def test_endpoints_that_are_all_there() -> None:
    check = run(plan(vpc=SHARED), answered([*endpoints(), S3]))["vpc-endpoints"]
    assert (check.status, "all 11 interface endpoints" in check.detail) == ("ok", True)


@pytest.mark.parametrize(
    ("rows", "detail"),
    [
        ([S3], "no interface endpoint with private DNS of sagemaker.runtime, sagemaker.api, ssm"),
        ([*endpoints(kms={"State": "pending"}), S3], "no interface endpoint with private DNS of kms"),
        ([*endpoints(ecr_dkr={"PrivateDnsEnabled": False}), S3], "no interface endpoint with private DNS of ecr.dkr"),
        ([*endpoints(sts={"Groups": [{"GroupId": "sg-0"}]}), S3], "sg-12345678 is not a security group of sts"),
        (endpoints(), "no gateway endpoint of S3 in rtb-aaaaaaaa, rtb-bbbbbbbb"),
        ([*endpoints(), S3 | {"RouteTableIds": ["rtb-aaaaaaaa"]}], "no gateway endpoint of S3 in rtb-bbbbbbbb"),
    ],
)
def test_endpoints_that_are_missing(rows: list[dict[str, Any]], detail: str) -> None:
    check = run(plan(vpc=SHARED), answered(rows))["vpc-endpoints"]
    assert (check.status, detail in check.detail) == ("fail", True)
    assert "create_endpoints: true" in check.remedy


PRIVATE = msgspec.structs.replace(SHARED, execute_api_endpoint_id="vpce-12345678")
API = interface("execute-api", VpcEndpointId="vpce-12345678", Groups=[{"GroupId": "sg-of-the-clients"}])


@pytest.mark.parametrize(
    ("rows", "detail"),
    [
        ([], "vpce-12345678 is no interface endpoint of execute-api in the VPC"),
        ([API | {"State": "pending"}], "vpce-12345678 is no interface endpoint"),
        ([API | {"VpcEndpointId": "vpce-87654321"}], "vpce-12345678 is no interface endpoint"),
        ([API], "all 12 interface endpoints"),
    ],
)
def test_a_private_api_needs_its_endpoint(rows: list[dict[str, Any]], detail: str) -> None:
    there = [*endpoints(), S3, *rows]
    check = run(plan(vpc=PRIVATE, private=True), answered(there))["vpc-endpoints"]
    assert (check.status, detail in check.detail) == ("ok" if "all" in detail else "fail", True)
    assert run(plan(vpc=SHARED), answered(there))["vpc-endpoints"].status == "ok"


@pytest.mark.parametrize(
    ("rows", "detail"),
    [
        ([S3], "no gateway endpoint of DynamoDB in rtb-aaaaaaaa, rtb-bbbbbbbb"),
        ([S3, DYNAMODB | {"RouteTableIds": ["rtb-bbbbbbbb"]}], "no gateway endpoint of DynamoDB in rtb-aaaaaaaa"),
        ([S3, DYNAMODB], "the gateway endpoints of S3 and DynamoDB are there"),
    ],
)
def test_kept_answers_need_dynamodb(rows: list[dict[str, Any]], detail: str) -> None:
    there = [*endpoints(), *rows]
    check = run(plan(vpc=SHARED, caches_answers=True), answered(there))["vpc-endpoints"]
    assert (check.status, check.detail.endswith(detail)) == ("ok" if "are there" in detail else "fail", True)
    without = run(plan(vpc=SHARED), answered(there))["vpc-endpoints"]
    assert (without.status, without.detail.endswith("the gateway endpoint of S3 are there")) == ("ok", True)


def test_the_endpoint_of_a_private_api_would_be_made_twice() -> None:
    there = [interface("execute-api")]
    check = run(plan(vpc=EXISTING, private=True), answered(there))["vpc-endpoints"]
    assert (check.status, "has endpoints of execute-api, and" in check.detail) == ("fail", True)
    assert run(plan(vpc=EXISTING), answered(there))["vpc-endpoints"].status == "ok"


def test_endpoints_that_would_be_made_twice() -> None:
    check = run(plan(vpc=EXISTING), answered([interface("kms"), interface("glue")]))["vpc-endpoints"]
    assert (check.status, "create_endpoints: false" in check.remedy) == ("fail", True)
    assert "has endpoints of kms, and" in check.detail
