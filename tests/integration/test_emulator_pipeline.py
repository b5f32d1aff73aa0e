"""What a pipeline of Step Functions, Lambda, EventBridge and SNS is made of, deployed by CloudFormation."""

from __future__ import annotations

import json
import time
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

BUCKET = "pipeline-code"

CODE = """
import json, time
import boto3

class CompileError(Exception):
    pass

def handler(event, context):
    if event.get("step") == "fail":
        raise CompileError("the compiler ran out of memory")
    if event.get("step") == "slow":
        time.sleep(2)
        raise CompileError("stopped meanwhile")
    return {**event.get("state", {}), "steps": event.get("state", {}).get("steps", []) + [event["step"]]}

def seen(event, context):
    name = "/seen/" + event.get("status", event.get("detail-type", "unknown").replace(" ", "-"))
    boto3.client("ssm").put_parameter(Name=name, Value=json.dumps(event), Type="String", Overwrite=True)
"""


def ref(name: str) -> dict[str, str]:
    return {"Ref": name}


def role(service: str) -> dict[str, Any]:
    trust = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}}]}
    return {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": trust}}


def function(handler: str) -> dict[str, Any]:
    return {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "Runtime": "python3.13",
            "Handler": handler,
            "Code": {"S3Bucket": BUCKET, "S3Key": "code.zip"},
            "Role": attribute("Role", "Arn"),
            "Timeout": 30,
        },
    }


def task(step: str, **more: Any) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {
            "FunctionName": "FUNCTION",
            "Payload": {"step": step, "execution.$": "$$.Execution", "state.$": "$.state"},
        },
        "ResultSelector": {"state.$": "$.Payload"},
        **more,
    }


def definition() -> dict[str, Any]:
    caught = [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Cleanup"}]
    return {
        "StartAt": "Look",
        "States": {
            "Look": task("look", Next="Which", Catch=caught),
            "Which": {
                "Type": "Choice",
                "Choices": [{"Variable": "$$.Execution.Input.do", "StringEquals": "fail", "Next": "Break"},
                            {"Variable": "$$.Execution.Input.do", "StringEquals": "slow", "Next": "Slow"}],
                "Default": "Wait",
            },
            "Wait": {"Type": "Wait", "Seconds": 20, "Next": "Done"},
            "Break": task("fail", Next="Done", Catch=caught),
            "Slow": task("slow", Next="Done"),
            "Cleanup": {
                "Type": "Pass",
                "Parameters": {
                    "error.$": "$.error.Error",
                    "message.$": "States.StringToJson($.error.Cause)",
                },
                "Next": "Failed",
            },
            "Failed": {"Type": "Fail", "Error": "CompileFailed", "CausePath": "$.message.errorMessage"},
            "Done": {"Type": "Succeed"},
        },
    }  # fmt: skip


def resources() -> dict[str, Any]:
    parts = json.dumps(definition()).split("FUNCTION")
    joined: list[Any] = [parts[0]]
    for part in parts[1:]:
        joined += [attribute("Steps", "Arn"), part]
    return {
        "Role": role("lambda.amazonaws.com"),
        "MachineRole": role("states.amazonaws.com"),
        "Steps": function("code.handler"),
        "Seen": function("code.seen"),
        "Logs": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "/aws/vendedlogs/states/compile"}},
        "Machine": {
            "Type": "AWS::StepFunctions::StateMachine",
            "Properties": {
                "StateMachineName": "compile",
                "RoleArn": attribute("MachineRole", "Arn"),
                "DefinitionString": {"Fn::Join": ["", joined]},
                "LoggingConfiguration": {
                    "Level": "ALL",
                    "IncludeExecutionData": True,
                    "Destinations": [{"CloudWatchLogsLogGroup": {"LogGroupArn": attribute("Logs", "Arn")}}],
                },
                "TracingConfiguration": {"Enabled": True},
                "Tags": [{"Key": "modelzone:environment", "Value": "dev"}],
            },
        },
        "Ended": {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "EventPattern": {
                    "source": ["aws.states"],
                    "detail-type": ["Step Functions Execution Status Change"],
                    "detail": {
                        "status": ["ABORTED", "TIMED_OUT", "FAILED"],
                        "stateMachineArn": [ref("Machine")],
                    },
                },
                "Targets": [
                    {
                        "Id": "seen",
                        "Arn": attribute("Seen", "Arn"),
                        "InputTransformer": {
                            "InputPathsMap": {
                                "arn": "$.detail.executionArn",
                                "name": "$.detail.name",
                                "status": "$.detail.status",
                            },
                            "InputTemplate": '{"step": "cleanup", "status": <status>, '
                            '"execution": {"id": <arn>, "name": <name>}}',
                        },
                    }
                ],
            },
        },
        "EndedMay": {
            "Type": "AWS::Lambda::Permission",
            "Properties": {
                "Action": "lambda:InvokeFunction",
                "FunctionName": attribute("Seen", "Arn"),
                "Principal": "events.amazonaws.com",
                "SourceArn": attribute("Ended", "Arn"),
            },
        },
        "Own": {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "EventPattern": {"source": ["modelzone.compile"], "detail-type": ["Compile Step"]},
                "Targets": [{"Id": "seen", "Arn": attribute("Seen", "Arn")}],
            },
        },
        "Reaper": {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "ScheduleExpression": "rate(15 minutes)",
                "Targets": [{"Id": "reap", "Arn": attribute("Seen", "Arn"), "Input": '{"step": "reap"}'}],
            },
        },
        "Topic": {"Type": "AWS::SNS::Topic", "Properties": {"KmsMasterKeyId": "alias/aws/sns"}},
        "Mail": {
            "Type": "AWS::SNS::Subscription",
            "Properties": {"TopicArn": ref("Topic"), "Protocol": "email", "Endpoint": "ops@example.com"},
        },
        "Order": {
            "Type": "AWS::SSM::Parameter",
            "Properties": {
                "Name": "/modelzone/dev/compile/orders/mixtral",
                "Type": "String",
                "Value": {"Fn::Join": ["", ['{"launch_template": {"id": "', ref("Template"), '", "version": "',
                                            attribute("Template", "LatestVersionNumber"), '"}}']]},
            },
        },
        "Template": {
            "Type": "AWS::EC2::LaunchTemplate",
            "Properties": {
                "LaunchTemplateData": {
                    "ImageId": "resolve:ssm:/aws/service/neuron/dlami/base/ubuntu-22.04/latest/image_id",
                    "InstanceInitiatedShutdownBehavior": "terminate",
                    "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
                    "TagSpecifications": [
                        {"ResourceType": kind, "Tags": [{"Key": "modelzone:environment", "Value": "dev"}]}
                        for kind in ("instance", "volume")
                    ],
                },
                "TagSpecifications": [
                    {"ResourceType": "launch-template", "Tags": [{"Key": "Name", "Value": "hosts"}]}
                ],
            },
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    with running_emulator(tmp_path_factory.mktemp("pipeline")) as running:
        s3 = running.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="code.zip", Body=zip_of({"code.py": CODE}))
        yield running


@pytest.fixture(scope="module")
def stack(emulator: RunningEmulator) -> dict[str, str]:
    outputs = {
        "Machine": output(ref("Machine")),
        "MachineArn": output(attribute("Machine", "Arn")),
        "MachineName": output(attribute("Machine", "Name")),
        "Topic": output(ref("Topic")),
        "Template": output(ref("Template")),
        "Version": output(attribute("Template", "LatestVersionNumber")),
        "Order": output(ref("Order")),
        "Reaper": output(ref("Reaper")),
    }
    return Stacks(emulator).deploy("pipeline", resources(), Outputs=outputs)


def run(emulator: RunningEmulator, machine: str, name: str, **given: Any) -> str:
    started = emulator.client("stepfunctions").start_execution(
        stateMachineArn=machine, name=name, input=json.dumps({"do": "", "state": {}, **given})
    )
    return str(started["executionArn"])


def ended(emulator: RunningEmulator, execution: str) -> dict[str, Any]:
    states = emulator.client("stepfunctions")
    wait_until(lambda: states.describe_execution(executionArn=execution)["status"] != "RUNNING", 20)
    found: dict[str, Any] = states.describe_execution(executionArn=execution)
    return found


def seen(emulator: RunningEmulator, name: str) -> Any:
    ssm = emulator.client("ssm")

    def found() -> list[dict[str, Any]]:
        parameters: list[dict[str, Any]] = ssm.get_parameters(Names=[f"/seen/{name}"])["Parameters"]
        return parameters

    wait_until(found, 15)
    return json.loads(found()[0]["Value"])


def test_a_state_machine_is_what_the_template_says(emulator: RunningEmulator, stack: dict[str, str]) -> None:
    found = emulator.client("stepfunctions").describe_state_machine(stateMachineArn=stack["Machine"])
    assert stack["MachineArn"] == stack["Machine"]
    assert stack["MachineName"] == found["name"] == "compile"
    assert found["loggingConfiguration"]["level"] == "ALL"
    assert found["loggingConfiguration"]["destinations"][0]["cloudWatchLogsLogGroup"]["logGroupArn"]
    assert "FUNCTION" not in found["definition"]


def test_an_execution_waits_little_and_succeeds(emulator: RunningEmulator, stack: dict[str, str]) -> None:
    began = time.monotonic()
    done = ended(emulator, run(emulator, stack["Machine"], "succeeds"))
    assert done["status"] == "SUCCEEDED", done
    assert json.loads(done["output"])["state"]["steps"] == ["look"]
    assert time.monotonic() - began < 8  # a Wait of 20 seconds among it


def test_a_functions_error_reaches_catch_and_fail(emulator: RunningEmulator, stack: dict[str, str]) -> None:
    done = ended(emulator, run(emulator, stack["Machine"], "fails", do="fail"))
    assert (done["status"], done["error"]) == ("FAILED", "CompileFailed")
    assert done["cause"] == "the compiler ran out of memory"
    history = emulator.client("stepfunctions").get_execution_history(executionArn=done["executionArn"])["events"]
    caught = next(json.loads(e["stateEnteredEventDetails"]["input"]) for e in history
                  if e.get("stateEnteredEventDetails", {}).get("name") == "Cleanup")  # fmt: skip
    assert caught["error"]["Error"] == "CompileError"
    assert json.loads(caught["error"]["Cause"])["errorType"] == "CompileError"
    event = seen(emulator, "FAILED")
    assert event == {"step": "cleanup", "status": "FAILED", "execution": {"id": done["executionArn"], "name": "fails"}}


def test_an_execution_that_is_stopped_stays_aborted(emulator: RunningEmulator, stack: dict[str, str]) -> None:
    execution = run(emulator, stack["Machine"], "stopped", do="slow")
    time.sleep(1.2)
    emulator.client("stepfunctions").stop_execution(executionArn=execution, cause="by the operator")
    assert seen(emulator, "ABORTED")["execution"]["name"] == "stopped"
    time.sleep(2)  # the task ends with an error meanwhile
    assert ended(emulator, execution)["status"] == "ABORTED"


def test_executions_are_listed_by_their_state(emulator: RunningEmulator, stack: dict[str, str]) -> None:
    states = emulator.client("stepfunctions")
    execution = run(emulator, stack["Machine"], "listed")
    running = states.list_executions(stateMachineArn=stack["Machine"], statusFilter="RUNNING")["executions"]
    assert [row["name"] for row in running] == ["listed"]
    with pytest.raises(states.exceptions.ExecutionAlreadyExists):
        states.start_execution(stateMachineArn=stack["Machine"], name="listed", input='{"other": 1}')
    ended(emulator, execution)
    assert states.list_executions(stateMachineArn=stack["Machine"], statusFilter="RUNNING")["executions"] == []


def test_own_events_reach_a_rule(emulator: RunningEmulator, stack: dict[str, str]) -> None:
    assert stack
    detail = {"environment": "dev", "step": "export", "status": "started"}
    entry = {"Source": "modelzone.compile", "DetailType": "Compile Step", "Detail": json.dumps(detail)}
    assert emulator.client("events").put_events(Entries=[entry])["FailedEntryCount"] == 0
    assert seen(emulator, "Compile-Step")["detail"] == detail


def test_the_rest_of_the_stack(emulator: RunningEmulator, stack: dict[str, str]) -> None:
    (mail,) = emulator.client("sns").list_subscriptions_by_topic(TopicArn=stack["Topic"])["Subscriptions"]
    assert (mail["Protocol"], mail["Endpoint"]) == ("email", "ops@example.com")
    assert emulator.client("sns").publish(TopicArn=stack["Topic"], Subject="done", Message="it is")["MessageId"]
    rule = emulator.client("events").describe_rule(Name=stack["Reaper"].rpartition("/")[2])
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(15 minutes)", "ENABLED")
    order = emulator.client("ssm").get_parameter(Name=stack["Order"])["Parameter"]["Value"]
    assert json.loads(order)["launch_template"] == {"id": stack["Template"], "version": stack["Version"]}
    (version,) = emulator.client("ec2").describe_launch_template_versions(LaunchTemplateId=stack["Template"])[
        "LaunchTemplateVersions"
    ]
    assert len(version["LaunchTemplateData"]["TagSpecifications"]) == 2


def test_a_host_of_that_template_has_its_tags(emulator: RunningEmulator, stack: dict[str, str]) -> None:
    ec2 = emulator.client("ec2")
    (host,) = ec2.run_instances(
        LaunchTemplate={"LaunchTemplateId": stack["Template"], "Version": stack["Version"]},
        InstanceType="inf2.xlarge",
        MinCount=1,
        MaxCount=1,
    )["Instances"]
    assert {"Key": "modelzone:environment", "Value": "dev"} in host["Tags"]
    (volume,) = host["BlockDeviceMappings"]
    (described,) = ec2.describe_volumes(VolumeIds=[volume["Ebs"]["VolumeId"]])["Volumes"]
    assert described["Tags"] == [{"Key": "modelzone:environment", "Value": "dev"}]
    ec2.terminate_instances(InstanceIds=[host["InstanceId"]])
