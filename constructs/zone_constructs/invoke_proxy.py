"""The function that answers the API: an ASGI app under the Lambda Web Adapter, because only that can stream."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from zone_constructs import lambda_package
from zone_constructs.acknowledge import acknowledge
from zone_constructs.encrypted_table import EncryptedTable
from zone_constructs.functions import NETWORK_ACTIONS, RUNTIME, RUNTIME_REASON, function_role
from zone_constructs.logs import EncryptedLogs
from zone_constructs.network import ZoneNetwork

__all__ = ["InvokeProxy"]

# AWS's own account and version of the adapter; awslabs/aws-lambda-web-adapter.
_ADAPTER_LAYER = "arn:aws:lambda:{region}:753240598075:layer:LambdaAdapterLayerX86:26"
_PORT = "8080"


class InvokeProxy(Construct):
    """Calls the environment's endpoints, which it learns from the registry.

    Parameters
    ----------
    cache
        Where answers are kept; None: nowhere.

    Attributes
    ----------
    function
        What the API integrates with.
    role
        Deployments add the rights to invoke their own endpoint and to read its tokenizer to it.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        environment_name: str,
        region: str,
        registry_path: str,
        gateway_path: str,
        cache: EncryptedTable | None,
        timeout_seconds: int,
        network: ZoneNetwork,
        logs: EncryptedLogs,
    ) -> None:
        super().__init__(scope, construct_id)
        log_group = logs.log_group(self, "Logs")
        self.role = function_role(
            self, "Role", description="Reads the registry and calls endpoints", log_group=log_group, in_vpc=True
        )
        self._allow_parameters(registry_path, gateway_path)
        if cache is not None:
            cache.grant_get_and_put(self.role)
        security_group = network.client_security_group(self, "SecurityGroup", description="Modelzone invoke proxy")
        # Tokenizers lie in S3, kept answers in DynamoDB; all else has an interface endpoint.
        network.allow_gateway_endpoints(security_group, why="S3 and DynamoDB, through their gateway endpoints")
        self.function = lambda_.Function(
            self,
            "Function",
            description="OpenAI and TGI routes in front of SageMaker endpoints",
            runtime=RUNTIME,
            architecture=lambda_.Architecture.X86_64,
            handler="run.sh",
            code=lambda_.Code.from_asset(str(lambda_package.stage("invoke_proxy"))),
            layers=[lambda_.LayerVersion.from_layer_version_arn(self, "Adapter", _ADAPTER_LAYER.format(region=region))],
            timeout=Duration.seconds(timeout_seconds),
            memory_size=1024,
            role=self.role,
            log_group=log_group,
            vpc=network.vpc,
            vpc_subnets=network.private_subnets,
            security_groups=[security_group],
            environment={
                "MODELZONE_ENVIRONMENT": environment_name,
                "MODELZONE_REGISTRY_PATH": registry_path,
                "MODELZONE_GATEWAY_PATH": gateway_path,
                **({"MODELZONE_CACHE_TABLE": cache.table.table_name} if cache is not None else {}),
                "AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap",
                "AWS_LWA_INVOKE_MODE": "response_stream",
                "AWS_LWA_PORT": _PORT,
                "AWS_LWA_READINESS_CHECK_PATH": "/health",
                "LOG_LEVEL": "INFO",
            },
        )
        acknowledge(self.function, RUNTIME_REASON, "AwsSolutions-L1")
        self._deny_network_rights()

    def _allow_parameters(self, *paths: str) -> None:
        """A path allows everything below it."""
        self.role.add_to_policy(
            iam.PolicyStatement(
                sid="ReadRegistry",
                actions=["ssm:GetParametersByPath"],
                resources=[
                    Stack.of(self).format_arn(service="ssm", resource="parameter", resource_name=path.removeprefix("/"))
                    for path in paths
                ],
            )
        )

    def _deny_network_rights(self) -> None:
        """Lambda makes the function's network interfaces with the function's role; the function's code may not.

        Lambda's guide for functions in a VPC has this statement: the key is there only when the code itself calls.
        """
        iam.Policy(
            self,
            # A policy of its own: the function waits for the role's own one, which so cannot name the function.
            "NoNetworkRights",
            policy_name="no-network-rights",
            roles=[self.role],
            statements=[
                iam.PolicyStatement(
                    sid="NotByTheCodeItself",
                    effect=iam.Effect.DENY,
                    actions=list(NETWORK_ACTIONS),
                    resources=["*"],
                    conditions={"ArnEquals": {"lambda:SourceFunctionArn": self.function.function_arn}},
                )
            ],
        )
