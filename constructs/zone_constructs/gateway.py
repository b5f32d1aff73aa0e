"""The API of an environment: REST, with response streaming, behind keys, signatures or a user pool."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from modelzone.settings import Environment
from zone_constructs.acknowledge import acknowledge
from zone_constructs.gateway_access import GatewayAccess, resource_policy
from zone_constructs.gateway_firewall import GatewayFirewall
from zone_constructs.gateway_keys import GatewayKeys
from zone_constructs.gateway_responses import add_gateway_responses
from zone_constructs.gateway_routes import BINARY_MEDIA_TYPES, add_routes
from zone_constructs.gateway_tenants import UsagePlans
from zone_constructs.logs import EncryptedLogs

__all__ = ["Gateway"]

_STAGE = "api"


class Gateway(Construct):
    """Routes of the invoke proxy, and who may call them how often and from where.

    Attributes
    ----------
    api
        The REST API; regional or private, because an edge-optimised one ends an idle stream after 30 seconds.
    keys
        With access by keys: their table and the authorizer.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        environment: Environment,
        handler: lambda_.IFunction,
        api_endpoint: ec2.IInterfaceVpcEndpoint | None,
        logs: EncryptedLogs,
    ) -> None:
        super().__init__(scope, construct_id)
        settings, access = environment.gateway, environment.access
        self.keys = GatewayKeys(self, "Keys", environment=environment, logs=logs) if access.method == "keys" else None
        self._access = GatewayAccess.build(self, access=access, keys=self.keys)
        self.api = self._build_api(environment, api_endpoint, logs)
        integration = apigateway.LambdaIntegration(
            handler,
            response_transfer_mode=apigateway.ResponseTransferMode.STREAM,
            timeout=Duration.seconds(settings.request_timeout_seconds),
            allow_test_invoke=False,
        )
        add_routes(self.api, access=self._access, integration=integration)
        add_gateway_responses(self.api, method=access.method)
        stage = self.api.deployment_stage
        if self.keys is not None:
            UsagePlans(self, "Usage", environment=environment, stage=stage)
        if settings.firewall is not None:
            GatewayFirewall(
                self, "Firewall", environment_name=environment.name, settings=settings.firewall, stage=stage
            )
        else:
            acknowledge(
                stage,
                "Callers prove who they are on every route and have limits; a web application firewall is a setting of "
                "the environment (gateway.firewall), which costs by the month.",
                "AwsSolutions-APIG3",
            )

    def _build_api(
        self, environment: Environment, api_endpoint: ec2.IInterfaceVpcEndpoint | None, logs: EncryptedLogs
    ) -> apigateway.RestApi:
        settings = environment.gateway
        access_logs = logs.log_group(self, "AccessLogs")
        api = apigateway.RestApi(
            self,
            "Api",
            rest_api_name=f"modelzone-{environment.name}",
            description=f"Modelzone {environment.name}: models as an API",
            endpoint_configuration=apigateway.EndpointConfiguration(
                types=[apigateway.EndpointType.PRIVATE if settings.private else apigateway.EndpointType.REGIONAL],
                vpc_endpoints=[api_endpoint] if api_endpoint is not None else None,
            ),
            policy=resource_policy(environment, api_endpoint=api_endpoint),
            api_key_source_type=self._access.api_key_source,
            binary_media_types=list(BINARY_MEDIA_TYPES),
            # A setting of the whole account and region: every other API there logs with this role too, so it stays.
            cloud_watch_role=True,
            cloud_watch_role_removal_policy=RemovalPolicy.RETAIN,
            deploy_options=apigateway.StageOptions(
                stage_name=_STAGE,
                throttling_rate_limit=settings.rate_limit_per_second,
                throttling_burst_limit=settings.burst_limit,
                logging_level=apigateway.MethodLoggingLevel.ERROR,
                # Traces hold whole requests, prompts and keys included.
                data_trace_enabled=False,
                metrics_enabled=True,
                access_log_destination=apigateway.LogGroupLogDestination(access_logs),
                access_log_format=self._access_log_format(),
            ),
        )
        # The API's address is an output of the stack under a name of ours.
        api.node.try_remove_child("Endpoint")
        execution_logs = logs.log_group(
            self, "ExecutionLogs", name=f"API-Gateway-Execution-Logs_{api.rest_api_id}/{_STAGE}"
        )
        # API Gateway would make the group itself, without a key and for ever.
        api.deployment_stage.node.add_dependency(execution_logs)
        role = api.node.find_child("CloudWatchRole")
        acknowledge(
            role,
            "The managed policy that API Gateway's own documentation asks for; it writes logs and nothing else.",
            "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/"
            "AmazonAPIGatewayPushToCloudWatchLogs]",
        )
        return api

    def _access_log_format(self) -> apigateway.AccessLogFormat:
        """Who called what with which result. No query strings, headers, keys or bodies."""
        field = apigateway.AccessLogField
        names = {
            "requestId": field.context_request_id(),
            "requestTime": field.context_request_time(),
            "sourceIp": field.context_identity_source_ip(),
            "method": field.context_http_method(),
            "resourcePath": field.context_resource_path(),
            "status": field.context_status(),
            "responseLength": field.context_response_length(),
            "responseLatency": field.context_response_latency(),
            "integrationStatus": field.context_integration_status(),
            "integrationLatency": field.context_integration_latency(),
            "errorType": field.context_error_response_type(),
            **self._access.logged_identity,
        }
        pairs = ",".join(f'"{name}":"{value}"' for name, value in names.items())
        return apigateway.AccessLogFormat.custom(f"{{{pairs}}}")
