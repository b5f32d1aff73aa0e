"""The API of an environment: REST, with response streaming, behind API keys with quotas."""

from __future__ import annotations

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from modelzone.settings import Gateway as GatewaySettings
from zone_constructs.acknowledge import acknowledge
from zone_constructs.gateway_responses import add_gateway_responses
from zone_constructs.logs import EncryptedLogs

__all__ = ["Gateway"]

_STAGE = "api"
_SCHEMA = apigateway.JsonSchema
_KIND = apigateway.JsonSchemaType


class Gateway(Construct):
    """Routes of the invoke proxy, and who may call them how often.

    Attributes
    ----------
    api
        The REST API; regional, because an edge-optimised one ends an idle stream after 30 seconds.
    api_key
        The first client's key; API Gateway makes its value, no template holds it.
    usage_plan
        Rate, burst and monthly quota of each of its keys.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        environment_name: str,
        settings: GatewaySettings,
        handler: lambda_.IFunction,
        logs: EncryptedLogs,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings = settings
        self._integration = apigateway.LambdaIntegration(
            handler,
            response_transfer_mode=apigateway.ResponseTransferMode.STREAM,
            timeout=Duration.seconds(settings.request_timeout_seconds),
            allow_test_invoke=False,
        )
        self.api = self._build_api(environment_name, logs)
        self._validator = self.api.add_request_validator(
            "Validator", validate_request_body=True, validate_request_parameters=True
        )
        self._build_routes()
        add_gateway_responses(self.api)
        self.api_key = apigateway.ApiKey(self, "Key", description=f"Modelzone {environment_name}: first client")
        self.usage_plan = self._build_usage_plan(environment_name)

    def _build_api(self, environment_name: str, logs: EncryptedLogs) -> apigateway.RestApi:
        access_logs = logs.log_group(self, "AccessLogs")
        api = apigateway.RestApi(
            self,
            "Api",
            rest_api_name=f"modelzone-{environment_name}",
            description=f"Modelzone {environment_name}: models as an API",
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            # A setting of the whole account and region: every other API there logs with this role too, so it stays.
            cloud_watch_role=True,
            cloud_watch_role_removal_policy=RemovalPolicy.RETAIN,
            deploy_options=apigateway.StageOptions(
                stage_name=_STAGE,
                throttling_rate_limit=self._settings.rate_limit_per_second,
                throttling_burst_limit=self._settings.burst_limit,
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
        acknowledge(
            api.deployment_stage,
            "Callers need an API key with a usage plan; a web application firewall is not part of this project.",
            "AwsSolutions-APIG3",
        )
        role = api.node.find_child("CloudWatchRole")
        acknowledge(
            role,
            "The managed policy that API Gateway's own documentation asks for; it writes logs and nothing else.",
            "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/"
            "AmazonAPIGatewayPushToCloudWatchLogs]",
        )
        return api

    @staticmethod
    def _access_log_format() -> apigateway.AccessLogFormat:
        """Who called what with which result. No query strings, headers, keys or bodies."""
        field = apigateway.AccessLogField
        names = {
            "requestId": field.context_request_id(),
            "requestTime": field.context_request_time(),
            "sourceIp": field.context_identity_source_ip(),
            "apiKeyId": field.context_identity_api_key_id(),
            "method": field.context_http_method(),
            "resourcePath": field.context_resource_path(),
            "status": field.context_status(),
            "responseLength": field.context_response_length(),
            "responseLatency": field.context_response_latency(),
            "integrationStatus": field.context_integration_status(),
            "integrationLatency": field.context_integration_latency(),
            "errorType": field.context_error_response_type(),
        }
        pairs = ",".join(f'"{name}":"{value}"' for name, value in names.items())
        return apigateway.AccessLogFormat.custom(f"{{{pairs}}}")

    def _build_routes(self) -> None:
        v1 = self.api.root.add_resource("v1")
        models = v1.add_resource("models")
        chat = v1.add_resource("chat").add_resource("completions")
        generate = self._build_generate_model()
        self._add_method(chat, "POST", self._build_chat_model())
        self._add_method(models, "GET")
        # Greedy: model ids of the hub hold a slash.
        self._add_method(models.add_resource("{model+}"), "GET", path_parameter="model")
        self._add_method(self.api.root.add_resource("generate"), "POST", generate)
        self._add_method(self.api.root.add_resource("generate_stream"), "POST", generate)
        self._add_method(self.api.root.add_resource("health"), "GET")
        # Everything else: the function says 404 as OpenAI does. API Gateway itself takes an Authorization header on an
        # unknown route for a signature and answers 403.
        self._add_method(self.api.root.add_resource("{proxy+}"), "ANY")

    def _add_method(
        self,
        resource: apigateway.Resource,
        verb: str,
        body: apigateway.Model | None = None,
        *,
        path_parameter: str | None = None,
    ) -> None:
        method = resource.add_method(
            verb,
            self._integration,
            api_key_required=True,
            request_validator=self._validator,
            request_models={"application/json": body} if body else None,
            request_parameters={f"method.request.path.{path_parameter}": True} if path_parameter else None,
        )
        acknowledge(
            method,
            "Every method needs an API key that belongs to a usage plan.",
            "AwsSolutions-APIG4",
            "AwsSolutions-COG4",
        )

    def _build_chat_model(self) -> apigateway.Model:
        message = _SCHEMA(
            type=_KIND.OBJECT, required=["role"], properties={"role": _SCHEMA(type=_KIND.STRING, min_length=1)}
        )
        return self.api.add_model(
            "ChatCompletion",
            model_name="ChatCompletion",
            content_type="application/json",
            schema=_SCHEMA(
                schema=apigateway.JsonSchemaVersion.DRAFT4,
                type=_KIND.OBJECT,
                required=["model", "messages"],
                properties={
                    "model": _SCHEMA(type=_KIND.STRING, min_length=1),
                    "messages": _SCHEMA(type=_KIND.ARRAY, min_items=1, items=message),
                    "stream": _SCHEMA(type=[_KIND.BOOLEAN, _KIND.NULL]),
                },
            ),
        )

    def _build_generate_model(self) -> apigateway.Model:
        return self.api.add_model(
            "Generate",
            model_name="Generate",
            content_type="application/json",
            schema=_SCHEMA(
                schema=apigateway.JsonSchemaVersion.DRAFT4,
                type=_KIND.OBJECT,
                required=["inputs"],
                properties={
                    "inputs": _SCHEMA(type=_KIND.STRING, min_length=1),
                    "parameters": _SCHEMA(type=[_KIND.OBJECT, _KIND.NULL]),
                },
            ),
        )

    def _build_usage_plan(self, environment_name: str) -> apigateway.UsagePlan:
        plan = self.api.add_usage_plan(
            "UsagePlan",
            name=f"modelzone-{environment_name}",
            throttle=apigateway.ThrottleSettings(
                rate_limit=self._settings.rate_limit_per_second, burst_limit=self._settings.burst_limit
            ),
            quota=apigateway.QuotaSettings(limit=self._settings.monthly_quota, period=apigateway.Period.MONTH),
        )
        plan.add_api_key(self.api_key)
        plan.add_api_stage(stage=self.api.deployment_stage)
        return plan
