"""API Gateway in front of functions behind the Lambda Web Adapter's stand-in, over HTTP."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from integration.test_emulator_support import (
    RunningEmulator,
    Stacks,
    attribute,
    output,
    running_emulator,
    wait_until,
    zip_of,
)

BUCKET = "gateway-code"
MARKER = "MARKER-of-a-secret-prompt"
STREAM = "STREAM"
BUFFERED = "BUFFERED"

RUN = """#!/bin/sh
exec python3 app.py
"""

APP = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

print("application", "VERSION", "starts", flush=True)
if os.environ.get("FAIL_TO_START"):
    sys.exit("no such module")

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_GET(self): self.answer(b"")
    def do_POST(self): self.answer(self.rfile.read(int(self.headers["Content-Length"])))
    def answer(self, body):
        path = self.path.partition("?")[0]
        if path.startswith("/stream"):
            return self.stream()
        if path == "/slow":
            time.sleep(5)
        if path == "/die":
            os._exit(1)
        data = json.dumps({
            "version": "VERSION", "pid": os.getpid(), "path": self.path, "method": self.command,
            "headers": dict(self.headers), "body": body.decode(), "executable": sys.executable,
            "environment": dict(os.environ),
        }).encode()
        self.send_response(201 if path == "/created" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.end_headers()
        self.wfile.write(data)
    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for index in range(10_000 if self.path.startswith("/stream/endless") else 4):
            piece = b"data: VERSION %d\\\\n\\\\n" % index
            self.wfile.write(b"%x\\\\r\\\\n%s\\\\r\\\\n" % (len(piece), piece))
            self.wfile.flush()
            time.sleep(0.15)
            if self.path == "/stream/broken":
                os._exit(1)
        self.wfile.write(b"0\\\\r\\\\n\\\\r\\\\n")

ThreadingHTTPServer(("127.0.0.1", int(os.environ["AWS_LWA_PORT"])), Handler).serve_forever()
""".replace("\\\\", "\\")

AUTHORIZER = """
def handler(event, context):
    if event["authorizationToken"] == "fails":
        raise Exception("Unauthorized")
    effect = "Allow" if event["authorizationToken"] == "let-me-in" else "Deny"
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": event["methodArn"]}
    return {"principalId": "me", "policyDocument": {"Version": "2012-10-17", "Statement": [statement]},
            "context": {"tenant": "blue"}}
"""

# As the gateway's own: a bearer token or x-api-key, and the answer says by which key the request counts.
METER = """
import json
def handler(event, context):
    headers = {name.lower(): value for name, value in event["headers"].items()}
    token = headers.get("authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "")
    if token == "fails":
        raise RuntimeError("no table")
    if token == "nonsense":
        return "nonsense"
    if token not in ("blue", "red", "green", "stranger", "denied"):
        raise Exception("Unauthorized")
    api, stage, *_ = event["methodArn"].split("/")
    statement = {"Action": "execute-api:Invoke", "Effect": "Deny" if token == "denied" else "Allow",
                 "Resource": f"{api}/{stage}/*"}
    print("asked", json.dumps(event["requestContext"]))
    answer = {"principalId": "k1", "policyDocument": {"Version": "2012-10-17", "Statement": [statement]},
              "context": {"tenant": token, "key_id": "k1", "usageIdentifierKey": "meter-of-the-tenant-blue"}}
    return answer if token == "green" else {**answer, "usageIdentifierKey": "meter-of-the-tenant-" + token}
"""

TRUST = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda"}}]}


def upload(emulator: RunningEmulator, version: str) -> str:
    key = f"app-{version}.zip"
    package = zip_of({"run.sh": RUN, "app.py": APP.replace("VERSION", version)}, executable=("run.sh",))
    emulator.client("s3").put_object(Bucket=BUCKET, Key=key, Body=package)
    return key


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    # What a user's shell may hold must not reach the functions.
    environment = {"AWS_PROFILE": "production", "MY_OWN": "secret", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    with running_emulator(tmp_path_factory.mktemp("gateway"), environment=environment) as running:
        running.client("s3").create_bucket(Bucket=BUCKET)
        authorizers = zip_of({"auth.py": AUTHORIZER, "meter.py": METER})
        running.client("s3").put_object(Bucket=BUCKET, Key="auth.zip", Body=authorizers)
        yield running


@pytest.fixture(scope="module")
def stacks(emulator: RunningEmulator) -> Stacks:
    return Stacks(emulator)


def function(key: str, *, mode: str, timeout: int = 30, **environment: str) -> dict[str, Any]:
    return {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "Runtime": "python3.13",
            "Handler": "run.sh",
            "Code": {"S3Bucket": BUCKET, "S3Key": key},
            "Role": attribute("Role", "Arn"),
            "Timeout": timeout,
            "Layers": ["arn:aws:lambda:us-east-1:753240598075:layer:LambdaAdapterLayerX86:26"],
            "Environment": {
                "Variables": {
                    "AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap",
                    "AWS_LWA_INVOKE_MODE": mode,
                    "AWS_LWA_PORT": "8080",
                    "AWS_LWA_READINESS_CHECK_PATH": "/health",
                    "OWN": "value",
                    **environment,
                }
            },
        },
    }


def method(function_id: str, resource: Any, *, verb: str = "ANY", transfer: str = STREAM, **options: Any) -> Any:
    suffix = "response-streaming-invocations" if transfer == STREAM else "invocations"
    date = "2021-11-15" if transfer == STREAM else "2015-03-31"
    uri = f"arn:aws:apigateway:${{AWS::Region}}:lambda:path/{date}/functions/${{{function_id}.Arn}}/{suffix}"
    timeout = options.pop("timeout_ms", 29_000)
    return {
        "Type": "AWS::ApiGateway::Method",
        "Properties": {
            "RestApiId": {"Ref": "Api"},
            "ResourceId": resource,
            "HttpMethod": verb,
            "AuthorizationType": "NONE",
            "Integration": {
                "Type": "AWS_PROXY",
                "IntegrationHttpMethod": "POST",
                "ResponseTransferMode": transfer,
                "TimeoutInMillis": timeout,
                "Uri": {"Fn::Sub": uri},
            },
            **options,
        },
    }


def resource(part: str, parent: Any = None) -> dict[str, Any]:
    properties = {
        "RestApiId": {"Ref": "Api"},
        "ParentId": parent or attribute("Api", "RootResourceId"),
        "PathPart": part,
    }
    return {"Type": "AWS::ApiGateway::Resource", "Properties": properties}


def api_of(methods: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A REST API with one stage ``api``."""
    return {
        "Role": {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": TRUST}},
        "Api": {"Type": "AWS::ApiGateway::RestApi", "Properties": {"Name": "tested"}},
        **methods,
        "Deployment": {
            "Type": "AWS::ApiGateway::Deployment",
            "DependsOn": [name for name, made in methods.items() if made["Type"].endswith("Method")],
            "Properties": {"RestApiId": {"Ref": "Api"}},
        },
        "Stage": {
            "Type": "AWS::ApiGateway::Stage",
            "Properties": {
                "RestApiId": {"Ref": "Api"},
                "DeploymentId": {"Ref": "Deployment"},
                "StageName": "api",
                **more,
            },
        },
    }


OUTPUTS = {
    "Outputs": {"Api": output({"Ref": "Api"}), "Key": output({"Ref": "Key"}), "Function": output({"Ref": "Function"})}
}


def keyed_stack(key: str) -> dict[str, Any]:
    """An API whose callers need a key; ``/chat`` has a validator, ``/limited`` and its plan have limits."""
    made = api_of(
        {
            "Function": function(key, mode="response_stream"),
            "Proxy": resource("{proxy+}"),
            "Any": method("Function", {"Ref": "Proxy"}, ApiKeyRequired=True),
            "Chat": resource("chat"),
            "Validator": {
                "Type": "AWS::ApiGateway::RequestValidator",
                "Properties": {"RestApiId": {"Ref": "Api"}, "Name": "body", "ValidateRequestBody": True},
            },
            "Model": {
                "Type": "AWS::ApiGateway::Model",
                "Properties": {
                    "RestApiId": {"Ref": "Api"},
                    "ContentType": "application/json",
                    "Schema": {"type": "object", "required": ["model"]},
                },
            },
            "ChatPost": method(
                "Function",
                {"Ref": "Chat"},
                verb="POST",
                ApiKeyRequired=True,
                RequestValidatorId={"Ref": "Validator"},
                RequestModels={"application/json": {"Ref": "Model"}},
            ),
            "Limited": resource("limited"),
            "LimitedGet": method("Function", {"Ref": "Limited"}, verb="GET", ApiKeyRequired=True),
        },
        MethodSettings=[
            {"ResourcePath": "/~1limited", "HttpMethod": "GET", "ThrottlingRateLimit": 0.01, "ThrottlingBurstLimit": 2}
        ],
        AccessLogSetting={
            "DestinationArn": "arn:aws:logs:us-east-1:000000000000:log-group:access",
            "Format": '{"id":"$context.requestId"}',
        },
    )
    stage = {"ApiId": {"Ref": "Api"}, "Stage": {"Ref": "Stage"}}
    made["Key"] = {"Type": "AWS::ApiGateway::ApiKey", "Properties": {"Enabled": True}}
    made["Plan"] = {"Type": "AWS::ApiGateway::UsagePlan", "Properties": {"ApiStages": [stage]}}
    made["PlanKey"] = {
        "Type": "AWS::ApiGateway::UsagePlanKey",
        "Properties": {"KeyId": {"Ref": "Key"}, "KeyType": "API_KEY", "UsagePlanId": {"Ref": "Plan"}},
    }
    return made


class Gateway:
    """The API of :func:`keyed_stack`."""

    def __init__(self, emulator: RunningEmulator, outputs: dict[str, str]) -> None:
        self.function, self.api_id = outputs["Function"], outputs["Api"]
        keys = emulator.client("apigateway")
        self.key = keys.get_api_key(apiKey=outputs["Key"], includeValue=True)["value"]
        self.key_id = outputs["Key"]
        self.http = httpx.Client(
            base_url=emulator.api(self.api_id, ""), headers={"x-api-key": self.key}, timeout=30, trust_env=False
        )


@pytest.fixture(scope="module")
def gateway(emulator: RunningEmulator, stacks: Stacks) -> Iterator[Gateway]:
    made = Gateway(emulator, stacks.deploy("keyed", keyed_stack(upload(emulator, "1")), **OUTPUTS))
    with made.http:
        yield made


def test_without_a_valid_key_the_api_is_forbidden(gateway: Gateway) -> None:
    for key in ("", "wrong"):
        answer = gateway.http.get("/anything", headers={"x-api-key": key})
        assert (answer.status_code, answer.json()) == (403, {"message": "Forbidden"})
        assert answer.headers["x-amzn-errortype"] == "ForbiddenException"


def test_the_application_gets_the_request_as_the_adapter_passes_it(gateway: Gateway) -> None:
    answer = gateway.http.post("/a/b%20c", params={"q": ["1", "ü"]}, json={"n": 1}, headers={"x-own": "kept"})
    assert answer.status_code == 200
    got = answer.json()
    assert (got["method"], got["path"], got["body"]) == ("POST", "/a/b%20c?q=1&q=%C3%BC", '{"n":1}')
    headers = {name.lower(): value for name, value in got["headers"].items()}
    assert (headers["x-own"], headers["content-type"]) == ("kept", "application/json")
    request_context = json.loads(headers["x-amzn-request-context"])
    assert (request_context["stage"], request_context["apiId"]) == ("api", gateway.api_id)
    assert request_context["path"] == "/api/a/b c"
    assert request_context["identity"]["apiKeyId"] == gateway.key_id
    lambda_context = json.loads(headers["x-amzn-lambda-context"])
    assert lambda_context["env_config"]["function_name"] == gateway.function
    assert lambda_context["deadline"] > time.time() * 1000


def test_status_and_headers_of_the_application_arrive(gateway: Gateway) -> None:
    answer = gateway.http.get("/created")
    assert answer.status_code == 201
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert len(answer.headers.get_list("date")) == 1
    assert "x-amzn-remapped-date" in answer.headers


def test_the_function_has_lambdas_environment_and_none_of_the_emulators(
    emulator: RunningEmulator, gateway: Gateway
) -> None:
    got = gateway.http.get("/x").json()
    environment = got["environment"]
    assert Path(got["executable"]).parent == Path(sys.executable).parent
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == gateway.function
    assert environment["AWS_ENDPOINT_URL"] == emulator.url
    assert (environment["AWS_REGION"], environment["OWN"]) == ("us-east-1", "value")
    assert environment["AWS_ACCESS_KEY_ID"] == "000000000000"
    foreign = {"MY_OWN", "AWS_PROFILE", "GATEWAY_PORT", "BIND_HOST", "MODELZONE_MODEL_SERVER_COMMAND", "S3_DATA_DIR"}
    assert foreign.isdisjoint(environment)
    assert not [name for name in environment if name.startswith("MINISTACK")]


def test_a_stream_passes_through_piece_by_piece(gateway: Gateway) -> None:
    arrivals, text = [], ""
    with gateway.http.stream("GET", "/stream") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        for piece in answer.iter_text():
            arrivals.append(time.monotonic())
            text += piece
    assert text == "".join(f"data: 1 {number}\n\n" for number in range(4))
    assert arrivals[-1] - arrivals[0] > 0.3


def test_streams_run_side_by_side(gateway: Gateway) -> None:
    gateway.http.get("/x")
    started = time.monotonic()
    threads = [threading.Thread(target=gateway.http.get, args=("/stream",)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 2.5


def test_a_client_that_leaves_ends_its_stream_and_nothing_else(gateway: Gateway) -> None:
    with gateway.http.stream("GET", "/stream/endless") as answer:
        next(answer.iter_text())
    assert gateway.http.get("/after").status_code == 200


def test_an_application_that_dies_in_a_stream_truncates_the_answer_and_comes_back(gateway: Gateway) -> None:
    with pytest.raises(httpx.RemoteProtocolError), gateway.http.stream("GET", "/stream/broken") as answer:
        answer.read()
    assert gateway.http.get("/after").status_code == 200


def test_an_application_that_dies_before_it_answers_is_a_bad_gateway(gateway: Gateway) -> None:
    answer = gateway.http.get("/die")
    assert (answer.status_code, answer.json()) == (502, {"message": "Internal server error"})


def test_the_validator_refuses_a_body_before_the_function_sees_it(gateway: Gateway) -> None:
    for body in ({"content": b"no json"}, {"json": {"messages": []}}):
        answer = gateway.http.post("/chat", headers={"content-type": "application/json"}, **body)
        assert (answer.status_code, answer.json()) == (400, {"message": "Invalid request body"})
    assert gateway.http.post("/chat", json={"model": "m"}).json()["path"] == "/chat"


def test_a_body_that_lambda_would_not_take_is_too_long(gateway: Gateway) -> None:
    answer = gateway.http.post("/x", content=b"a" * (6 * 1024 * 1024 + 1))
    assert (answer.status_code, answer.json()) == (413, {"message": "Request Too Long"})


def test_a_method_limit_is_too_many_requests(gateway: Gateway) -> None:
    statuses = [gateway.http.get("/limited") for _ in range(3)]
    assert [answer.status_code for answer in statuses] == [200, 200, 429]
    assert statuses[-1].json() == {"message": "Too Many Requests"}


def test_a_route_that_does_not_exist_asks_for_a_token(emulator: RunningEmulator, gateway: Gateway) -> None:
    answer = httpx.get(emulator.api(gateway.api_id, "/"), trust_env=False)
    assert (answer.status_code, answer.json()) == (403, {"message": "Missing Authentication Token"})


def test_api_gateway_describes_what_was_deployed(emulator: RunningEmulator, gateway: Gateway) -> None:
    api = emulator.client("apigateway")
    resources = {row["path"]: row["id"] for row in api.get_resources(restApiId=gateway.api_id)["items"]}
    made = api.get_method(restApiId=gateway.api_id, resourceId=resources["/chat"], httpMethod="POST")
    (validator,) = api.get_request_validators(restApiId=gateway.api_id)["items"]
    assert made["requestValidatorId"] == validator["id"]
    assert validator["validateRequestBody"] is True
    assert made["methodIntegration"]["responseTransferMode"] == STREAM
    stage = api.get_stage(restApiId=gateway.api_id, stageName="api")
    assert stage["accessLogSettings"]["format"] == '{"id":"$context.requestId"}'


def test_a_request_leaves_no_trace_of_its_body_or_key_in_the_logs(emulator: RunningEmulator, gateway: Gateway) -> None:
    gateway.http.post("/chat", json={"model": "m", "content": MARKER}, params={"q": MARKER})
    gateway.http.post("/chat", json={"content": MARKER})
    httpx.get(emulator.api(gateway.api_id, "/x"), headers={"x-api-key": MARKER}, trust_env=False)
    wait_until(lambda: list((emulator.state_dir / "logs").glob("function-*.log")))
    files = [*(emulator.state_dir / "logs").iterdir(), emulator.state_dir / "output.txt"]
    assert len(files) > 2
    for file in files:
        text = file.read_text(errors="replace")
        assert MARKER not in text, file.name
        assert gateway.key not in text, file.name


def test_the_functions_output_is_in_its_file_and_its_log_group(emulator: RunningEmulator, gateway: Gateway) -> None:
    gateway.http.get("/x")
    text = (emulator.state_dir / "logs" / f"function-{gateway.function}.log").read_text()
    assert "application 1 starts" in text
    events = emulator.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{gateway.function}")["events"]
    messages = [event["message"] for event in events]
    assert any("application 1 starts" in message for message in messages)
    assert any(message.startswith("REPORT RequestId") for message in messages)


def test_one_process_serves_the_function_until_code_or_configuration_changes(
    emulator: RunningEmulator, stacks: Stacks, gateway: Gateway
) -> None:
    first = gateway.http.get("/x").json()
    assert gateway.http.get("/x").json()["pid"] == first["pid"]
    running: list[str] = []
    stream = threading.Thread(target=lambda: running.append(gateway.http.get("/stream").text))
    stream.start()
    time.sleep(0.2)
    stacks.deploy("keyed", keyed_stack(upload(emulator, "2")), **OUTPUTS)
    second = gateway.http.get("/x").json()
    assert (second["version"], second["pid"] != first["pid"]) == ("2", True)
    stream.join()
    assert running[0].count("data: 1 ") == 4, "the old code answers what it had begun"
    wait_until(lambda: [process["pid"] for process in emulator.processes("web-adapter")] == [second["pid"]])
    changed = keyed_stack("app-2.zip")
    changed["Function"]["Properties"]["Environment"]["Variables"]["OWN"] = "other"
    stacks.deploy("keyed", changed, **OUTPUTS)
    third = gateway.http.get("/x").json()
    assert (third["environment"]["OWN"], third["pid"] != second["pid"]) == ("other", True)


def plain_stack(emulator: RunningEmulator, *, mode: str, transfer: str, **options: Any) -> dict[str, Any]:
    """An open API with one function."""
    timeout_ms = options.pop("timeout_ms", 29_000)
    return api_of(
        {
            "Function": function(upload(emulator, "1"), mode=mode, **options),
            "Proxy": resource("{proxy+}"),
            "Any": method("Function", {"Ref": "Proxy"}, transfer=transfer, timeout_ms=timeout_ms),
        }
    )


def call(emulator: RunningEmulator, stacks: Stacks, name: str, made: dict[str, Any], path: str) -> httpx.Response:
    deployed = stacks.deploy(name, made, Outputs={"Api": output({"Ref": "Api"})})
    return httpx.get(emulator.api(deployed["Api"], path), timeout=30, trust_env=False)


def test_a_buffered_function_answers_a_buffered_integration(emulator: RunningEmulator, stacks: Stacks) -> None:
    answer = call(emulator, stacks, "buffered", plain_stack(emulator, mode="buffered", transfer=BUFFERED), "/created")
    assert (answer.status_code, answer.json()["path"]) == (201, "/created")
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize(("mode", "transfer"), [("response_stream", BUFFERED), ("buffered", STREAM)])
def test_function_and_integration_must_agree_about_streaming(
    emulator: RunningEmulator, stacks: Stacks, mode: str, transfer: str
) -> None:
    name = f"disagree-{mode.replace('_', '-')}"
    answer = call(emulator, stacks, name, plain_stack(emulator, mode=mode, transfer=transfer), "/x")
    assert (answer.status_code, answer.json()) == (502, {"message": "Internal server error"})


@pytest.mark.parametrize(
    ("name", "limits", "wanted"),
    [
        ("gateway", {"timeout_ms": 1000}, (504, {"message": "Endpoint request timed out"})),
        ("function", {"timeout": 1}, (502, {"message": "Internal server error"})),
    ],
)
def test_an_answer_that_takes_too_long_is_an_error_of_who_gave_up(
    emulator: RunningEmulator, stacks: Stacks, name: str, limits: dict[str, Any], wanted: tuple[int, Any]
) -> None:
    made = plain_stack(emulator, mode="response_stream", transfer=STREAM, **limits)
    answer = call(emulator, stacks, f"late-{name}", made, "/slow")
    assert (answer.status_code, answer.json()) == wanted


def test_a_function_that_does_not_start_is_a_bad_gateway_and_says_why_in_its_log(
    emulator: RunningEmulator, stacks: Stacks
) -> None:
    made = plain_stack(emulator, mode="response_stream", transfer=STREAM, FAIL_TO_START="1")
    answer = call(emulator, stacks, "broken", made, "/x")
    assert (answer.status_code, answer.json()) == (502, {"message": "Internal server error"})
    name = stacks.resources("broken")["Function"]
    assert "no such module" in (emulator.state_dir / "logs" / f"function-{name}.log").read_text()
    assert f"function {name} ended with code 1" in (emulator.state_dir / "logs" / "emulator.log").read_text()


def context_of(answer: httpx.Response) -> dict[str, Any]:
    """The request context that the function got."""
    headers = [(name.lower(), value) for name, value in answer.json()["headers"].items()]
    (text,) = [value for name, value in headers if name == "x-amzn-request-context"]
    context: dict[str, Any] = json.loads(text)
    return context


REFUSALS = {
    "UNAUTHORIZED": "401",
    "ACCESS_DENIED": "403",
    "INVALID_API_KEY": "403",
    "AUTHORIZER_FAILURE": "503",
    "QUOTA_EXCEEDED": "429",
    "DEFAULT_5XX": None,
}


def access_stack(key: str) -> dict[str, Any]:
    """One API with each way of access: tenants' keys, signatures, a user pool."""
    authorizer_uri = "arn:aws:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${Meter.Arn}/invocations"
    proxied = {
        "Function": function(key, mode="response_stream"),
        "Meter": {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "Runtime": "python3.13",
                "Handler": "meter.handler",
                "Code": {"S3Bucket": BUCKET, "S3Key": "auth.zip"},
                "Role": attribute("Role", "Arn"),
            },
        },
        "Keys": resource("keys"),
        "Signed": resource("signed"),
        "Users": resource("users"),
    }
    for name, ttl in (("Fresh", 0), ("Cached", 300)):
        source = {} if ttl == 0 else {"IdentitySource": "method.request.header.Authorization"}
        proxied[name] = {
            "Type": "AWS::ApiGateway::Authorizer",
            "Properties": {
                "RestApiId": {"Ref": "Api"},
                "Name": name,
                "Type": "REQUEST",
                "AuthorizerUri": {"Fn::Sub": authorizer_uri},
                "AuthorizerResultTtlInSeconds": ttl,
                **source,
            },
        }
    proxied["Pool"] = {
        "Type": "AWS::Cognito::UserPool",
        "Properties": {"Schema": [{"Name": "tenant", "AttributeDataType": "String", "Mutable": True}]},
    }
    proxied["PoolClient"] = {
        "Type": "AWS::Cognito::UserPoolClient",
        "Properties": {"UserPoolId": {"Ref": "Pool"}, "ExplicitAuthFlows": ["ALLOW_ADMIN_USER_PASSWORD_AUTH"]},
    }
    proxied["People"] = {
        "Type": "AWS::ApiGateway::Authorizer",
        "Properties": {
            "RestApiId": {"Ref": "Api"},
            "Name": "people",
            "Type": "COGNITO_USER_POOLS",
            "IdentitySource": "method.request.header.Authorization",
            "ProviderARNs": [attribute("Pool", "Arn")],
        },
    }
    keyed = {"AuthorizationType": "CUSTOM", "ApiKeyRequired": True}
    proxied["KeysPost"] = method("Function", {"Ref": "Keys"}, verb="POST", AuthorizerId={"Ref": "Fresh"}, **keyed)
    proxied["KeysGet"] = method("Function", {"Ref": "Keys"}, verb="GET", AuthorizerId={"Ref": "Cached"}, **keyed)
    proxied["SignedGet"] = method("Function", {"Ref": "Signed"}, verb="GET", AuthorizationType="AWS_IAM")
    proxied["UsersGet"] = method(
        "Function",
        {"Ref": "Users"},
        verb="GET",
        AuthorizationType="COGNITO_USER_POOLS",
        AuthorizerId={"Ref": "People"},
    )
    for kind, status in REFUSALS.items():
        proxied[kind.replace("_", "")] = {
            "Type": "AWS::ApiGateway::GatewayResponse",
            "Properties": {
                "RestApiId": {"Ref": "Api"},
                "ResponseType": kind,
                **({"StatusCode": status} if status else {}),
                "ResponseTemplates": {"application/json": f'{{"mine":"{kind}","type":"$context.error.responseType"}}'},
            },
        }
    made = api_of(proxied)
    made["Api"]["Properties"]["ApiKeySourceType"] = "AUTHORIZER"
    made["Deployment"]["DependsOn"] += [kind.replace("_", "") for kind in REFUSALS]
    stage = {"ApiId": {"Ref": "Api"}, "Stage": {"Ref": "Stage"}}
    for tenant, limit in (("blue", 1000), ("red", 2)):
        made[f"{tenant}Key"] = {
            "Type": "AWS::ApiGateway::ApiKey",
            "Properties": {"Enabled": True, "Value": f"meter-of-the-tenant-{tenant}"},
        }
        made[f"{tenant}Plan"] = {
            "Type": "AWS::ApiGateway::UsagePlan",
            "Properties": {"ApiStages": [stage], "Quota": {"Limit": limit, "Period": "MONTH"}},
        }
        made[f"{tenant}PlanKey"] = {
            "Type": "AWS::ApiGateway::UsagePlanKey",
            "Properties": {
                "KeyId": {"Ref": f"{tenant}Key"},
                "KeyType": "API_KEY",
                "UsagePlanId": {"Ref": f"{tenant}Plan"},
            },
        }
    return made


class Access:
    """The API of :func:`access_stack`."""

    def __init__(self, emulator: RunningEmulator, stacks: Stacks) -> None:
        names = ("Api", "Pool", "PoolClient", "blueKey", "redKey", "Fresh", "Cached", "Meter")
        outputs = {name: output({"Ref": name}) for name in names}
        self.outputs = stacks.deploy("access", access_stack(upload(emulator, "1")), Outputs=outputs)
        self.url = emulator.api(self.outputs["Api"], "")
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def ask(self, token: str = "", *, verb: str = "POST", **headers: str) -> httpx.Response:
        given = {"authorization": f"Bearer {token}"} if token else {}
        return self.http.request(verb, "/keys", headers={**given, **headers})


@pytest.fixture(scope="module")
def access(emulator: RunningEmulator, stacks: Stacks) -> Iterator[Access]:
    made = Access(emulator, stacks)
    with made.http:
        yield made


@pytest.mark.parametrize("headers", [{"authorization": "Bearer blue"}, {"x-api-key": "blue"}])
def test_a_request_counts_by_the_key_that_the_authorizer_answers(access: Access, headers: dict[str, str]) -> None:
    answer = access.http.post("/keys", headers=headers)
    assert answer.status_code == 200
    context = context_of(answer)
    assert context["authorizer"].pop("integrationLatency") >= 0
    expected = {"tenant": "blue", "key_id": "k1", "usageIdentifierKey": "meter-of-the-tenant-blue", "principalId": "k1"}
    assert context["authorizer"] == expected
    assert context["identity"]["apiKeyId"] == access.outputs["blueKey"]
    assert answer.headers["x-amzn-requestid"] == context["requestId"]


def test_a_usage_plan_s_key_in_a_header_opens_nothing(access: Access) -> None:
    """With an authorizer as the source, x-api-key is one header among others."""
    refused = access.ask(**{"x-api-key": "meter-of-the-tenant-blue"})
    assert (refused.status_code, refused.json()["mine"]) == (401, "UNAUTHORIZED")
    for token in ("stranger", "green"):  # a key that no plan has; no key at all, though the context looks like one
        answer = access.ask(token, **{"x-api-key": "meter-of-the-tenant-blue"})
        assert (answer.status_code, answer.json()["mine"]) == (403, "INVALID_API_KEY")


@pytest.mark.parametrize("verb", ["POST", "GET"])
def test_a_tenant_s_quota_is_its_own(access: Access, emulator: RunningEmulator, verb: str) -> None:
    """Also when the authorizer's answer comes from the cache (GET): every request is counted."""
    wanted = [200, 200, 429] if verb == "POST" else [429]  # the quota is used up by then
    answers = [access.ask("red", verb=verb) for _ in wanted]
    assert [answer.status_code for answer in answers] == wanted
    assert answers[-1].json()["mine"] == "QUOTA_EXCEEDED"
    other = [access.ask("blue", verb=verb) for _ in range(2)]
    assert [context_of(answer)["identity"]["apiKeyId"] for answer in other] == [access.outputs["blueKey"]] * 2


def test_an_authorizer_without_identity_sources_is_asked_every_time(access: Access, emulator: RunningEmulator) -> None:
    described = emulator.client("apigateway").get_authorizers(restApiId=access.outputs["Api"])["items"]
    by_name = {row["name"]: row for row in described}
    assert not by_name["Fresh"]["identitySource"]
    assert by_name["Cached"]["identitySource"] == "method.request.header.Authorization"
    assert emulator.client("apigateway").get_rest_api(restApiId=access.outputs["Api"])["apiKeySource"] == "AUTHORIZER"
    log = emulator.state_dir / "logs" / f"function-{access.outputs['Meter']}.log"

    def asked() -> list[dict[str, Any]]:
        return [json.loads(line.partition(" ")[2]) for line in log.read_text().splitlines() if line.startswith("asked")]

    before = len(asked())
    answers = [access.ask("blue"), access.ask("blue")]
    wait_until(lambda: len(asked()) == before + 2)
    assert [row["requestId"] for row in asked()[before:]] == [context_of(answer)["requestId"] for answer in answers]


@pytest.mark.parametrize(
    ("token", "status", "kind", "said"),
    [
        ("", 401, "UNAUTHORIZED", "UNAUTHORIZED"),
        ("unknown", 401, "UNAUTHORIZED", "UNAUTHORIZED"),
        ("denied", 403, "ACCESS_DENIED", "ACCESS_DENIED"),
        ("fails", 503, "AUTHORIZER_FAILURE", "AUTHORIZER_FAILURE"),
        # API Gateway calls this one by another name.
        ("nonsense", 500, "DEFAULT_5XX", "API_CONFIGURATION_ERROR"),
    ],
)
def test_refusals_are_written_in_the_api_s_words(access: Access, token: str, status: int, kind: str, said: str) -> None:
    answer = access.ask(token)
    assert (answer.status_code, answer.json()) == (status, {"mine": kind, "type": said})


def test_a_caller_cannot_give_a_context_itself(access: Access) -> None:
    forged = json.dumps({"authorizer": {"tenant": "red"}, "identity": {"userArn": "arn:aws:iam::1:root"}})
    for name in ("x-amzn-request-context", "X-Amzn-Request-Context", "X-AMZN-REQUEST-CONTEXT"):
        answer = access.ask("blue", **{name: forged, "x-amzn-lambda-context": forged})
        assert context_of(answer)["authorizer"]["tenant"] == "blue"
        assert forged not in answer.json()["headers"].values()


def test_a_signed_request_names_its_principal(access: Access, emulator: RunningEmulator) -> None:
    assert access.http.get("/signed").status_code == 403
    trust = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}]}
    role = emulator.client("iam").create_role(RoleName="caller", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    session = emulator.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="me")["Credentials"]
    credentials = Credentials(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])
    request = AWSRequest("GET", f"{access.url}/signed")
    SigV4Auth(credentials, "execute-api", "us-east-1").add_auth(request)

    answer = access.http.get("/signed", headers=dict(request.headers))
    identity = context_of(answer)["identity"]
    assert identity["userArn"] == "arn:aws:sts::000000000000:assumed-role/caller/me"
    assert identity["accountId"] == "000000000000"


def test_a_user_s_claims_reach_the_function(access: Access, emulator: RunningEmulator) -> None:
    pool, cognito = access.outputs["Pool"], emulator.client("cognito-idp")
    attributes = [{"Name": "custom:tenant", "Value": "grün"}, {"Name": "email", "Value": "me@example.org"}]
    cognito.admin_create_user(UserPoolId=pool, Username="me", UserAttributes=attributes)
    cognito.admin_set_user_password(UserPoolId=pool, Username="me", Password="Secret-1234", Permanent=True)
    token = cognito.admin_initiate_auth(
        UserPoolId=pool,
        ClientId=access.outputs["PoolClient"],
        AuthFlow="ADMIN_USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": "me", "PASSWORD": "Secret-1234"},
    )["AuthenticationResult"]["IdToken"]

    answer = access.http.get("/users", headers={"authorization": f"Bearer {token}"})
    claims = context_of(answer)["authorizer"]["claims"]
    assert (claims["custom:tenant"], claims["email"]) == ("grün", "me@example.org")
    for forged in ("", token[:-8] + "AAAAAAAA", "a.b.c"):
        refused = access.http.get("/users", headers={"authorization": f"Bearer {forged}"} if forged else {})
        assert (refused.status_code, refused.json()["mine"]) == (401, "UNAUTHORIZED")


def test_an_authorizer_decides_before_the_stream_starts(emulator: RunningEmulator, stacks: Stacks) -> None:
    authorizer_uri = "arn:aws:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${Auth.Arn}/invocations"
    made = plain_stack(emulator, mode="response_stream", transfer=STREAM)
    made["Auth"] = {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "Runtime": "python3.13",
            "Handler": "auth.handler",
            "Code": {"S3Bucket": BUCKET, "S3Key": "auth.zip"},
            "Role": attribute("Role", "Arn"),
        },
    }
    made["Authorizer"] = {
        "Type": "AWS::ApiGateway::Authorizer",
        "Properties": {
            "RestApiId": {"Ref": "Api"},
            "Name": "token",
            "Type": "TOKEN",
            "AuthorizerUri": {"Fn::Sub": authorizer_uri},
            "IdentitySource": "method.request.header.Authorization",
            "AuthorizerResultTtlInSeconds": 0,
        },
    }
    made["Any"]["Properties"].update(AuthorizationType="CUSTOM", AuthorizerId={"Ref": "Authorizer"})
    deployed = stacks.deploy("authorised", made, Outputs={"Api": output({"Ref": "Api"})})
    with httpx.Client(base_url=emulator.api(deployed["Api"], ""), timeout=30, trust_env=False) as http:
        assert (http.get("/x").status_code, http.get("/x").json()) == (401, {"message": "Unauthorized"})
        denied = http.get("/x", headers={"authorization": "guess"})
        assert (denied.status_code, "explicit deny" in denied.json()["Message"]) == (403, True)
        allowed = http.get("/x", headers={"authorization": "let-me-in"})
        authorizer = context_of(allowed)["authorizer"]
        assert authorizer.pop("integrationLatency") >= 0
        assert authorizer == {"tenant": "blue", "principalId": "me"}


def test_a_web_function_can_be_invoked_with_an_event(emulator: RunningEmulator, stacks: Stacks) -> None:
    stacks.deploy("invoked", plain_stack(emulator, mode="buffered", transfer=BUFFERED))
    event = {"httpMethod": "GET", "path": "/created", "headers": {"a": "b"}, "requestContext": {}}
    answer = emulator.client("lambda").invoke(
        FunctionName=stacks.resources("invoked")["Function"], Payload=json.dumps(event)
    )
    payload = json.load(answer["Payload"])
    assert (payload["statusCode"], payload["isBase64Encoded"]) == (201, False)
    assert json.loads(payload["body"])["path"] == "/created"


def test_a_deleted_function_leaves_no_process(emulator: RunningEmulator, stacks: Stacks) -> None:
    call(emulator, stacks, "gone", plain_stack(emulator, mode="response_stream", transfer=STREAM), "/x")
    name = stacks.resources("gone")["Function"]
    assert [process for process in emulator.processes() if process["name"] == name]
    stacks.delete("gone")
    wait_until(lambda: not [process for process in emulator.processes() if process["name"] == name])


def test_a_quota_is_a_limit(emulator: RunningEmulator, stacks: Stacks) -> None:
    made = keyed_stack(upload(emulator, "1"))
    made["Plan"]["Properties"]["Quota"] = {"Limit": 2, "Period": "MONTH"}
    limited = Gateway(emulator, stacks.deploy("quota", made, **OUTPUTS))
    with limited.http as http:
        answers = [http.get("/x") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].json() == {"message": "Limit Exceeded"}


def test_processes_are_listed_with_their_memory(emulator: RunningEmulator, gateway: Gateway) -> None:
    gateway.http.get("/x")
    (listed,) = [process for process in emulator.processes("web-adapter") if process["name"] == gateway.function]
    assert listed["rss"] > 1_000_000
    assert listed["port"] > 0
    recorded = json.loads(Path(emulator.state_dir / "children.json").read_text())
    assert listed["pid"] in [child["pid"] for child in recorded]
