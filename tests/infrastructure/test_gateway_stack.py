"""The API: streaming, keys, limits, checked requests, and refusals that OpenAI's clients understand."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from cfnlint.jsonschema import StandardValidator
from infrastructure.support import ROOT, Zone, text

MINUTES_15 = 15 * 60
ROUTES = {
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model+}"),
    ("POST", "/generate"),
    ("POST", "/generate_stream"),
    ("GET", "/health"),
    # The function says 404 itself.
    ("ANY", "/{proxy+}"),
}


def _paths(zone: Zone) -> dict[str, str]:
    """Paths of the API's resources by logical id."""
    parts = {r.logical_id: r.properties for r in zone.resources("AWS::ApiGateway::Resource")}

    def path(logical_id: str) -> str:
        properties = parts[logical_id]
        parent = properties["ParentId"].get("Ref")
        return (path(parent) if parent else "") + "/" + properties["PathPart"]

    return {logical_id: path(logical_id) for logical_id in parts}


def _methods(zone: Zone) -> dict[tuple[str, str], dict[str, Any]]:
    paths = _paths(zone)
    return {
        (r.properties["HttpMethod"], paths[r.properties["ResourceId"]["Ref"]]): dict(r.properties)
        for r in zone.resources("AWS::ApiGateway::Method")
    }


def test_routes_are_those_of_the_proxy(dev: Zone) -> None:
    assert set(_methods(dev)) == ROUTES


def test_every_method_needs_a_key_and_is_validated(zone: Zone) -> None:
    validator = zone.one("AWS::ApiGateway::RequestValidator")
    assert validator.properties["ValidateRequestBody"] is True
    assert validator.properties["ValidateRequestParameters"] is True
    for route, method in _methods(zone).items():
        assert method["ApiKeyRequired"] is True, route
        assert method["RequestValidatorId"] == {"Ref": validator.logical_id}
        assert ("RequestModels" in method) == (route[0] == "POST")


def test_responses_stream_and_end_within_15_minutes(zone: Zone) -> None:
    (function,) = zone.resources("AWS::Lambda::Function", stack="GatewayStack")
    timeout = function.properties["Timeout"]
    assert timeout == zone.plan.environment.gateway.request_timeout_seconds
    for method in _methods(zone).values():
        integration = method["Integration"]
        assert integration["Type"] == "AWS_PROXY"
        assert integration["ResponseTransferMode"] == "STREAM"
        assert text(integration["Uri"]).endswith("/response-streaming-invocations")
        assert ":lambda:path/2021-11-15/functions/" in text(integration["Uri"])
        assert timeout * 1000 <= integration["TimeoutInMillis"] <= MINUTES_15 * 1000


def test_the_api_is_regional(zone: Zone) -> None:
    """An edge-optimised API ends a stream that is silent for 30 seconds."""
    assert zone.one("AWS::ApiGateway::RestApi").properties["EndpointConfiguration"] == {"Types": ["REGIONAL"]}


def test_the_stage_throttles_and_traces_no_data(zone: Zone) -> None:
    limits = zone.plan.environment.gateway
    stage = zone.one("AWS::ApiGateway::Stage").properties
    assert stage["StageName"] == "api"
    (settings,) = stage["MethodSettings"]
    assert settings["DataTraceEnabled"] is False
    assert settings["LoggingLevel"] == "ERROR"
    assert settings["ThrottlingRateLimit"] == limits.rate_limit_per_second
    assert settings["ThrottlingBurstLimit"] == limits.burst_limit


def test_execution_logs_go_to_an_encrypted_group_of_ours(zone: Zone) -> None:
    """API Gateway makes the group of this name itself, without key and expiry, unless it is there before the stage."""
    stage = zone.one("AWS::ApiGateway::Stage")
    api = zone.one("AWS::ApiGateway::RestApi")
    (group,) = [
        r for r in zone.resources("AWS::Logs::LogGroup", stack="GatewayStack") if "LogGroupName" in r.properties
    ]
    assert text(group.properties["LogGroupName"]) == f"API-Gateway-Execution-Logs_<{api.logical_id}>/api"
    assert group.logical_id in stage.body["DependsOn"]


def test_access_logs_hold_no_queries_headers_keys_or_bodies(zone: Zone) -> None:
    form = zone.one("AWS::ApiGateway::Stage").properties["AccessLogSetting"]["Format"]
    fields = json.loads(form)
    assert {"requestId", "status", "resourcePath", "apiKeyId", "responseLatency"} <= set(fields)
    variables = set(re.findall(r"\$context\.[A-Za-z.]+", form))
    assert not [v for v in variables if re.search(r"identity\.apiKey$|path$|requestOverride|authorizer|\.header", v)]
    assert "$input" not in form


def test_the_key_has_no_value_here_and_belongs_to_a_limited_plan(zone: Zone) -> None:
    limits = zone.plan.environment.gateway
    key = zone.one("AWS::ApiGateway::ApiKey")
    plan = zone.one("AWS::ApiGateway::UsagePlan")
    assert "Value" not in key.properties
    assert plan.properties["Throttle"] == {
        "RateLimit": limits.rate_limit_per_second,
        "BurstLimit": limits.burst_limit,
    }
    assert plan.properties["Quota"] == {"Limit": limits.monthly_quota, "Period": "MONTH"}
    assert zone.one("AWS::ApiGateway::UsagePlanKey").properties["KeyId"] == {"Ref": key.logical_id}
    (stage,) = plan.properties["ApiStages"]
    assert stage["Stage"] == {"Ref": zone.one("AWS::ApiGateway::Stage").logical_id}


@pytest.mark.parametrize(
    ("model", "body", "valid"),
    [
        ("ChatCompletion", {"model": "m", "messages": [{"role": "user", "content": "hi"}]}, True),
        ("ChatCompletion", {"model": "m", "messages": [{"role": "assistant", "content": None}], "stream": None}, True),
        ("ChatCompletion", {"model": "m", "messages": []}, False),
        ("ChatCompletion", {"model": "m", "messages": "hi"}, False),
        ("ChatCompletion", {"model": "m", "messages": [{"content": "hi"}]}, False),
        ("ChatCompletion", {"messages": [{"role": "user", "content": "hi"}]}, False),
        ("ChatCompletion", {"model": 1, "messages": [{"role": "user", "content": "hi"}]}, False),
        ("ChatCompletion", {"model": "m", "messages": [{"role": "user"}], "stream": "yes"}, False),
        ("ChatCompletion", [], False),
        ("Generate", {"inputs": "hi"}, True),
        ("Generate", {"inputs": "hi", "parameters": {"max_new_tokens": 5}, "model": "m"}, True),
        ("Generate", {"inputs": ["hi"]}, False),
        ("Generate", {"inputs": ""}, False),
        ("Generate", {"parameters": {}}, False),
    ],
)
def test_request_bodies_are_checked(dev: Zone, model: str, body: object, valid: bool) -> None:
    """With a real validator of JSON schemas, as API Gateway applies these models."""
    schemas = {r.properties["Name"]: r.properties["Schema"] for r in dev.resources("AWS::ApiGateway::Model")}
    schema = {key: value for key, value in schemas[model].items() if key != "$schema"}
    assert (not list(StandardValidator(schema).iter_errors(body))) is valid


def test_refusals_have_the_shape_of_openais_errors(zone: Zone) -> None:
    found = {}
    for response in zone.resources("AWS::ApiGateway::GatewayResponse"):
        template = response.properties["ResponseTemplates"]["application/json"]
        # What API Gateway puts in: a bare word.
        body = template.replace("$context.error.responseType", "WORD")
        assert "$" not in body, "API Gateway knows no other variables here"
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        found[response.properties["ResponseType"]] = response.properties.get("StatusCode")
    assert found == {
        "INVALID_API_KEY": "403",
        "MISSING_AUTHENTICATION_TOKEN": "404",
        "INVALID_SIGNATURE": "404",
        "BAD_REQUEST_BODY": "400",
        "THROTTLED": "429",
        "QUOTA_EXCEEDED": "429",
        "DEFAULT_4XX": None,
        "DEFAULT_5XX": None,
    }


def test_clients_retry_when_throttled_but_not_when_the_quota_is_gone(dev: Zone) -> None:
    headers = {
        r.properties["ResponseType"]: r.properties.get("ResponseParameters", {})
        for r in dev.resources("AWS::ApiGateway::GatewayResponse")
    }
    assert headers["THROTTLED"] == {"gatewayresponse.header.Retry-After": "'1'"}
    assert headers["QUOTA_EXCEEDED"] == {"gatewayresponse.header.x-should-retry": "'false'"}


def test_the_proxy_starts_under_the_web_adapter(zone: Zone) -> None:
    (function,) = zone.resources("AWS::Lambda::Function", stack="GatewayStack")
    properties, region = function.properties, zone.plan.environment.region
    assert properties["Handler"] == "run.sh"
    assert properties["Runtime"] == "python3.13"
    assert properties["Architectures"] == ["x86_64"]
    assert properties["Layers"] == [f"arn:aws:lambda:{region}:753240598075:layer:LambdaAdapterLayerX86:26"]
    assert properties["Environment"]["Variables"] == {
        "MODELZONE_ENVIRONMENT": zone.name,
        "MODELZONE_REGISTRY_PATH": f"/modelzone/{zone.name}/deployments",
        "AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap",
        "AWS_LWA_INVOKE_MODE": "response_stream",
        "AWS_LWA_PORT": "8080",
        "AWS_LWA_READINESS_CHECK_PATH": "/health",
        "LOG_LEVEL": "INFO",
    }
    assert "ReservedConcurrentExecutions" not in properties


def test_the_proxys_package_is_what_the_adapter_expects(dev: Zone) -> None:
    assets = json.loads((dev.folder / "GatewayStack.assets.json").read_text(encoding="utf-8"))["files"]
    (folder,) = [
        dev.folder / asset["source"]["path"]
        for asset in assets.values()
        if asset["source"]["packaging"] == "zip" and (dev.folder / asset["source"]["path"] / "run.sh").exists()
    ]
    assert (folder / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (folder / "invoke_proxy" / "app.py").is_file()
    assert not (folder / "invoke_proxy" / "run.sh").exists()
    pinned = (ROOT / "lambda" / "invoke_proxy" / "requirements.txt").read_text(encoding="utf-8")
    for name, version in re.findall(r"^([a-z0-9_-]+)==(\S+)$", pinned, flags=re.MULTILINE):
        assert (folder / f"{name.replace('-', '_')}-{version}.dist-info").is_dir(), name


def test_outputs_are_the_contract(zone: Zone) -> None:
    outputs = {
        stack: {name for name in template.get("Outputs", {}) if not name.startswith("ExportsOutput")}
        for stack, template in zone.templates.items()
    }
    assert outputs["GatewayStack"] == {"ApiUrl", "ApiId", "StageName", "ApiKeyId"}
    shared = {"SharedBucketName", "SharedKeyArn", "SharedHubTokenArn"}
    own = zone.plan.environment.model_store is None
    assert outputs["ModelStoreStack"] == {"ModelBucketName", "HubTokenSecretArn"} | (shared if own else set())
    assert outputs["CompileStack"] == {
        "StateMachineArn",
        "DocumentName",
        "LogGroupName",
        "SubnetIds",
        "TopicArn",
        "LaunchTemplateIdInf2",
        *(f"Compile{deployment.camel_name}" for deployment in zone.plan.deployments),
    }
    for deployment in zone.plan.deployments:
        assert outputs[deployment.stack_id] == {"EndpointName", "ArtifactUri"}
    url = text(zone.templates["GatewayStack"]["Outputs"]["ApiUrl"]["Value"])
    assert re.fullmatch(r"https://<\w+>\.execute-api\.[a-z0-9-]+\.<AWS::URLSuffix>/<\w+>/", url)
