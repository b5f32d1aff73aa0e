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
from zone_constructs.functions import RUNTIME, RUNTIME_REASON, function_role
from zone_constructs.logs import EncryptedLogs
from zone_constructs.network import ZoneNetwork

__all__ = ["InvokeProxy"]

# AWS's own account and version of the adapter; awslabs/aws-lambda-web-adapter.
_ADAPTER_LAYER = "arn:aws:lambda:{region}:753240598075:layer:LambdaAdapterLayerX86:26"
_PORT = "8080"


class InvokeProxy(Construct):
    """Calls the environment's endpoints, which it learns from the registry.

    Attributes
    ----------
    function
        What the API integrates with.
    role
        Deployments add the right to invoke their own endpoint to it.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        environment_name: str,
        region: str,
        registry_path: str,
        timeout_seconds: int,
        network: ZoneNetwork,
        logs: EncryptedLogs,
    ) -> None:
        super().__init__(scope, construct_id)
        log_group = logs.log_group(self, "Logs")
        self.role = function_role(
            self, "Role", description="Reads the registry and calls endpoints", log_group=log_group, in_vpc=True
        )
        self._allow_registry(registry_path)
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
            security_groups=[
                network.client_security_group(self, "SecurityGroup", description="Modelzone invoke proxy")
            ],
            environment={
                "MODELZONE_ENVIRONMENT": environment_name,
                "MODELZONE_REGISTRY_PATH": registry_path,
                "AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap",
                "AWS_LWA_INVOKE_MODE": "response_stream",
                "AWS_LWA_PORT": _PORT,
                "AWS_LWA_READINESS_CHECK_PATH": "/health",
                "LOG_LEVEL": "INFO",
            },
        )
        acknowledge(self.function, RUNTIME_REASON, "AwsSolutions-L1")

    def _allow_registry(self, registry_path: str) -> None:
        self.role.add_to_policy(
            iam.PolicyStatement(
                sid="ReadRegistry",
                actions=["ssm:GetParametersByPath"],
                resources=[
                    Stack.of(self).format_arn(
                        service="ssm", resource="parameter", resource_name=registry_path.removeprefix("/")
                    )
                ],
            )
        )
