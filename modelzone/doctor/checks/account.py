"""Credentials, account and region; whether the CDK has been bootstrapped there."""

from __future__ import annotations

from collections.abc import Mapping

from modelzone.doctor.checks.base import Context, Kind, Outcome

__all__ = ["KINDS", "REQUIRED_BOOTSTRAP_VERSION"]

# What the stacks' templates ask for in their rule CheckBootstrapVersion.
REQUIRED_BOOTSTRAP_VERSION = 6
_BOOTSTRAP_PARAMETER = "/cdk-bootstrap/hnb659fds/version"


def _identity(context: Context) -> Mapping[str, str]:
    found: Mapping[str, str] = context.once("identity", context.client("sts").get_caller_identity)
    return found


def _account(context: Context, _: None) -> Outcome:
    environment = context.plan.environment
    identity = _identity(context)
    account, region = identity["Account"], context.client("sts").meta.region_name
    if environment.account is not None and account != environment.account:
        return Outcome(
            "fail",
            f"signed in to account {account}, the environment belongs to {environment.account}",
            "sign in to that account (AWS_PROFILE), or correct account in the environment file",
        )
    if region != environment.region:
        return Outcome(
            "fail", f"asking in {region}, the environment is in {environment.region}", "set AWS_REGION to the latter"
        )
    named = "" if environment.account else "; set account in the environment file, and nothing is deployed elsewhere"
    return Outcome("ok", f"{identity['Arn']} in {region}{named}")


def _bootstrap(context: Context, _: None) -> Outcome:
    client = context.client("ssm")
    region = context.plan.environment.region
    account = context.plan.environment.account or _identity(context)["Account"]
    command = f"cdk bootstrap aws://{account}/{region}"
    try:
        found = int(client.get_parameter(Name=_BOOTSTRAP_PARAMETER)["Parameter"]["Value"])
    except client.exceptions.ParameterNotFound:
        return Outcome("fail", f"{region} is not bootstrapped for the CDK", f"run once: {command}")
    except ValueError as error:
        return Outcome("fail", f"{_BOOTSTRAP_PARAMETER} is not a number ({error})", f"run: {command}")
    if found < REQUIRED_BOOTSTRAP_VERSION:
        return Outcome("fail", f"version {found}, the stacks need {REQUIRED_BOOTSTRAP_VERSION}", f"run: {command}")
    return Outcome("ok", f"version {found}, the stacks need {REQUIRED_BOOTSTRAP_VERSION}")


KINDS = (
    Kind(
        id="account",
        permissions=("sts:GetCallerIdentity",),
        items=lambda _: [None],
        title=lambda _: "credentials, account and region",
        run=_account,
    ),
    Kind(
        id="bootstrap",
        permissions=("ssm:GetParameter", "sts:GetCallerIdentity"),
        items=lambda _: [None],
        title=lambda _: "CDK bootstrap",
        run=_bootstrap,
    ),
)
