"""What functions share: their runtime, and roles that are narrower than Lambda's managed policies."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from zone_constructs.acknowledge import acknowledge_wildcards

__all__ = ["NETWORK_ACTIONS", "RUNTIME", "RUNTIME_REASON", "function_role"]

RUNTIME = lambda_.Runtime.PYTHON_3_13
RUNTIME_REASON = "AWS supports Python 3.13 until 2029; a newer one is taken when this project is tested with it."

# What Lambda needs to put a function into a VPC.
NETWORK_ACTIONS = (
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
)


def function_role(
    scope: Construct, construct_id: str, *, description: str, log_group: logs.ILogGroup, in_vpc: bool
) -> iam.Role:
    """A role that may write to one log group and, for a function in a VPC, manage its network interfaces."""
    role = iam.Role(
        scope, construct_id, description=description, assumed_by=iam.ServicePrincipal("lambda.amazonaws.com")
    )
    log_group.grant_write(role)
    if in_vpc:
        role.add_to_policy(
            iam.PolicyStatement(
                sid="NetworkInterfacesOfTheFunction",
                actions=list(NETWORK_ACTIONS),
                resources=["*"],
            )
        )
        acknowledge_wildcards(
            role,
            "Lambda manages the function's network interfaces with these; their ids are unknown beforehand and the "
            "describe actions know no resources.",
            "*",
        )
    return role
