"""Python functions under AWS's runtime client, invoked by the API and as custom resources of stacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from integration.test_emulator_support import (
    RunningEmulator,
    Stacks,
    attribute,
    output,
    running_emulator,
    wait_until,
    zip_of,
)

BUCKET = "function-code"

HANDLER = """
import json, os, time, urllib.request
import boto3

print("the handler is loaded")
NUMBER = VERSION

def handler(event, context):
    print("asked to", event.get("do"))
    match event.get("do"):
        case "fail":
            raise ValueError("this is what went wrong")
        case "sleep":
            time.sleep(30)
        case "buckets":
            return [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]
        case "environment":
            return dict(os.environ)
        case "context":
            return {"name": context.function_name, "arn": context.invoked_function_arn,
                    "left": context.get_remaining_time_in_millis(), "memory": context.memory_limit_in_mb}
    return {"number": NUMBER, "pid": os.getpid()}

def resource(event, context):
    properties = event["ResourceProperties"]
    failed = properties.get("Refuse") if event["RequestType"] != "Delete" else None
    boto3.client("ssm").put_parameter(Name="/seen/" + event["RequestType"], Value=json.dumps(properties),
                                      Type="String", Overwrite=True)
    answer = {
        "Status": "FAILED" if failed else "SUCCESS", "Reason": failed or "fine",
        "PhysicalResourceId": "thing-" + properties["Name"], "Data": {"Upper": properties["Name"].upper()},
        **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    request = urllib.request.Request(event["ResponseURL"], data=json.dumps(answer).encode(), method="PUT")
    urllib.request.urlopen(request)
"""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    with running_emulator(tmp_path_factory.mktemp("functions"), environment={"MY_OWN": "secret"}) as running:
        s3 = running.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        for version in (1, 2):
            package = zip_of({"code.py": "", "h.py": HANDLER.replace("VERSION", str(version))})
            s3.put_object(Bucket=BUCKET, Key=f"{version}.zip", Body=package)
        yield running


@pytest.fixture(scope="module")
def stacks(emulator: RunningEmulator) -> Stacks:
    return Stacks(emulator)


def resources(*, code: int = 1, handler: str = "h.handler", timeout: int = 10, **variables: str) -> dict[str, Any]:
    trust = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda"}}]}
    return {
        "Role": {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": trust}},
        "Function": {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "Runtime": "python3.13",
                "Handler": handler,
                "Code": {"S3Bucket": BUCKET, "S3Key": f"{code}.zip"},
                "Role": attribute("Role", "Arn"),
                "Timeout": timeout,
                "MemorySize": 256,
                "VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]},
                "Environment": {"Variables": {"OWN": "value", **variables}},
            },
        },
    }


@pytest.fixture(scope="module")
def function(stacks: Stacks) -> str:
    return stacks.deploy("plain", resources(timeout=1), Outputs={"Name": output({"Ref": "Function"})})["Name"]


def invoke(emulator: RunningEmulator, name: str, **event: Any) -> Any:
    answer = emulator.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event))
    return json.load(answer["Payload"])


def test_a_function_reaches_the_emulator_with_the_plain_sdk(emulator: RunningEmulator, function: str) -> None:
    assert BUCKET in invoke(emulator, function, do="buckets")


def test_one_process_serves_calls_one_after_the_other(emulator: RunningEmulator, function: str) -> None:
    first = invoke(emulator, function)
    assert invoke(emulator, function) == first
    (child,) = emulator.processes("function")
    assert (child["name"], child["pid"]) == (function, first["pid"])


def test_errors_have_the_shape_of_awss_runtime(emulator: RunningEmulator, function: str) -> None:
    error = invoke(emulator, function, do="fail")
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "this is what went wrong")
    assert "stackTrace" in error


def test_the_environment_is_lambdas_and_not_the_emulators(emulator: RunningEmulator, function: str) -> None:
    environment = invoke(emulator, function, do="environment")
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == function
    assert (environment["OWN"], environment["AWS_EXECUTION_ENV"]) == ("value", "AWS_Lambda_python3.13")
    assert "MY_OWN" not in environment
    assert not [name for name in environment if name.startswith(("MINISTACK", "GATEWAY"))]


def test_the_context_names_the_function(emulator: RunningEmulator, function: str) -> None:
    context = invoke(emulator, function, do="context")
    assert (context["name"], context["memory"]) == (function, "256")
    assert 0 < context["left"] <= 1000


def test_a_function_that_takes_too_long_is_ended_and_serves_again(emulator: RunningEmulator, function: str) -> None:
    assert "timed out" in invoke(emulator, function, do="sleep")["errorMessage"]
    assert invoke(emulator, function)["number"] == 1


def test_what_it_prints_is_in_its_log_and_not_in_the_emulators(emulator: RunningEmulator, function: str) -> None:
    invoke(emulator, function, do="something-to-look-for")
    logs = emulator.state_dir / "logs"
    assert "asked to something-to-look-for" in (logs / f"function-{function}.log").read_text()
    assert "something-to-look-for" not in (logs / "emulator.log").read_text()


def test_new_code_replaces_the_process(emulator: RunningEmulator, stacks: Stacks) -> None:
    name = stacks.deploy("renewed", resources(), Outputs={"Name": output({"Ref": "Function"})})["Name"]
    before = invoke(emulator, name)
    stacks.deploy("renewed", resources(code=2))
    after = invoke(emulator, name)
    assert (before["number"], after["number"]) == (1, 2)
    wait_until(lambda: [p["pid"] for p in emulator.processes() if p["name"] == name] == [after["pid"]])
    stacks.delete("renewed")
    wait_until(lambda: not [p for p in emulator.processes() if p["name"] == name])


def test_the_configuration_keeps_its_network(emulator: RunningEmulator, function: str) -> None:
    config = emulator.client("lambda").get_function_configuration(FunctionName=function)
    assert config["VpcConfig"]["SubnetIds"] == ["subnet-1"]


def with_thing(**properties: Any) -> dict[str, Any]:
    made = resources(handler="h.resource")
    made["Thing"] = {
        "Type": "Custom::Thing",
        "Properties": {"ServiceToken": attribute("Function", "Arn"), **properties},
    }
    return made


def test_a_custom_resource_is_created_updated_and_deleted(emulator: RunningEmulator, stacks: Stacks) -> None:
    outputs = {"Upper": output(attribute("Thing", "Upper")), "Id": output({"Ref": "Thing"})}
    created = stacks.deploy("custom", with_thing(Name="first", Count=3, On=True, Map={"a": 1}), Outputs=outputs)
    assert created == {"Upper": "FIRST", "Id": "thing-first"}

    def seen(kind: str) -> Any:
        parameter = emulator.client("ssm").get_parameter(Name=f"/seen/{kind}")["Parameter"]
        return {k: v for k, v in json.loads(parameter["Value"]).items() if k != "ServiceToken"}

    # CloudFormation passes every scalar as a string.
    assert seen("Create") == {"Name": "first", "Count": "3", "On": "true", "Map": {"a": "1"}}
    assert stacks.deploy("custom", with_thing(Name="second"), Outputs=outputs)["Upper"] == "SECOND"
    stacks.delete("custom")
    assert seen("Delete") == {"Name": "second"}


def test_a_custom_resource_that_refuses_rolls_back_with_its_reason(stacks: Stacks) -> None:
    with pytest.raises(AssertionError, match="no artifact there"):
        stacks.deploy("refused", with_thing(Name="bad", Refuse="no artifact there"))
    assert stacks.settled("refused") == "ROLLBACK_COMPLETE"
    stacks.delete("refused")
