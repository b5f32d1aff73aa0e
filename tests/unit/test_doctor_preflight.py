"""All checks of a preflight together: what each says about one wrong answer, and how they run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from unit.test_doctor_support import (
    ACCOUNT,
    IMAGE,
    REGISTRY,
    Account,
    Answer,
    error,
    hub,
    offered,
    parameter,
    plan,
    quotas,
    run,
)

from modelzone.doctor.checks import KINDS, Context
from modelzone.doctor.checks.account import REQUIRED_BOOTSTRAP_VERSION
from modelzone.doctor.preflight import aws_clients, permissions_markdown, preflight

ROOT = Path(__file__).resolve().parents[2]


def test_all_is_well() -> None:
    checks = run()
    assert {name: check.status for name, check in checks.items()} == dict.fromkeys(
        [
            "account",
            "bootstrap",
            "stacks",
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
            "fail",
            "Could not connect",
            "try again",
        ),
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
            "cdk deploy CompileStack -c environment=dev, then: aws --region us-east-1 secretsmanager put-secret-value",
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


def test_an_emulators_gaps_are_skipped_and_aws_errors_are_not() -> None:
    gaps = {"ec2__DescribeInstanceTypeOfferings": error("InvalidAction", "Unknown EC2 action")}
    emulated = run(account=Account(endpoint_url="http://127.0.0.1:1", **gaps))["zones"]
    assert (emulated.status, emulated.detail) == ("skipped", "the emulator has no DescribeInstanceTypeOfferings")
    assert run(account=Account(**gaps))["zones"].status == "warn"


def test_whatever_is_raised_is_a_result() -> None:
    def nothing(service: str) -> Any:
        raise RuntimeError(f"no client for {service}")

    checks = preflight(plan(), nothing, opener=hub())
    assert {check.status for check in checks[1:]} == {"warn"}
    assert (checks[0].status, "no client for sts" in checks[0].detail) == ("fail", True)


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


@pytest.mark.parametrize(
    ("url", "emulated"),
    [
        ("https://ecr.eu-central-1.amazonaws.com", False),
        ("https://ecr.eu-central-1.api.aws", False),
        ("https://sts.cn-north-1.amazonaws.com.cn", False),
        ("http://127.0.0.1:5000", True),
        ("http://localhost:4566/x.amazonaws.com/", True),
    ],
)
def test_what_is_aws_and_what_is_not(url: str, emulated: bool) -> None:
    context = Context(plan=plan(), clients=Account(endpoint_url=url), opener=hub())
    assert context.emulated("ecr") == emulated


def test_a_profile_that_is_named_holds_before_keys_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "credentials"
    path.write_text("[mine]\naws_access_key_id = of-profile\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    signs = aws_clients("us-east-1", profile="mine")("sts")._request_signer._credentials
    assert signs.access_key == "of-profile"


def test_permissions_only_read() -> None:
    actions = {action for kind in KINDS for action in kind.permissions}
    assert all(
        action.split(":")[1].startswith(("Get", "List", "Describe", "BatchGet", "Decrypt")) for action in actions
    )
    assert all(f"`{action}`" in permissions_markdown() for action in actions)
