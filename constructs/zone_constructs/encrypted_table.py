"""DynamoDB tables, encrypted with a key of the environment."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import RemovalPolicy, Stack
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

__all__ = ["EncryptedTable"]

# What DynamoDB asks of whoever uses a table with a customer's key: "Using customer managed keys" in its guide.
_USE_KEY_TO_READ = ("kms:Decrypt", "kms:DescribeKey")
_USE_KEY_TO_WRITE = (*_USE_KEY_TO_READ, "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo")


class EncryptedTable(Construct):
    """Items by one text key, billed by use, with point-in-time recovery; old items go by themselves.

    Attributes
    ----------
    table
        Its name is CloudFormation's: it begins with the stack's.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        partition_key: str,
        time_to_live_attribute: str,
        key: kms.IKey,
        retain_data: bool,
    ) -> None:
        super().__init__(scope, construct_id)
        self._key = key
        self.table = dynamodb.Table(
            self,
            "Table",
            partition_key=dynamodb.Attribute(name=partition_key, type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.CUSTOMER_MANAGED,
            encryption_key=key,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            time_to_live_attribute=time_to_live_attribute,
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if retain_data else RemovalPolicy.DESTROY,
        )

    def grant_get(self, role: iam.Role) -> None:
        """Allow reading items whose keys are known, one at a time."""
        self._grant(role, ["dynamodb:GetItem"], _USE_KEY_TO_READ)

    def grant_get_and_put(self, role: iam.Role) -> None:
        """Allow writing items too; never listing or deleting them."""
        self._grant(role, ["dynamodb:GetItem", "dynamodb:PutItem"], _USE_KEY_TO_WRITE)

    def _grant(self, role: iam.Role, actions: list[str], key_actions: tuple[str, ...]) -> None:
        role.add_to_policy(iam.PolicyStatement(actions=actions, resources=[self.table.table_arn]))
        role.add_to_policy(
            iam.PolicyStatement(
                actions=list(key_actions),
                resources=[self._key.key_arn],
                conditions={"StringEquals": {"kms:ViaService": f"dynamodb.{Stack.of(role).region}.amazonaws.com"}},
            )
        )
