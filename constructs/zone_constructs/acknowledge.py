"""Accepted findings of the security rules, each on one resource and with its reason.

The rules (cdk-nag's AwsSolutions) run in the tests; deploying does not need them.
"""

from __future__ import annotations

from typing import Any

from aws_cdk import Acknowledgment, Stack, Validations
from constructs import IConstruct

__all__ = ["acknowledge", "acknowledge_wildcards"]


def acknowledge(resource: IConstruct, reason: str, *rules: str) -> None:
    """Record why findings on one resource are accepted.

    Parameters
    ----------
    rules
        Ids as cdk-nag reports them, such as ``AwsSolutions-IAM5[Resource::*]``.
    """
    Validations.of(resource).acknowledge(*(Acknowledgment(id=rule, reason=reason) for rule in rules))


def acknowledge_wildcards(role: IConstruct, reason: str, *arns: str) -> None:
    """Record why permissions of a role name resources with a wildcard.

    cdk-nag's ids of such findings hold the resource as the template will have it, so they are derived from it.
    """
    stack = Stack.of(role)
    acknowledge(role, reason, *(f"AwsSolutions-IAM5[Resource::{_as_reported(stack.resolve(arn))}]" for arn in arns))


def _as_reported(value: Any) -> str:
    """Flatten a template's value as cdk-nag does: references become names in angle brackets."""
    if isinstance(value, str):
        return value
    ((function, argument),) = value.items()
    if function == "Fn::Join":
        return str(argument[0]).join(_as_reported(part) for part in argument[1])
    if function == "Fn::ImportValue":
        return str(argument)
    return f"<{'.'.join(argument) if isinstance(argument, list) else argument}>"
