"""A preflight against the embedded AWS, before and after its environment's model store is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.test_emulator_support import ACCOUNT, REGION, RunningEmulator, running_emulator

from modelzone.doctor.checks import Check
from modelzone.doctor.preflight import aws_clients, preflight
from modelzone.planning import plan_environment

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = {
    "Resources": {
        "Bucket": {"Type": "AWS::S3::Bucket"},
        "HubToken": {"Type": "AWS::SecretsManager::Secret", "Properties": {"GenerateSecretString": {}}},
    },
    "Outputs": {
        "ModelBucketName": {"Value": {"Ref": "Bucket"}},
        "HubTokenSecretArn": {"Value": {"Ref": "HubToken"}},
    },
}
VPC = """
name: existing
description: an existing VPC
region: us-east-1
account: "444455556666"
retain_data: false
network:
  egress: nat
  existing_vpc:
    vpc_id: {vpc}
    availability_zones: [us-east-1a, us-east-1b]
    private_subnet_ids: [{first}, {second}]
    private_route_table_ids: [{table}, {table}]
    create_endpoints: true
    vpc_cidr: 10.77.0.0/16
deployments:
  mixtral:
    profile: mixtral-8x7b-instruct
"""

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    with running_emulator(tmp_path_factory.mktemp("doctor")) as emulator:
        yield emulator


def check(
    emulator: RunningEmulator, *, root: Path = ROOT, environment: str = "dev", hub: int = 200
) -> dict[str, Check]:
    def opener(_: urllib.request.Request, __: float) -> int:
        return hub

    clients = aws_clients(REGION, endpoint_url=emulator.url, aws_access_key_id=ACCOUNT, aws_secret_access_key="any")
    return {found.id: found for found in preflight(plan_environment(root, environment), clients, opener=opener)}


def statuses(checks: dict[str, Check]) -> dict[str, str]:
    return {name: found.status for name, found in checks.items()}


def test_before_anything_is_deployed(emulator: RunningEmulator) -> None:
    checks = check(emulator)
    assert statuses(checks) == {
        "account": "ok",
        "bootstrap": "fail",
        "stacks": "ok",
        "endpoint-quota": "skipped",
        "compile-quota": "skipped",
        "zones": "skipped",
        "image": "ok",
        "ami": "ok",
        "hub-token": "warn",
        "licence": "skipped",
        "artifact": "warn",
    }
    assert checks["zones"].detail == "the emulator has no DescribeInstanceTypeOfferings"
    assert checks["endpoint-quota"].detail == "the emulator has no ListAWSDefaultServiceQuotas"
    assert f"cdk bootstrap aws://{ACCOUNT}/us-east-1" in checks["bootstrap"].remedy


def test_the_documentation_shows_this_run(emulator: RunningEmulator) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "modelzone", "doctor", "preflight", "dev", "--endpoint-url", emulator.url],
        cwd=ROOT,
        env={**environment, "AWS_ACCESS_KEY_ID": ACCOUNT, "AWS_SECRET_ACCESS_KEY": "any"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    shown = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert "\n".join(line.rstrip() for line in done.stdout.strip().splitlines()) in shown


def test_once_the_model_store_is_there(emulator: RunningEmulator) -> None:
    emulator.client("ssm").put_parameter(Name="/cdk-bootstrap/hnb659fds/version", Value="30", Type="String")
    formation = emulator.client("cloudformation")
    name = "modelzone-dev-model-store"
    formation.create_stack(StackName=name, TemplateBody=json.dumps(TEMPLATE))
    formation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    checks = check(emulator)
    assert (checks["bootstrap"].status, checks["hub-token"].status) == ("ok", "fail")
    assert "holds no token" in checks["hub-token"].detail
    assert checks["artifact"].detail.startswith("not compiled: s3://")
    assert checks["artifact"].remedy

    outputs = {
        row["OutputKey"]: row["OutputValue"]
        for row in formation.describe_stacks(StackName=name)["Stacks"][0]["Outputs"]
    }
    emulator.client("secretsmanager").put_secret_value(
        SecretId=outputs["HubTokenSecretArn"], SecretString="hf_abcdefghijklmnop"
    )
    key = checks["artifact"].detail.split(f"{outputs['ModelBucketName']}/")[1].split(" ")[0]
    emulator.client("s3").put_object(Bucket=outputs["ModelBucketName"], Key=key, Body=b"{}")
    checks = check(emulator)
    assert {checks[name].status for name in ("account", "bootstrap", "ami", "hub-token", "licence", "artifact")} == {
        "ok"
    }
    assert check(emulator, hub=403)["licence"].status == "fail"
    assert "hf_abc" not in repr(checks)


def test_an_existing_vpc(emulator: RunningEmulator, tmp_path: Path) -> None:
    ec2 = emulator.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    first, second = (
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.77.{n}.0/24", AvailabilityZone=f"us-east-1{zone}")["Subnet"][
            "SubnetId"
        ]
        for n, zone in enumerate("ac")
    )
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.associate_route_table(RouteTableId=table, SubnetId=first)
    (tmp_path / "environments").mkdir()
    (tmp_path / "models").symlink_to(ROOT / "models")
    text = VPC.format(vpc=vpc, first=first, second=second, table=table)
    (tmp_path / "environments" / "existing.yaml").write_text(text, encoding="utf-8")
    checks = check(emulator, root=tmp_path, environment="existing")
    assert checks["account"].detail == f"signed in to account {ACCOUNT}, the environment belongs to 444455556666"
    assert checks["vpc"].status == "ok"
    assert checks["subnets"].detail == f"{second} is in us-east-1c, not us-east-1b"
    assert checks["route-tables"].detail.startswith(f"{second} uses rtb-")
    assert checks["route-tables"].detail.endswith(f", not {table}")
    assert checks["vpc-endpoints"].status == "ok"
    ec2.create_vpc_endpoint(
        VpcId=vpc, ServiceName="com.amazonaws.us-east-1.kms", VpcEndpointType="Interface", PrivateDnsEnabled=True
    )
    again = check(emulator, root=tmp_path, environment="existing")
    assert again["vpc-endpoints"].detail.startswith("the VPC has endpoints of kms")
