"""The API: routes, streaming, limits, checked requests, and refusals that OpenAI's clients understand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from cfnlint.jsonschema import StandardValidator
from infrastructure.support import ROOT, Zone, proxy_function, text

MINUTES_15 = 15 * 60
ROUTES = {
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model+}"),
    ("POST", "/"),
    ("POST", "/generate"),
    ("POST", "/generate_stream"),
    ("POST", "/tokenize"),
    ("GET", "/info"),
    ("POST", "/invocations"),
    ("GET", "/health"),
    ("GET", "/openapi.json"),
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
        # The root is an attribute of the API.
        (r.properties["HttpMethod"], paths.get(r.properties["ResourceId"].get("Ref"), "/")): dict(r.properties)
        for r in zone.resources("AWS::ApiGateway::Method")
    }


def test_routes_are_those_of_the_proxy(dev: Zone) -> None:
    assert set(_methods(dev)) == ROUTES


def test_every_method_is_validated(zone: Zone) -> None:
    validator = zone.one("AWS::ApiGateway::RequestValidator")
    assert validator.properties["ValidateRequestBody"] is True
    assert validator.properties["ValidateRequestParameters"] is True
    for route, method in _methods(zone).items():
        assert method["RequestValidatorId"] == {"Ref": validator.logical_id}
        # An engine's own route takes what the engine takes.
        assert ("RequestModels" in method) == (route[0] == "POST" and route[1] != "/invocations"), route


def test_responses_stream_and_end_within_15_minutes(zone: Zone) -> None:
    function = proxy_function(zone)
    timeout = function.properties["Timeout"]
    assert timeout == zone.plan.environment.gateway.request_timeout_seconds
    for method in _methods(zone).values():
        integration = method["Integration"]
        assert integration["Type"] == "AWS_PROXY"
        assert integration["ResponseTransferMode"] == "STREAM"
        assert text(integration["Uri"]).endswith("/response-streaming-invocations")
        assert ":lambda:path/2021-11-15/functions/" in text(integration["Uri"])
        assert timeout * 1000 <= integration["TimeoutInMillis"] <= MINUTES_15 * 1000


def test_the_api_is_regional_or_private(zone: Zone) -> None:
    """An edge-optimised API ends a stream that is silent for 30 seconds."""
    configuration = zone.one("AWS::ApiGateway::RestApi").properties["EndpointConfiguration"]
    if zone.plan.environment.gateway.private:
        assert configuration["Types"] == ["PRIVATE"]
        assert len(configuration["VpcEndpointIds"]) == 1
    else:
        assert configuration == {"Types": ["REGIONAL"]}


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
    who = {"keys": {"tenant", "keyId"}, "iam": {"userArn"}, "cognito": {"subject"}}
    assert {"requestId", "status", "resourcePath", "responseLatency"} <= set(fields)
    assert who[zone.plan.environment.access.method] <= set(fields)
    variables = set(re.findall(r"\$context\.[A-Za-z._]+", form))
    known = {f"$context.authorizer.{name}" for name in ("tenant", "key_id", "latency", "claims.sub")}
    assert {v for v in variables if "authorizer" in v} <= known
    assert not [v for v in variables if re.search(r"identity\.apiKey$|path$|requestOverride|\.header", v)]
    assert "$input" not in form


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        ({"model": "m", "messages": []}, True),
        ({"messages": "what is wrong with it, the function says"}, True),
        ({}, True),
        ([], False),
        ("hi", False),
        (None, False),
        (7, False),
    ],
)
def test_bodies_have_to_be_objects(dev: Zone, body: object, valid: bool) -> None:
    """With a real validator of JSON schemas, as API Gateway applies these models."""
    (model,) = dev.resources("AWS::ApiGateway::Model")
    schema = {key: value for key, value in model.properties["Schema"].items() if key != "$schema"}
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
    signed = zone.plan.environment.access.method == "iam"
    assert found == {
        "UNAUTHORIZED": "401",
        "ACCESS_DENIED": "403",
        "EXPIRED_TOKEN": "401",
        "INVALID_API_KEY": "403",
        # Without a signature API Gateway tells an unknown route and an unknown caller by the same word.
        "MISSING_AUTHENTICATION_TOKEN": "401" if signed else "404",
        "INVALID_SIGNATURE": "401" if signed else "404",
        "BAD_REQUEST_BODY": "400",
        "WAF_FILTERED": "403",
        "THROTTLED": "429",
        "QUOTA_EXCEEDED": "429",
        "AUTHORIZER_FAILURE": "503",
        "AUTHORIZER_CONFIGURATION_ERROR": "503",
        "DEFAULT_4XX": None,
        "DEFAULT_5XX": None,
    }


def test_a_missing_key_is_an_invalid_one_as_openai_says(dev: Zone) -> None:
    (response,) = [
        r.properties
        for r in dev.resources("AWS::ApiGateway::GatewayResponse")
        if r.properties["ResponseType"] == "UNAUTHORIZED"
    ]
    error = json.loads(response["ResponseTemplates"]["application/json"])["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert "Bearer" in error["message"]
    assert "x-api-key" in error["message"]


def test_users_of_a_pool_are_asked_for_an_id_token(synthesise: Callable[[str], Zone]) -> None:
    """Without scopes API Gateway takes no access token, and so nothing that client credentials give."""
    zone = synthesise("pool")
    assert not [method for method in _methods(zone).values() if "AuthorizationScopes" in method]
    (response,) = [
        r.properties
        for r in zone.resources("AWS::ApiGateway::GatewayResponse")
        if r.properties["ResponseType"] == "UNAUTHORIZED"
    ]
    assert "ID token" in json.loads(response["ResponseTemplates"]["application/json"])["error"]["message"]


def test_clients_retry_when_throttled_but_not_when_the_quota_is_gone(dev: Zone) -> None:
    headers = {
        r.properties["ResponseType"]: r.properties.get("ResponseParameters", {})
        for r in dev.resources("AWS::ApiGateway::GatewayResponse")
    }
    assert headers["THROTTLED"] == {"gatewayresponse.header.Retry-After": "'1'"}
    assert headers["AUTHORIZER_CONFIGURATION_ERROR"] == headers["AUTHORIZER_FAILURE"]
    assert headers["AUTHORIZER_FAILURE"] == headers["THROTTLED"]
    assert headers["QUOTA_EXCEEDED"] == {"gatewayresponse.header.x-should-retry": "'false'"}


def test_the_proxy_starts_under_the_web_adapter(zone: Zone) -> None:
    function = proxy_function(zone)
    properties, region = function.properties, zone.plan.environment.region
    assert properties["Handler"] == "run.sh"
    assert properties["Runtime"] == "python3.13"
    assert properties["Architectures"] == ["x86_64"]
    assert properties["Layers"] == [f"arn:aws:lambda:{region}:753240598075:layer:LambdaAdapterLayerX86:26"]
    variables = dict(properties["Environment"]["Variables"])
    cache = variables.pop("MODELZONE_CACHE_TABLE", None)
    assert (cache is not None) == zone.plan.caches_answers
    assert cache is None or text(cache).startswith("<CacheTable")
    assert variables == {
        "MODELZONE_ENVIRONMENT": zone.name,
        "MODELZONE_REGISTRY_PATH": f"/modelzone/{zone.name}/deployments",
        "MODELZONE_GATEWAY_PATH": f"/modelzone/{zone.name}/gateway",
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
    keys = {"KeysTableName"} if zone.plan.environment.access.method == "keys" else set()
    assert outputs["GatewayStack"] == {"ApiUrl", "ApiId", "StageName"} | keys
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
