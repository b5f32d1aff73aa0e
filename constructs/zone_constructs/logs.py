"""Encrypted log groups, and the key that encrypts them, the environment's notices and the gateway's tables."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from aws_cdk import ArnFormat, Duration, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

__all__ = ["EncryptedLogs"]

_RETENTION: Mapping[int, logs.RetentionDays] = MappingProxyType(
    {
        7: logs.RetentionDays.ONE_WEEK,
        14: logs.RetentionDays.TWO_WEEKS,
        30: logs.RetentionDays.ONE_MONTH,
        60: logs.RetentionDays.TWO_MONTHS,
        90: logs.RetentionDays.THREE_MONTHS,
        180: logs.RetentionDays.SIX_MONTHS,
        365: logs.RetentionDays.ONE_YEAR,
    }
)


class EncryptedLogs(Construct):
    """The key of an environment's log groups, and a maker of such groups for any of its stacks.

    Attributes
    ----------
    key
        Usable by CloudWatch Logs for groups of this account and region, by alarms that send notices, and by roles of
        the account that are allowed to.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, environment_name: str, retention_days: int, retain_data: bool
    ) -> None:
        super().__init__(scope, construct_id)
        self._retention = _RETENTION[retention_days]
        self._removal_policy = RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if retain_data else RemovalPolicy.DESTROY
        self.key = self._build_key(environment_name)

    def log_group(self, scope: Construct, construct_id: str, *, name: str | None = None) -> logs.LogGroup:
        """Make a log group with the environment's retention below another construct.

        Without a name CloudFormation makes one, so that a group that outlives its stack never blocks the next one.
        """
        return logs.LogGroup(
            scope,
            construct_id,
            log_group_name=name,
            encryption_key=self.key,
            retention=self._retention,
            removal_policy=self._removal_policy,
        )

    def _build_key(self, environment_name: str) -> kms.Key:
        key = kms.Key(
            self,
            "Key",
            alias=f"alias/modelzone/{environment_name}/logs",
            description=f"Modelzone {environment_name}: log groups, notices, tables of the gateway",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=self._removal_policy,
        )
        stack = Stack.of(self)
        key.add_to_resource_policy(
            iam.PolicyStatement(
                sid="LogGroupsOfThisAccount",
                principals=[iam.ServicePrincipal(f"logs.{stack.region}.amazonaws.com")],
                actions=["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
                resources=["*"],
                conditions={
                    "ArnLike": {
                        "kms:EncryptionContext:aws:logs:arn": stack.format_arn(
                            service="logs",
                            resource="log-group",
                            resource_name="*",
                            arn_format=ArnFormat.COLON_RESOURCE_NAME,
                        )
                    }
                },
            )
        )
        # An alarm publishes to an encrypted topic with a service's rights.
        key.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsOfThisAccount",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["kms:Decrypt", "kms:GenerateDataKey*"],
                resources=["*"],
                conditions={"StringEquals": {"aws:SourceAccount": stack.account}},
            )
        )
        return key
