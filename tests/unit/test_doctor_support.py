"""An account whose answers are given: real boto3 clients that send nothing, and plans to ask it about."""

from __future__ import annotations

import functools
import threading
import urllib.request
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Literal, cast

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from modelzone.doctor.checks import Check
from modelzone.doctor.preflight import preflight
from modelzone.planning import EnvironmentPlan
from modelzone.settings.environment import Compile, ExistingVpc, Network, NewVpc
from modelzone.settings.gateway import Gateway

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
    names = {
        "inf2": "ml.inf2.24xlarge for endpoint usage",
        "every": "Number of instances across active endpoints",
        "hosts": "Running On-Demand Inf instances",
    }
    return {"Quotas": [{"QuotaName": names[name], "Value": value} for name, value in values.items()]}


STACK = {
    "Stacks": [
        {
            "StackName": "modelzone-dev-model-store",
            "StackStatus": "UPDATE_COMPLETE",
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
    "service-quotas.ListAWSDefaultServiceQuotas": quotas(inf2=0, every=20, hosts=0),
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
    "ec2.DescribeVpcEndpoints": {"VpcEndpoints": []},
    "sagemaker.ListEndpoints": {"Endpoints": []},
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
    purchase: Literal["on-demand", "spot"] = "on-demand",
    private: bool = False,
    caches_answers: bool = False,
) -> EnvironmentPlan:
    network = Network(existing_vpc=vpc) if vpc else Network(new_vpc=NewVpc(zones=2))
    deployments = tuple(
        SimpleNamespace(
            name=f"mixtral-{index}",
            model=SimpleNamespace(hub_id="mistralai/Mixtral-8x7B-Instruct-v0.1", gated=gated),
            serving=SimpleNamespace(instance_type="ml.inf2.24xlarge", scaling=SimpleNamespace(max_instances=count)),
            endpoint_prefix=f"modelzone-dev-mixtral-{index}",
            image_uri=image,
            compile=SimpleNamespace(
                instance_type="inf2.24xlarge",
                ami_parameter=AMI,
                image_uri=image,
                weights_source="hub" if egress else "s3",
            )
            if compiles
            else None,
            compile_hint="Compile it.",
            artifact_prefix="compiled/mixtral/0123/",
        )
        for index, count in enumerate(instances)
    )
    environment = SimpleNamespace(
        name="dev",
        region="us-east-1",
        account=account,
        network=network,
        compile=Compile(purchase=purchase),
        gateway=Gateway(private=private),
    )
    found = SimpleNamespace(environment=environment, deployments=deployments, caches_answers=caches_answers)
    return cast("EnvironmentPlan", found)


def hub(status: int | Exception = 200, seen: list[urllib.request.Request] | None = None) -> Any:
    def send(request: urllib.request.Request, _: float) -> int:
        if seen is not None:
            seen.append(request)
        if isinstance(status, Exception):
            raise status
        return status

    return send


def run(
    environment: EnvironmentPlan | None = None, account: Any = None, opener: Any = None, **given: str
) -> dict[str, Check]:
    """The results by id; of several with one id the first."""
    checks = preflight(environment or plan(), account or Account(), opener=opener or hub(), **cast("Any", given))
    return {check.id: check for check in reversed(checks)}


EXISTING = ExistingVpc(
    vpc_id="vpc-12345678",
    availability_zones=("us-east-1a", "us-east-1b"),
    private_subnet_ids=("subnet-aaaaaaaa", "subnet-bbbbbbbb"),
    create_endpoints=True,
    private_route_table_ids=("rtb-aaaaaaaa", "rtb-bbbbbbbb"),
    vpc_cidr="10.9.0.0/17",
)
