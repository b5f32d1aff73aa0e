"""Access by this project's own keys: the table of their hashes, and the function that looks them up."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

import hashlib

from aws_cdk import Duration
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from modelzone.settings import Environment
from zone_constructs import lambda_package
from zone_constructs.acknowledge import acknowledge
from zone_constructs.encrypted_table import EncryptedTable
from zone_constructs.functions import RUNTIME, RUNTIME_REASON, function_role
from zone_constructs.logs import EncryptedLogs

__all__ = ["GatewayKeys", "meter_key"]


def meter_key(environment_name: str, tenant: str) -> str:
    """Value of the API key that a tenant's requests are counted by; the authorizer has the same rule.

    No secret: API Gateway takes it from the authorizer only, never from a request.
    """
    return "modelzone" + hashlib.sha256(f"{environment_name}\0{tenant}".encode()).hexdigest()


class GatewayKeys(Construct):
    """Who has which key, and the authorizer.

    Attributes
    ----------
    table
        Keys by their id; of a token it holds the SHA-256 only.
    authorizer
        For the API's methods.
    """

    def __init__(self, scope: Construct, construct_id: str, *, environment: Environment, logs: EncryptedLogs) -> None:
        super().__init__(scope, construct_id)
        self._table = EncryptedTable(
            self,
            "Store",
            partition_key="key_id",
            # Not what ends a key: the authorizer does that by itself, and records stay a while to be looked at.
            time_to_live_attribute="purge",
            key=logs.key,
            retain_data=environment.retain_data,
        )
        self.table = self._table.table
        log_group = logs.log_group(self, "Logs")
        # Not in the VPC: it speaks to DynamoDB only, whose endpoint the network then need not have.
        role = function_role(
            self, "Role", description="Looks keys of the gateway up", log_group=log_group, in_vpc=False
        )
        self._table.grant_get(role)
        self.function = lambda_.Function(
            self,
            "Function",
            description="Finds out whose a request is",
            runtime=RUNTIME,
            architecture=lambda_.Architecture.X86_64,
            handler="authorizer.handler.handler",
            code=lambda_.Code.from_asset(str(lambda_package.stage("authorizer"))),
            timeout=Duration.seconds(10),
            memory_size=512,
            role=role,
            log_group=log_group,
            environment={
                "KEYS_TABLE_NAME": self.table.table_name,
                "KEY_CACHE_SECONDS": str(environment.access.key_cache_seconds),
                "MODELZONE_ENVIRONMENT": environment.name,
            },
        )
        acknowledge(self.function, RUNTIME_REASON, "AwsSolutions-L1")
        self.authorizer = apigateway.RequestAuthorizer(
            self,
            "Authorizer",
            handler=self.function,
            # A token comes in one of two headers, and API Gateway refuses a request that lacks a named one. So it
            # remembers nothing; the function does.
            identity_sources=[],
            results_cache_ttl=Duration.seconds(0),
        )
        # The CDK writes an empty text, which is no list of identity sources either.
        definition = self.authorizer.node.default_child
        if isinstance(definition, apigateway.CfnAuthorizer):
            definition.add_property_deletion_override("IdentitySource")
