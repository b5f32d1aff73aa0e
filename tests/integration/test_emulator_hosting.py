"""SageMaker hosting and its runtime on an emulator process, deployed by CloudFormation and called by boto3."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EventStreamError
from integration.test_emulator_support import (
    ACCOUNT,
    IMAGE,
    RunningEmulator,
    Stacks,
    attribute,
    output,
    running_emulator,
    wait_until,
)

BUCKET = "hosting-models"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    with running_emulator(tmp_path_factory.mktemp("hosting")) as running:
        s3 = running.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        for number in (1, 2):
            s3.put_object(Bucket=BUCKET, Key=f"models/{number}/config.json", Body=f"config {number}".encode())
            s3.put_object(Bucket=BUCKET, Key=f"models/{number}/checkpoint/weights", Body=b"weights")
        # Starts with the same characters as models/1/ but is another model.
        s3.put_object(Bucket=BUCKET, Key="models/10/config.json", Body=b"config 10")
        yield running


@pytest.fixture(scope="module")
def stacks(emulator: RunningEmulator) -> Stacks:
    return Stacks(emulator)


def resources(
    *, version: str = "1", image: str = IMAGE, prefix: str = "models/1/", timeout: int = 60, **environment: str
) -> dict[str, Any]:
    """Role, model, configuration and endpoint, all without names as CDK leaves them."""
    trust = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "sagemaker"}}]}
    return {
        "Role": {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": trust}},
        "Model": {
            "Type": "AWS::SageMaker::Model",
            "Properties": {
                "ExecutionRoleArn": attribute("Role", "Arn"),
                "EnableNetworkIsolation": True,
                "PrimaryContainer": {
                    "Image": image,
                    "Environment": {"FAKE_VERSION": version, **environment},
                    "ModelDataSource": {
                        "S3DataSource": {
                            "S3Uri": f"s3://{BUCKET}/{prefix}",
                            "S3DataType": "S3Prefix",
                            "CompressionType": "None",
                        }
                    },
                },
            },
        },
        "Config": {
            "Type": "AWS::SageMaker::EndpointConfig",
            "Properties": {
                "ProductionVariants": [
                    {
                        "VariantName": "AllTraffic",
                        "ModelName": attribute("Model", "ModelName"),
                        "InstanceType": "ml.inf2.24xlarge",
                        "InitialInstanceCount": 1,
                        "InitialVariantWeight": 1.0,
                        "ContainerStartupHealthCheckTimeoutInSeconds": timeout,
                    }
                ]
            },
        },
        "Endpoint": {
            "Type": "AWS::SageMaker::Endpoint",
            "Properties": {"EndpointConfigName": attribute("Config", "EndpointConfigName")},
        },
    }


OUTPUTS = {
    "Outputs": {
        "Endpoint": output(attribute("Endpoint", "EndpointName")),
        "Config": output(attribute("Config", "EndpointConfigName")),
        "Model": output(attribute("Model", "ModelName")),
        "Ref": output({"Ref": "Endpoint"}),
    }
}


@pytest.fixture(scope="module")
def endpoint(stacks: Stacks) -> str:
    """An endpoint in service that no test changes."""
    return stacks.deploy("serving", resources(), **OUTPUTS)["Endpoint"]


def invoke(emulator: RunningEmulator, endpoint: str, body: Any, **options: Any) -> Any:
    answer = emulator.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint, Body=json.dumps(body), ContentType="application/json", **options
    )
    return json.load(answer["Body"])


@contextmanager
def stream(emulator: RunningEmulator, endpoint: str, body: Any) -> Iterator[Any]:
    answer = emulator.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=endpoint, Body=json.dumps(body), ContentType="application/json"
    )
    with closing(answer["Body"]) as events:
        yield events


def models(emulator: RunningEmulator, stack: str) -> list[str]:
    listed = emulator.client("sagemaker").list_models()["Models"]
    return [model["ModelName"] for model in listed if model["ModelName"].startswith(stack)]


def test_the_container_gets_its_environment_and_exactly_the_data_of_its_prefix(
    emulator: RunningEmulator, endpoint: str
) -> None:
    answer = invoke(emulator, endpoint, {"n": 1})
    assert answer["files"] == {"checkpoint/weights": "weights", "config.json": "config 1"}
    assert answer["version"] == "1"
    assert answer["environment"]["AWS_REGION"] == "us-east-1"
    assert answer["leaked"] == []


def test_the_control_plane_describes_what_was_deployed(
    emulator: RunningEmulator, stacks: Stacks, endpoint: str
) -> None:
    sagemaker, deployed = emulator.client("sagemaker"), stacks.outputs("serving")
    described = sagemaker.describe_endpoint(EndpointName=endpoint)
    assert (described["EndpointStatus"], described["EndpointConfigName"]) == ("InService", deployed["Config"])
    assert described["EndpointArn"] == deployed["Ref"]
    variant = sagemaker.describe_endpoint_config(EndpointConfigName=deployed["Config"])["ProductionVariants"][0]
    assert (variant["InstanceType"], variant["ModelName"]) == ("ml.inf2.24xlarge", deployed["Model"])
    assert sagemaker.describe_model(ModelName=deployed["Model"])["EnableNetworkIsolation"] is True


def test_custom_attributes_and_the_variant_travel_both_ways(emulator: RunningEmulator, endpoint: str) -> None:
    answer = emulator.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint, Body=b"{}", CustomAttributes="asked", TargetVariant="AllTraffic"
    )
    assert json.load(answer["Body"])["attributes"] == "asked"
    assert (answer["CustomAttributes"], answer["InvokedProductionVariant"]) == ("answered", "AllTraffic")


def test_a_stream_arrives_piece_by_piece(emulator: RunningEmulator, endpoint: str) -> None:
    arrivals, pieces = [], []
    with stream(emulator, endpoint, {"do": "stream", "pieces": 4, "pause": 0.15}) as events:
        for event in events:
            arrivals.append(time.monotonic())
            pieces.append(event["PayloadPart"]["Bytes"])
    assert b"".join(pieces) == b"".join(b"data:%d\n\n" % number for number in range(4))
    assert arrivals[-1] - arrivals[0] > 0.3


def test_a_stream_that_breaks_off_is_an_error_of_the_stream(emulator: RunningEmulator, endpoint: str) -> None:
    with stream(emulator, endpoint, {"do": "stream", "pieces": 1, "break": True}) as events:
        assert next(iter(events))["PayloadPart"]["Bytes"] == b"data:0\n\n"
        with pytest.raises(EventStreamError) as caught:
            list(events)
    assert caught.value.response["Error"]["Code"] == "ModelStreamError"


def test_what_the_container_refuses_is_a_model_error_with_its_own_status(
    emulator: RunningEmulator, endpoint: str
) -> None:
    runtime = emulator.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ModelError) as caught:
        runtime.invoke_endpoint(EndpointName=endpoint, Body=json.dumps({"do": "refuse"}))
    answer = caught.value.response
    assert answer["OriginalStatusCode"] == 422
    assert json.loads(answer["OriginalMessage"]) == {"error": "too long", "error_type": "validation"}
    assert "Received client error (422) from primary with message" in answer["Error"]["Message"]
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 424


def test_an_unknown_endpoint_is_a_validation_error(emulator: RunningEmulator) -> None:
    runtime = emulator.client("sagemaker-runtime")
    with pytest.raises(ClientError) as caught:
        runtime.invoke_endpoint(EndpointName="absent", Body=b"{}")
    assert caught.value.response["Error"] == {
        "Code": "ValidationError",
        "Message": f"Endpoint absent of account {ACCOUNT} not found.",
    }


def test_a_container_that_ends_is_started_again(emulator: RunningEmulator, endpoint: str) -> None:
    before = invoke(emulator, endpoint, {})["pid"]
    runtime = emulator.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ModelError):
        runtime.invoke_endpoint(EndpointName=endpoint, Body=json.dumps({"do": "exit"}))
    with pytest.raises(runtime.exceptions.ModelNotReadyException):
        runtime.invoke_endpoint(EndpointName=endpoint, Body=b"{}")

    def serves() -> bool:
        try:
            return bool(invoke(emulator, endpoint, {})["pid"] != before)
        except ClientError:
            return False

    wait_until(serves)


def test_a_client_that_leaves_does_not_disturb_the_server(emulator: RunningEmulator, endpoint: str) -> None:
    with stream(emulator, endpoint, {"do": "stream", "pieces": 500, "pause": 0.02}) as events:
        next(iter(events))
    assert invoke(emulator, endpoint, {"n": 2})["echo"] == {"n": 2}


def test_the_emulator_answers_while_an_endpoint_starts(emulator: RunningEmulator, stacks: Stacks) -> None:
    cloudformation = emulator.client("cloudformation")
    template = {"Resources": resources(FAKE_START_SECONDS="1.5")}
    cloudformation.create_stack(
        StackName="slow", TemplateBody=json.dumps(template), Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    sagemaker = emulator.client("sagemaker")

    def creating() -> bool:
        endpoints = sagemaker.list_endpoints(NameContains="slow")["Endpoints"]
        return [endpoint["EndpointStatus"] for endpoint in endpoints] == ["Creating"]

    wait_until(creating)
    asked = time.monotonic()
    emulator.client("s3").list_objects_v2(Bucket=BUCKET)
    assert time.monotonic() - asked < 0.5
    assert stacks.settled("slow") == "CREATE_COMPLETE"
    stacks.delete("slow")
    wait_until(lambda: not [p for p in emulator.processes("model-server") if p["name"].startswith("slow")])


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("exits", {"FAKE_START": "exit"}, "did not pass the ping health check"),
        ("too-short", {"timeout": 1}, "ContainerStartupHealthCheckTimeoutInSeconds"),
        ("no-image", {"image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1"}, "CannotPullContainerError"),
        ("no-data", {"prefix": "models/3/"}, "Failed to download model data"),
    ],
)
def test_an_endpoint_that_fails_rolls_the_stack_back(
    emulator: RunningEmulator, stacks: Stacks, name: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(AssertionError, match=reason):
        stacks.deploy(f"fails-{name}", resources(**changes))
    assert stacks.settled(f"fails-{name}") == "ROLLBACK_COMPLETE"
    sagemaker = emulator.client("sagemaker")
    assert sagemaker.list_endpoints(NameContains=f"fails-{name}")["Endpoints"] == []
    assert models(emulator, f"fails-{name}") == []
    assert not [p for p in emulator.processes() if p["name"].startswith(f"fails-{name}")]
    stacks.delete(f"fails-{name}")


def test_a_failed_containers_output_is_where_sagemaker_says(emulator: RunningEmulator, stacks: Stacks) -> None:
    with pytest.raises(AssertionError, match="Please check CloudWatch logs for this endpoint"):
        stacks.deploy("logged", resources(FAKE_START="exit"))
    logs = emulator.client("logs")
    (group,) = logs.describe_log_groups(logGroupNamePrefix="/aws/sagemaker/Endpoints/logged")["logGroups"]
    messages = [row["message"] for row in logs.filter_log_events(logGroupName=group["logGroupName"])["events"]]
    assert messages[-1] == "the model does not fit"


def test_an_update_replaces_model_and_configuration_and_keeps_the_endpoint(
    emulator: RunningEmulator, stacks: Stacks
) -> None:
    before = stacks.deploy("updated", resources(), **OUTPUTS)
    after = stacks.deploy("updated", resources(version="2", prefix="models/2/"), **OUTPUTS)
    assert after["Endpoint"] == before["Endpoint"]
    assert after["Model"] != before["Model"]
    assert after["Config"] != before["Config"]
    answer = invoke(emulator, after["Endpoint"], {})
    assert (answer["version"], answer["files"]["config.json"]) == ("2", "config 2")
    sagemaker = emulator.client("sagemaker")
    assert models(emulator, "updated") == [after["Model"]]
    wait_until(lambda: len([p for p in emulator.processes() if p["name"].startswith("updated")]) == 1)
    stacks.delete("updated")
    assert sagemaker.list_endpoint_configs(NameContains="updated")["EndpointConfigs"] == []


def test_a_failed_update_leaves_the_old_model_serving(emulator: RunningEmulator, stacks: Stacks) -> None:
    before = stacks.deploy("kept", resources(), **OUTPUTS)
    pid = invoke(emulator, before["Endpoint"], {})["pid"]
    with pytest.raises(AssertionError, match="did not pass the ping health check"):
        stacks.deploy("kept", resources(version="2", FAKE_START="exit"), **OUTPUTS)
    assert stacks.settled("kept") == "UPDATE_ROLLBACK_COMPLETE"
    described = emulator.client("sagemaker").describe_endpoint(EndpointName=before["Endpoint"])
    assert (described["EndpointStatus"], described["EndpointConfigName"]) == ("InService", before["Config"])
    answer = invoke(emulator, before["Endpoint"], {})
    assert (answer["version"], answer["pid"]) == ("1", pid)
    # What failed can be mended from there.
    after = stacks.deploy("kept", resources(version="3"), **OUTPUTS)
    assert invoke(emulator, after["Endpoint"], {})["version"] == "3"
    stacks.delete("kept")


def test_an_endpoint_updated_before_something_else_fails_goes_back(emulator: RunningEmulator, stacks: Stacks) -> None:
    before = stacks.deploy("reverted", resources(), **OUTPUTS)
    template = resources(version="2")
    template["Broken"] = {
        "Type": "AWS::SageMaker::EndpointConfig",
        "DependsOn": "Endpoint",
        "Properties": {
            "ProductionVariants": [
                {"VariantName": "a", "ModelName": "absent", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
            ]
        },
    }
    with pytest.raises(AssertionError, match="Could not find model"):
        stacks.deploy("reverted", template, **OUTPUTS)
    assert stacks.settled("reverted") == "UPDATE_ROLLBACK_COMPLETE"
    assert invoke(emulator, before["Endpoint"], {})["version"] == "1"
    described = emulator.client("sagemaker").describe_endpoint(EndpointName=before["Endpoint"])
    assert described["EndpointConfigName"] == before["Config"]
    stacks.delete("reverted")


def test_the_api_refuses_what_sagemaker_refuses(emulator: RunningEmulator, endpoint: str) -> None:
    sagemaker = emulator.client("sagemaker")
    config = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    with pytest.raises(ClientError, match="Cannot create already existing endpoint"):
        sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    with pytest.raises(ClientError, match="Could not find endpoint configuration"):
        sagemaker.create_endpoint(EndpointName="other", EndpointConfigName="absent")
    with pytest.raises(ClientError, match="Could not find endpoint "):
        sagemaker.delete_endpoint(EndpointName="absent")


def test_an_endpoint_in_progress_cannot_be_updated(emulator: RunningEmulator, stacks: Stacks) -> None:
    deployed = stacks.deploy("progress", resources(FAKE_START_SECONDS="1"), **OUTPUTS)
    sagemaker = emulator.client("sagemaker")
    sagemaker.create_endpoint(EndpointName="second", EndpointConfigName=deployed["Config"])
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        sagemaker.update_endpoint(EndpointName="second", EndpointConfigName=deployed["Config"])
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName="second", WaiterConfig={"Delay": 0.1, "MaxAttempts": 100}
    )
    sagemaker.delete_endpoint(EndpointName="second")
    stacks.delete("progress")


def test_an_endpoint_can_be_scaled_by_application_auto_scaling(emulator: RunningEmulator, stacks: Stacks) -> None:
    template = resources()
    resource_id = {"Fn::Sub": "endpoint/${Endpoint.EndpointName}/variant/AllTraffic"}
    dimension = "sagemaker:variant:DesiredInstanceCount"
    template["Target"] = {
        "Type": "AWS::ApplicationAutoScaling::ScalableTarget",
        "Properties": {
            "ResourceId": resource_id,
            "ScalableDimension": dimension,
            "ServiceNamespace": "sagemaker",
            "MinCapacity": 1,
            "MaxCapacity": 2,
        },
    }
    template["Policy"] = {
        "Type": "AWS::ApplicationAutoScaling::ScalingPolicy",
        "Properties": {
            "PolicyName": "per-instance",
            "PolicyType": "TargetTrackingScaling",
            "ScalingTargetId": {"Ref": "Target"},
            "TargetTrackingScalingPolicyConfiguration": {
                "TargetValue": 5,
                "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
            },
        },
    }
    stacks.deploy("scaled", template)
    scaling = emulator.client("application-autoscaling")
    target = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"][0]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 2)
    template["Target"]["Properties"]["MaxCapacity"] = 4
    stacks.deploy("scaled", template)
    target = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"][0]
    assert target["MaxCapacity"] == 4
    policy = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"][0]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 5.0
    assert policy["ResourceId"] == target["ResourceId"]
    stacks.delete("scaled")
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
    assert scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"] == []


def test_the_log_holds_what_the_container_prints(emulator: RunningEmulator, endpoint: str) -> None:
    log = (emulator.state_dir / "logs" / f"model-server-{endpoint}.log").read_text()
    assert "started with ['config.json', 'weights']" in log


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_no_child_survives_the_emulator(tmp_path: Path, kind: signal.Signals) -> None:
    with running_emulator(tmp_path) as running:
        s3 = running.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="models/1/config.json", Body=b"1")
        Stacks(running).deploy("doomed", resources())
        (child,) = json.loads((tmp_path / "children.json").read_text())
        assert child["kind"] == "model-server"
        assert child["pid"] == running.processes()[0]["pid"]
        started = time.monotonic()
        running.process.send_signal(kind)
        running.process.wait(timeout=5)
        assert time.monotonic() - started < 5
        wait_until(lambda: not exists(child["pid"]), 2)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
