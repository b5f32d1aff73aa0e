"""Credentials, the bootstrap and the state of the stacks: without the first nothing is checked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions
from botocore.exceptions import ClientError
from unit.test_doctor_support import Account, Answer, error, hub, plan, run

from modelzone.doctor.checks.account import bootstrap_qualifier
from modelzone.doctor.checks.stacks import stack_suffixes
from modelzone.doctor.preflight import preflight
from modelzone.errors import ModelzoneError

ROOT = Path(__file__).resolve().parents[2]


def refused(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, operation)


@pytest.mark.parametrize(
    "answer",
    [
        exceptions.UnauthorizedSSOTokenError(),
        exceptions.SSOTokenLoadError(error_msg="x"),
        exceptions.CredentialRetrievalError(provider="process", error_msg="x"),
        exceptions.TokenRetrievalError(provider="sso", error_msg="x"),
        exceptions.PartialCredentialsError(provider="env", cred_var="x"),
        exceptions.LoginRefreshRequired(),
        exceptions.LoginTokenLoadError(error_msg="x"),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_without_credentials_the_account_check_says_to_sign_in(answer: Exception) -> None:
    check = run(account=Account(sts__GetCallerIdentity=answer))["account"]
    assert (check.status, check.remedy.startswith("sign in")) == ("fail", True)


@pytest.mark.parametrize(
    "answer",
    [
        exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1/"),
        exceptions.ConnectTimeoutError(endpoint_url="https://sts"),
        ValueError("Invalid endpoint: foo"),
        refused("AccessDenied", "AssumeRole"),
        refused("ForbiddenException", "GetRoleCredentials"),
        error("InternalFailure"),
        error("404", status=404),
    ],
    ids=str,
)
def test_an_account_that_does_not_answer_is_a_failure(answer: Answer) -> None:
    for url in (None, "http://127.0.0.1:1"):
        assert run(account=Account(endpoint_url=url, sts__GetCallerIdentity=answer))["account"].status == "fail"


def test_who_may_not_ask_who_they_are_is_only_warned() -> None:
    assert run(account=Account(sts__GetCallerIdentity=error("AccessDenied")))["account"].status == "warn"


def test_silence_is_a_failure_of_the_account_check_and_a_warning_of_others() -> None:
    def slow(_: Mapping[str, Any]) -> Answer:
        time.sleep(5)
        return {}

    account = Account(sts__GetCallerIdentity=slow, s3__HeadObject=slow)
    checks = {check.id: check for check in preflight(plan(), account, opener=hub(), seconds=1)}
    assert [checks[name].status for name in ("account", "artifact")] == ["fail", "warn"]


@pytest.mark.parametrize("code", ["InvalidClientTokenId", "UnrecognizedClientException", "AuthFailure"])
def test_a_key_that_is_not_known_may_be_one_of_a_region_that_is_not_enabled(code: str) -> None:
    check = run(account=Account(sts__GetCallerIdentity=error(code)))["account"]
    assert check.status == "fail"
    assert "sign in again" in check.remedy
    assert "enable it for the account" in check.remedy


def test_a_bootstrap_with_a_qualifier_of_its_own() -> None:
    def parameter(params: Mapping[str, Any]) -> Answer:
        if params["Name"] == "/cdk-bootstrap/team1/version":
            return {"Parameter": {"Value": "21"}}
        return error("ParameterNotFound")

    account = Account(ssm__GetParameter=parameter)
    assert run(account=account, qualifier="team1")["bootstrap"].status == "ok"
    other = run(account=account, qualifier="team2", profile="mine")["bootstrap"]
    assert (other.status, "qualifier team2" in other.detail) == ("fail", True)
    assert "bootstrap aws://111122223333/us-east-1 --qualifier team2 -c environment=dev --profile mine" in other.remedy


def test_the_qualifier_is_the_one_of_cdk_json(tmp_path: Path) -> None:
    assert bootstrap_qualifier(ROOT) is None
    (tmp_path / "cdk.json").write_text(json.dumps({"context": {"@aws-cdk/core:bootstrapQualifier": "team1"}}))
    assert bootstrap_qualifier(tmp_path) == "team1"
    (tmp_path / "cdk.json").write_text("{")
    with pytest.raises(ModelzoneError, match=r"cdk\.json: cannot be read"):
        bootstrap_qualifier(tmp_path)


@pytest.mark.parametrize(
    ("state", "status", "remedy"),
    [
        ("CREATE_COMPLETE", "ok", ""),
        ("UPDATE_ROLLBACK_COMPLETE", "ok", ""),
        ("REVIEW_IN_PROGRESS", "ok", ""),
        ("UPDATE_IN_PROGRESS", "fail", "wait"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "fail", "wait"),
        ("ROLLBACK_COMPLETE", "warn", "describe-stack-events --stack-name modelzone-dev-gateway"),
        ("ROLLBACK_FAILED", "warn", "describe-stack-events"),
        ("UPDATE_ROLLBACK_FAILED", "fail", "cdk rollback --all -c environment=dev"),
        ("DELETE_FAILED", "fail", "delete-stack --stack-name modelzone-dev-gateway"),
    ],
)
def test_the_state_of_a_stack(state: str, status: str, remedy: str) -> None:
    def stack(params: Mapping[str, Any]) -> Answer:
        gateway = params["StackName"] == "modelzone-dev-gateway"
        return {"Stacks": [{"StackName": params["StackName"], "StackStatus": state if gateway else "CREATE_COMPLETE"}]}

    check = run(account=Account(cloudformation__DescribeStacks=stack))["stacks"]
    assert (check.status, remedy in check.remedy) == (status, True)
    assert (f"modelzone-dev-gateway is in {state}" in check.detail) == (status != "ok")


def test_the_names_of_the_stacks_are_those_that_are_made() -> None:
    made = "".join(path.read_text() for path in (ROOT / "stacks").glob("*.py"))
    assert all(f'suffix="{suffix}"' in made for suffix in stack_suffixes(plan())[:4])
    assert 'suffix=f"deployment-{deployment.name}"' in made
    assert made.count("suffix=") - made.count("suffix=suffix") == len(stack_suffixes(plan()))


def test_what_a_service_answers_is_masked_too() -> None:
    answer = {"Parameter": {"Value": "hf_abcdefghijklmnop"}}
    check = run(account=Account(ssm__GetParameter=answer))["bootstrap"]
    assert "is not a number (invalid literal for int() with base 10: 'hf_****" in check.detail
