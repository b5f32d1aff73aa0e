"""Credentials, account and region; whether the CDK has been bootstrapped there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from modelzone.doctor.checks.base import DEFAULT_QUALIFIER, Context, Kind, Outcome
from modelzone.errors import ModelzoneError

__all__ = ["KINDS", "REQUIRED_BOOTSTRAP_VERSION", "bootstrap_qualifier"]

# What the stacks' templates ask for in their rule CheckBootstrapVersion.
REQUIRED_BOOTSTRAP_VERSION = 6


def bootstrap_qualifier(root: Path) -> str | None:
    """Of the CDK's bootstrap, where a project's ``cdk.json`` names one.

    Raises
    ------
    ModelzoneError
        The file cannot be read.
    """
    path = root / "cdk.json"
    try:
        context = json.loads(path.read_text(encoding="utf-8")).get("context", {})
    except (OSError, ValueError, AttributeError) as error:
        raise ModelzoneError(f"{path}: cannot be read: {error}") from None
    return str(named) if (named := context.get("@aws-cdk/core:bootstrapQualifier")) else None


def _identity(context: Context) -> Mapping[str, str]:
    found: Mapping[str, str] = context.once("identity", context.client("sts").get_caller_identity)
    return found


def _account(context: Context, _: None) -> Outcome:
    environment = context.plan.environment
    identity = _identity(context)
    account = identity["Account"]
    if environment.account is not None and account != environment.account:
        return Outcome(
            "fail",
            f"signed in to account {account}, the environment belongs to {environment.account}",
            "sign in to that account (AWS_PROFILE), or correct account in the environment file",
        )
    named = "" if environment.account else "; set account in the environment file, and nothing is deployed elsewhere"
    return Outcome("ok", f"{identity['Arn']} in {environment.region}{named}")


def _bootstrap(context: Context, _: None) -> Outcome:
    client = context.client("ssm")
    region = context.plan.environment.region
    account = context.plan.environment.account or _identity(context)["Account"]
    other = "" if context.qualifier == DEFAULT_QUALIFIER else f" --qualifier {context.qualifier}"
    command = context.cdk(f"bootstrap aws://{account}/{region}{other}")
    parameter = f"/cdk-bootstrap/{context.qualifier}/version"
    try:
        found = int(client.get_parameter(Name=parameter)["Parameter"]["Value"])
    except client.exceptions.ParameterNotFound:
        named = f" with the qualifier {context.qualifier}" if other else ""
        return Outcome("fail", f"{region} is not bootstrapped for the CDK{named}", f"run once: {command}")
    except ValueError as error:
        return Outcome("fail", f"{parameter} is not a number ({error})", f"run: {command}")
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
        needed=True,
    ),
    Kind(
        id="bootstrap",
        permissions=("ssm:GetParameter", "sts:GetCallerIdentity"),
        items=lambda _: [None],
        title=lambda _: "CDK bootstrap",
        run=_bootstrap,
    ),
)
