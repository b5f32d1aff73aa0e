"""The checks of a preflight, with real boto3 clients whose answers are given before anything is sent."""

from __future__ import annotations

import functools
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError, NoCredentialsError

from modelzone.doctor.checks import KINDS, Check, Context
from modelzone.doctor.checks.account import REQUIRED_BOOTSTRAP_VERSION
from modelzone.doctor.preflight import aws_clients, permissions_markdown, preflight
from modelzone.planning import EnvironmentPlan
from modelzone.settings.environment import ExistingVpc, Network, NewVpc

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "111122223333"
REGISTRY = "999988887777"
IMAGE = f"{REGISTRY}.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:2.1.2"
AMI = "/aws/service/neuron/dlami/base/ubuntu-22.04/latest/image_id"
TOKEN = "hf_abcdefghijklmnop"
SECRET = "arn:aws:secretsmanager:us-east-1:111122223333:secret:HubToken"
Answer = Mapping[str, Any] | Exception


def error(code: str, message: str = "no", status: int = 400) -> Answer:
    return {"Error": {"Code": code, "Message": message}, "status": status}


def offered(*zones: str) -> Answer:
    return {"InstanceTypeOfferings": [{"InstanceType": "inf2.24xlarge", "Location": zone} for zone in zones]}


def parameter(params: Mapping[str, Any]) -> Answer:
    values = {"/cdk-bootstrap/hnb659fds/version": "21", AMI: "ami-0123456789abcdef0"}
    name = params["Name"]
    return {"Parameter": {"Name": name, "Value": values[name]}} if name in values else error("ParameterNotFound")


def quotas(**values: float) -> Answer:
    names = {"inf2": "ml.inf2.24xlarge for endpoint usage", "hosts": "Running On-Demand Inf instances"}
    return {"Quotas": [{"QuotaName": names[name], "Value": value} for name, value in values.items()]}


STACK = {
    "Stacks": [
        {
            "StackName": "modelzone-dev-model-store",
            "Outputs": [
                {"OutputKey": "HubTokenSecretArn", "OutputValue": SECRET},
                {"OutputKey": "ModelBucketName", "OutputValue": "models"},
            ],
        }
    ]
}
GOOD: Mapping[str, Answer | Callable[[Mapping[str, Any]], Answer]] = {
    "sts.GetCallerIdentity": {"Account": ACCOUNT, "Arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/deployer/me"},
    "ssm.GetParameter": parameter,
    "service-quotas.ListAWSDefaultServiceQuotas": quotas(inf2=0, hosts=0),
    "service-quotas.ListServiceQuotas": quotas(inf2=4, hosts=96),
    "ec2.DescribeAvailabilityZones": {
        "AvailabilityZones": [{"ZoneName": f"us-east-1{letter}", "ZoneType": "availability-zone"} for letter in "cab"]
    },
    "ec2.DescribeInstanceTypeOfferings": offered("us-east-1a", "us-east-1b", "us-east-1d"),
    "ecr.BatchGetImage": {"images": [{"registryId": REGISTRY}], "failures": []},
    "cloudformation.DescribeStacks": STACK,
    "secretsmanager.GetSecretValue": {"SecretString": f"{TOKEN}\n"},
    "s3.HeadObject": {"ContentLength": 100},
    "ec2.DescribeVpcs": {
        "Vpcs": [
            {
                "VpcId": "vpc-12345678",
                "CidrBlock": "10.0.0.0/16",
                "CidrBlockAssociationSet": [{"CidrBlock": "10.0.0.0/16"}, {"CidrBlock": "10.9.0.0/16"}],
            }
        ]
    },
    "ec2.DescribeSubnets": {
        "Subnets": [
            {"SubnetId": "subnet-aaaaaaaa", "VpcId": "vpc-12345678", "AvailabilityZone": "us-east-1a"},
            {"SubnetId": "subnet-bbbbbbbb", "VpcId": "vpc-12345678", "AvailabilityZone": "us-east-1b"},
        ]
    },
    "ec2.DescribeRouteTables": {
        "RouteTables": [
            {
                "RouteTableId": "rtb-aaaaaaaa",
                "VpcId": "vpc-12345678",
                "Associations": [{"SubnetId": "subnet-aaaaaaaa"}],
            },
            {"RouteTableId": "rtb-bbbbbbbb", "VpcId": "vpc-12345678", "Associations": [{"Main": True}]},
        ]
    },
    "ec2.DescribeSecurityGroups": {"SecurityGroups": [{"GroupId": "sg-12345678", "VpcId": "vpc-12345678"}]},
}
SESSION = boto3.session.Session()


class Account:
    """Makes clients that answer from a table and send nothing."""

    def __init__(self, *, endpoint_url: str | None = None, region: str = "us-east-1", **changed: Any) -> None:
        self.answers = {**GOOD, **{name.replace("__", ".").replace("_", "-"): value for name, value in changed.items()}}
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self._endpoint_url, self._region = endpoint_url, region

    def __call__(self, service: str) -> Any:
        client, holder = made(service, self._region, self._endpoint_url)
        holder.append(self)
        return client

    def answer(self, name: str, params: Mapping[str, Any]) -> tuple[AWSResponse, Mapping[str, Any]]:
        self.asked.append((name, params))
        found = self.answers[name]
        found = found(params) if callable(found) else found
        if isinstance(found, Exception):
            raise found
        return AWSResponse("http://nowhere", found.get("status", 200), {}, None), {"ResponseMetadata": {}, **found}


@functools.cache
def made(service: str, region: str, endpoint_url: str | None) -> tuple[Any, list[Account]]:
    """A client, made once as that takes long, and whose the answers are: the last of the list."""
    create: Any = SESSION.client
    client = create(
        service,
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=Config(retries={"total_max_attempts": 1}),
    )
    holder: list[Account] = []
    given: dict[int, Mapping[str, Any]] = {}

    def remember(params: Mapping[str, Any], **_: Any) -> None:
        given[threading.get_ident()] = params

    def answer(model: Any, **_: Any) -> tuple[AWSResponse, Mapping[str, Any]]:
        name = f"{service}.{model.name}"
        return holder[-1].answer(name, given[threading.get_ident()])

    client.meta.events.register("provide-client-params.*.*", remember)
    client.meta.events.register("before-call.*.*", answer)
    return client, holder


def plan(
    *,
    account: str | None = ACCOUNT,
    instances: tuple[int, ...] = (2,),
    gated: bool = True,
    egress: bool = True,
    image: str = IMAGE,
    compiles: bool = True,
    vpc: ExistingVpc | None = None,
) -> EnvironmentPlan:
    network = Network(existing_vpc=vpc) if vpc else Network(new_vpc=NewVpc(zones=2))
    deployments = tuple(
        SimpleNamespace(
            name=f"mixtral-{index}",
            model=SimpleNamespace(hub_id="mistralai/Mixtral-8x7B-Instruct-v0.1", gated=gated),
            serving=SimpleNamespace(instance_type="ml.inf2.24xlarge", scaling=SimpleNamespace(max_instances=count)),
            image_uri=image,
            can_fetch_weights=egress,
            compile=SimpleNamespace(instance_type="inf2.24xlarge", ami_parameter=AMI, image_uri=image)
            if compiles
            else None,
            compile_hint="Compile it.",
            artifact_prefix="compiled/mixtral/0123/",
        )
        for index, count in enumerate(instances)
    )
    environment = SimpleNamespace(name="dev", region="us-east-1", account=account, network=network)
    return cast("EnvironmentPlan", SimpleNamespace(environment=environment, deployments=deployments))


def hub(status: int | Exception = 200, seen: list[urllib.request.Request] | None = None) -> Any:
    def send(request: urllib.request.Request, _: float) -> int:
        if seen is not None:
            seen.append(request)
        if isinstance(status, Exception):
            raise status
        return status

    return send


def run(environment: EnvironmentPlan | None = None, account: Any = None, opener: Any = None) -> dict[str, Check]:
    checks = preflight(environment or plan(), account or Account(), opener=opener or hub())
    return {check.id: check for check in checks}


EXISTING = ExistingVpc(
    vpc_id="vpc-12345678",
    availability_zones=("us-east-1a", "us-east-1b"),
    private_subnet_ids=("subnet-aaaaaaaa", "subnet-bbbbbbbb"),
    create_endpoints=True,
    private_route_table_ids=("rtb-aaaaaaaa", "rtb-bbbbbbbb"),
    vpc_cidr="10.9.0.0/17",
)


def test_all_is_well() -> None:
    checks = run()
    assert {name: check.status for name, check in checks.items()} == dict.fromkeys(
        [
            "account",
            "bootstrap",
            "endpoint-quota",
            "compile-quota",
            "zones",
            "image",
            "ami",
            "hub-token",
            "licence",
            "artifact",
        ],
        "ok",
    )
    assert all(not check.remedy for check in checks.values())
    assert ACCOUNT in checks["account"].detail
    assert "ami-0123456789abcdef0" in checks["ami"].detail


def test_what_is_required_of_the_bootstrap_is_what_the_templates_require() -> None:
    snapshots = "".join(p.read_text() for p in (ROOT / "tests/infrastructure/__snapshots__").glob("*.ambr"))
    assert f"CDK bootstrap stack version {REQUIRED_BOOTSTRAP_VERSION} required" in snapshots


@pytest.mark.parametrize(
    ("changed", "name", "status", "detail", "remedy"),
    [
        (
            {"sts__GetCallerIdentity": {"Account": "444455556666", "Arn": "a"}},
            "account",
            "fail",
            "444455556666",
            "AWS_PROFILE",
        ),
        ({"sts__GetCallerIdentity": NoCredentialsError()}, "account", "fail", "no AWS credentials", "sign in"),
        ({"sts__GetCallerIdentity": error("ExpiredToken")}, "account", "fail", "ExpiredToken", "sign in again"),
        (
            {"sts__GetCallerIdentity": EndpointConnectionError(endpoint_url="https://sts")},
            "account",
            "warn",
            "Could not connect",
            "try again",
        ),
        ({"region": "eu-west-1"}, "account", "fail", "eu-west-1", "AWS_REGION"),
        (
            {"ssm__GetParameter": error("ParameterNotFound")},
            "bootstrap",
            "fail",
            "not bootstrapped",
            "cdk bootstrap aws://111122223333/us-east-1",
        ),
        (
            {"ssm__GetParameter": {"Parameter": {"Value": "5"}}},
            "bootstrap",
            "fail",
            "version 5, the stacks need 6",
            "cdk bootstrap",
        ),
        ({"ssm__GetParameter": {"Parameter": {"Value": "x"}}}, "bootstrap", "fail", "not a number", "cdk bootstrap"),
        ({"ssm__GetParameter": error("ParameterNotFound")}, "ami", "fail", "no such public parameter", "region"),
        (
            {"service_quotas__ListServiceQuotas": quotas(inf2=1, hosts=96)},
            "endpoint-quota",
            "fail",
            "is 1, at most 2",
            "ask for 4",
        ),
        (
            {"service_quotas__ListServiceQuotas": quotas(inf2=3, hosts=96)},
            "endpoint-quota",
            "warn",
            "beside the old",
            "ask for 4",
        ),
        (
            {"service_quotas__ListServiceQuotas": quotas(inf2=4, hosts=64)},
            "compile-quota",
            "fail",
            "64 vCPUs",
            "ask for 96",
        ),
        (
            {"service_quotas__ListServiceQuotas": quotas(), "service_quotas__ListAWSDefaultServiceQuotas": quotas()},
            "endpoint-quota",
            "warn",
            "lists no",
            "console",
        ),
        (
            {"service_quotas__ListAWSDefaultServiceQuotas": error("AccessDeniedException")},
            "endpoint-quota",
            "warn",
            "not allowed",
            "servicequotas:ListServiceQuotas",
        ),
        (
            {"ec2__DescribeInstanceTypeOfferings": offered("us-east-1a")},
            "zones",
            "warn",
            "us-east-1b do not",
            "SUBNET_ID",
        ),
        (
            {"ec2__DescribeInstanceTypeOfferings": offered("us-east-1d")},
            "zones",
            "fail",
            "offers it in us-east-1d",
            "name such zones",
        ),
        ({"ec2__DescribeInstanceTypeOfferings": offered()}, "zones", "fail", "nowhere", "another region"),
        (
            {"ec2__DescribeInstanceTypeOfferings": error("UnauthorizedOperation", "You are not authorized")},
            "zones",
            "warn",
            "UnauthorizedOperation",
            "ec2:DescribeInstanceTypeOfferings",
        ),
        (
            {"ecr__BatchGetImage": {"images": [], "failures": [{"failureReason": "Requested image not found"}]}},
            "image",
            "fail",
            "Requested image not found",
            "modelzone engines",
        ),
        (
            {"ecr__BatchGetImage": error("RepositoryNotFoundException")},
            "image",
            "fail",
            "no such repository",
            "image_uri",
        ),
        (
            {
                "ecr__BatchGetImage": error(
                    "AccessDeniedException", "User: x is not authorized to perform: ecr:BatchGetImage on resource: y"
                )
            },
            "image",
            "warn",
            "not allowed",
            "allow ecr:BatchGetImage",
        ),
        (
            {"cloudformation__DescribeStacks": error("ValidationError", "Stack with id x does not exist")},
            "hub-token",
            "warn",
            "before the first deploy",
            "cdk deploy CompileStack, then: aws secretsmanager put-secret-value",
        ),
        (
            {"secretsmanager__GetSecretValue": {"SecretString": "aB3placeholder"}},
            "hub-token",
            "fail",
            "no token",
            "put-secret-value",
        ),
        (
            {"secretsmanager__GetSecretValue": error("AccessDeniedException")},
            "hub-token",
            "warn",
            "not allowed",
            "secretsmanager:GetSecretValue",
        ),
        (
            {"secretsmanager__GetSecretValue": {"SecretString": "x"}},
            "licence",
            "skipped",
            "no token is stored yet to ask with",
            "",
        ),
        (
            {"s3__HeadObject": error("404", status=404)},
            "artifact",
            "warn",
            "s3://models/compiled/mixtral/0123/manifest.json",
            "Compile it.",
        ),
        ({"s3__HeadObject": error("403", status=403)}, "artifact", "warn", "not allowed", "s3:GetObject"),
        (
            {"cloudformation__DescribeStacks": error("Throttling", "Rate\nexceeded")},
            "artifact",
            "warn",
            "Throttling: Rate exceeded",
            "try again",
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    changed: dict[str, Any], name: str, status: str, detail: str, remedy: str
) -> None:
    check = run(account=Account(**changed))[name]
    assert check.status == status
    assert detail in check.detail
    assert remedy in check.remedy
    assert bool(check.remedy) == bool(remedy)


@pytest.mark.parametrize(
    ("answer", "status", "detail"),
    [
        (200, "ok", "to this token"),
        (401, "fail", "HTTP 401"),
        (403, "fail", "HTTP 403"),
        (404, "fail", "no such model"),
        (302, "warn", "HTTP 302"),
        (503, "warn", "HTTP 503"),
        (TimeoutError("x"), "skipped", "cannot be reached from here (TimeoutError)"),
        (OSError("x"), "skipped", "cannot be reached"),
    ],
)
def test_the_licence_gate(answer: int | Exception, status: str, detail: str) -> None:
    seen: list[urllib.request.Request] = []
    check = run(opener=hub(answer, seen))["licence"]
    assert (check.status, detail in check.detail) == (status, True)
    (request,) = seen
    assert request.full_url == "https://huggingface.co/api/models/mistralai/Mixtral-8x7B-Instruct-v0.1/auth-check"
    assert request.get_header("Authorization") == f"Bearer {TOKEN}"
    assert TOKEN not in repr(check)


def test_the_token_goes_to_nobody_else_and_is_shown_nowhere() -> None:
    account = Account(secretsmanager__GetSecretValue=error("InternalServiceError", f"bad value {TOKEN}"))
    seen: list[urllib.request.Request] = []
    checks = run(account=account, opener=hub(200, seen))
    assert seen == []
    assert checks["licence"].status == "warn"


def test_without_a_way_to_the_hub_nobody_asks_it() -> None:
    seen: list[urllib.request.Request] = []
    assert not {"licence", "hub-token"} & set(run(plan(egress=False), opener=hub(200, seen)))
    assert seen == []


def test_an_open_model_needs_no_token() -> None:
    seen: list[urllib.request.Request] = []
    account = Account(secretsmanager__GetSecretValue={"SecretString": "placeholder"})
    checks = run(plan(gated=False), account, hub(200, seen))
    assert "hub-token" not in checks
    assert checks["licence"].status == "ok"
    assert seen[0].get_header("Authorization") is None


def test_deployments_share_a_quota() -> None:
    check = run(plan(instances=(2, 3)), Account(service_quotas__ListServiceQuotas=quotas(inf2=7, hosts=96)))
    assert check["endpoint-quota"].status == "warn"
    assert "at most 5 run, 8 during an update" in check["endpoint-quota"].detail


def test_an_accounts_own_quota_stands_above_the_default() -> None:
    account = Account(
        service_quotas__ListServiceQuotas=quotas(hosts=96),
        service_quotas__ListAWSDefaultServiceQuotas=quotas(inf2=10, hosts=0),
    )
    checks = run(account=account)
    assert (checks["endpoint-quota"].status, checks["compile-quota"].status) == ("ok", "ok")
    assert sum(name.startswith("service-quotas.ListServiceQuotas") for name, _ in account.asked) == 2


def test_nothing_is_asked_about_compiling_where_nothing_is_compiled() -> None:
    assert not {"compile-quota", "ami", "artifact"} & set(run(plan(compiles=False)))


@pytest.mark.parametrize(
    ("image", "detail"),
    [
        ("ghcr.io/predibase/lorax:main", "not an image of Amazon ECR"),
        (IMAGE.replace("us-east-1", "eu-west-1"), "eu-west-1"),
    ],
)
def test_images_that_cannot_be_used(image: str, detail: str) -> None:
    check = run(plan(image=image))["image"]
    assert (check.status, detail in check.detail) == ("fail", True)


def test_an_image_is_asked_for_in_its_own_registry() -> None:
    account = Account()
    run(account=account)
    (asked,) = [params for name, params in account.asked if name == "ecr.BatchGetImage"]
    assert asked == {
        "registryId": REGISTRY,
        "repositoryName": "huggingface-pytorch-tgi-inference",
        "imageIds": [{"imageTag": "2.1.2"}],
    }


def test_an_existing_vpc_that_is_as_the_file_says() -> None:
    checks = run(plan(vpc=EXISTING))
    assert [checks[name].status for name in ("vpc", "subnets", "route-tables", "zones")] == ["ok"] * 4
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
                            "Associations": [{"SubnetId": "subnet-cccccccc"}],
                        },
                    ]
                }
            },
            "route-tables",
            "rtb-aaaaaaaa is not the route table of subnet-aaaaaaaa; rtb-bbbbbbbb does not exist",
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


def test_an_emulators_gaps_are_skipped_and_aws_errors_are_not() -> None:
    gaps = {"ec2__DescribeInstanceTypeOfferings": error("InvalidAction", "Unknown EC2 action")}
    emulated = run(account=Account(endpoint_url="http://127.0.0.1:1", **gaps))["zones"]
    assert (emulated.status, emulated.detail) == ("skipped", "the emulator has no DescribeInstanceTypeOfferings")
    assert run(account=Account(**gaps))["zones"].status == "warn"


def test_whatever_is_raised_is_a_result() -> None:
    def nothing(service: str) -> Any:
        raise RuntimeError(f"no client for {service}")

    checks = preflight(plan(), nothing, opener=hub())
    assert {check.status for check in checks} == {"warn"}
    assert "no client for sts" in checks[0].detail


def test_checks_run_at_once_and_one_that_hangs_is_given_up() -> None:
    def slow(_: Mapping[str, Any]) -> Answer:
        time.sleep(30)
        return {}

    def little(params: Mapping[str, Any]) -> Answer:
        time.sleep(0.3)
        return parameter(params)

    started = time.monotonic()
    account = Account(ec2__DescribeInstanceTypeOfferings=slow, ssm__GetParameter=little)
    checks = {check.id: check for check in preflight(plan(), account, opener=hub(), seconds=3)}
    assert time.monotonic() - started < 8
    assert (checks["zones"].status, checks["zones"].detail) == ("warn", "no answer in time")
    assert {checks[name].status for name in ("bootstrap", "ami", "image")} == {"ok"}


def test_clients_give_up_soon() -> None:
    client = aws_clients("eu-central-1", aws_access_key_id="x", aws_secret_access_key="x")("sts")
    assert client.meta.region_name == "eu-central-1"
    assert client.meta.config.read_timeout <= 20
    context = Context(plan=plan(), clients=lambda _: client, opener=hub())
    assert not context.emulated()


def test_permissions_only_read() -> None:
    actions = {action for kind in KINDS for action in kind.permissions}
    assert all(
        action.split(":")[1].startswith(("Get", "List", "Describe", "BatchGet", "Decrypt")) for action in actions
    )
    assert all(f"`{action}`" in permissions_markdown() for action in actions)
