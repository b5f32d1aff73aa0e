"""The custom resources that wait for a compilation, window after window."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from unit.compiled_artifact_aws import BUCKET, FACTS, KEY, MACHINE, NAME, PREFIX, START, FakeAws, client_error, publish

from compiled_artifact import waiting
from compiled_artifact.aws import Clients
from compiled_artifact.errors import CheckError
from compiled_artifact.executions import execution_name
from compiled_artifact.facts import artifact_key
from compiled_artifact.response import MAX_REASON_BYTES
from modelzone import compiling

HINT = "Compile it: modelzone compile mixtral -e dev."


class Deploy:
    """One deploy: a window is opened and looked at as the provider framework does."""

    def __init__(self, **overrides: Any) -> None:
        self.aws = FakeAws()
        self.now = START
        planned = {
            "MinInstanceCount": "1",
            "MaxInstanceCount": "2",
            "InstanceType": "ml.inf2.24xlarge",
            "ModelId": FACTS["model_id"],
            "ModelRevision": FACTS["model_revision"],
            "TensorParallelDegree": "8",
            "BatchSize": "1",
            "SequenceLength": "1024",
        }
        self.properties = {
            "ServiceToken": "arn",
            "Bucket": BUCKET,
            "Deployment": "mixtral",
            "Facts": FACTS,
            "Planned": planned,
            "Given": {**dict.fromkeys(planned, ""), **overrides.pop("given", {})},
            "AllowedTensorParallelDegrees": {"ml.inf2.24xlarge": "1,2,4,8"},
            "MaxSequenceLength": "32768",
            "MaxInputTokens": "512",
            "CompileHint": HINT,
            "StateMachineArn": MACHINE,
            "Window": "1",
            "Windows": "3",
            "WindowSeconds": "3000",
            "Compile": "true",
            **overrides,
        }
        self.event: dict[str, Any] = {}

    def open(self, window: int = 1, kind: str = "Create", **more: Any) -> dict[str, Any]:
        request = {
            "RequestType": kind,
            "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/modelzone-dev-deployment-mixtral/1",
            "ResourceProperties": {**self.properties, "Window": str(window)},
            **more,
        }
        result = waiting.open_window(request, clients=self.aws, now=self.now)  # type: ignore[arg-type]
        self.event = json.loads(json.dumps({**request, **result}))
        return result

    def look(self, now: datetime | None = None) -> dict[str, Any]:
        self.now = now or self.now
        return waiting.finished(
            self.event,
            clients=self.aws,  # type: ignore[arg-type]
            now=self.now,
            progress_path="/modelzone/dev/compile/progress",
        )

    def progress(self, **more: Any) -> None:
        self.aws.ssm.parameters[f"/modelzone/dev/compile/progress/{KEY}"] = json.dumps({"step": "export", **more})

    @property
    def started(self) -> list[dict[str, Any]]:
        return self.aws.stepfunctions.called("start_execution")


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(CheckError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert len(json.dumps(text)) <= MAX_REASON_BYTES
    return text


def test_a_complete_artifact_starts_nothing() -> None:
    deploy = Deploy()
    publish(deploy.aws.s3)

    result = deploy.open()

    assert result["PhysicalResourceId"] == f"window 1 of 3: s3://{BUCKET}/{PREFIX} is complete"
    assert deploy.look() == {"IsComplete": True}
    assert not deploy.aws.stepfunctions.calls


def test_a_missing_artifact_starts_a_compilation() -> None:
    deploy = Deploy()

    result = deploy.open()

    (given,) = deploy.started
    assert given["stateMachineArn"] == MACHINE
    assert given["name"] == NAME
    assert json.loads(given["input"]) == {
        "deployment": "mixtral",
        "requested_by": "deploy of modelzone-dev-deployment-mixtral",
    }
    assert result["PhysicalResourceId"] == f"window 1 of 3: started {NAME}"
    assert deploy.look() == {"IsComplete": False}


def test_what_the_operator_gave_goes_along() -> None:
    deploy = Deploy(given={"BatchSize": "4", "SequenceLength": "2048", "MinInstanceCount": "2"})

    deploy.open()

    (given,) = deploy.started
    facts = {"batch_size": "4", "sequence_length": "2048"}
    assert json.loads(given["input"])["facts"] == facts
    assert artifact_key({**FACTS, **facts}) in given["name"]


def test_half_an_artifact_is_compiled_again() -> None:
    deploy = Deploy()
    publish(deploy.aws.s3)
    del deploy.aws.s3.objects[PREFIX + "config.json"]

    deploy.open()

    assert len(deploy.started) == 1


def test_a_running_compilation_is_joined() -> None:
    deploy = Deploy()
    machine = deploy.aws.stepfunctions
    for name, more in {
        "other-0123456789abcdef0123-20261121090000": {},
        "by-hand": {},
        f"mixtral-{KEY}-20261121093000": {"input": json.dumps({"weights_only": True})},
        f"mixtral-{KEY}-20261121093500": {"started": START - timedelta(minutes=20)},
        f"twin-{KEY}-20261121094000": {"started": START - timedelta(minutes=25)},
        f"mixtral-{KEY}-20261121080000": {"status": "FAILED", "started": START - timedelta(hours=3)},
    }.items():
        machine.add(name, **more)

    result = deploy.open()

    assert not deploy.started
    assert result["PhysicalResourceId"] == f"window 1 of 3: waiting for twin-{KEY}-20261121094000", "the oldest"


def test_two_that_start_in_the_same_second_wait_for_one() -> None:
    deploy = Deploy()
    deploy.aws.stepfunctions.planted["start_execution"] = [client_error("ExecutionAlreadyExists")]

    result = deploy.open()

    assert result["Execution"] == MACHINE.replace("stateMachine", "execution") + ":" + NAME


def test_without_compiling_a_missing_artifact_is_refused() -> None:
    reason = refusal(Deploy(Compile="false").open)

    assert "No compiled artifact for deployment 'mixtral'" in reason
    assert HINT in reason


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"given": {"TensorParallelDegree": "3"}}, "TensorParallelDegree 3 is not possible on ml.inf2.24xlarge"),
        ({"given": {"SequenceLength": "99999"}}, "SequenceLength is 99999; this model takes 32768 at most"),
        ({"StateMachineArn": ""}, "Property StateMachineArn is missing or empty"),
        ({"WindowSeconds": "long"}, "WindowSeconds is 'long'"),
        ({"Windows": "0"}, "Windows is '0', expected a whole number of at least 1"),
    ],
)
def test_impossible_numbers_start_nothing(overrides: dict[str, Any], words: str) -> None:
    deploy = Deploy(**overrides)

    assert words in refusal(deploy.open)
    assert not deploy.aws.stepfunctions.calls


def test_deleting_does_nothing() -> None:
    deploy = Deploy()

    assert deploy.open(kind="Delete", PhysicalResourceId="x") == {"PhysicalResourceId": "x"}
    assert deploy.look() == {"IsComplete": True}
    assert not deploy.aws.stepfunctions.calls


def test_a_compilation_that_succeeds_ends_the_wait() -> None:
    deploy = Deploy()
    arn = deploy.open()["Execution"]
    deploy.aws.stepfunctions.executions[arn] |= {
        "status": "SUCCEEDED",
        "stopDate": START + timedelta(minutes=41, seconds=10),
    }

    assert deploy.look(START + timedelta(minutes=42)) == {
        "IsComplete": True,
        "PhysicalResourceId": f"window 1 of 3: compiled in 41 min ({NAME})",
    }


@pytest.mark.parametrize(
    ("status", "more", "words"),
    [
        (
            "FAILED",
            {"error": "CompileFailed", "cause": "step 'export' failed: why. Log: group stream"},
            "Compiling deployment 'mixtral' failed: step 'export' failed: why. Log: group stream. More: modelzone",
        ),
        ("FAILED", {"error": "States.Runtime"}, "failed without a message (States.Runtime)"),
        ("FAILED", {"cause": "ü" * 9000}, "üüü…"),
        ("ABORTED", {"cause": "enough"}, f"compilation {NAME} was cancelled: enough. More:"),
        ("TIMED_OUT", {}, f"compilation {NAME} took longer than it may; raise compile.max_hours"),
    ],
)
def test_a_compilation_that_fails_fails_the_deploy(status: str, more: dict[str, Any], words: str) -> None:
    deploy = Deploy()
    arn = deploy.open()["Execution"]
    deploy.aws.stepfunctions.executions[arn] |= {"status": status, "stopDate": START, **more}

    reason = refusal(deploy.look)

    assert words in reason
    assert reason.endswith("More: modelzone compile logs mixtral -e dev.")


def test_windows_follow_one_another() -> None:
    deploy = Deploy()
    deploy.open()
    assert deploy.look(START + timedelta(seconds=2999)) == {"IsComplete": False}
    deploy.progress(percent=12.4)

    result = deploy.look(START + timedelta(seconds=3000))

    assert result == {
        "IsComplete": True,
        "PhysicalResourceId": f"window 1 of 3: export 12 %, 50 min ({NAME})",
    }
    deploy.open(window=2)
    assert len(deploy.started) == 1, "the second window waits for the same"
    assert deploy.look() == {"IsComplete": False}
    deploy.progress(percent=None)
    result = deploy.look(START + timedelta(seconds=6000))
    assert result["PhysicalResourceId"] == f"window 2 of 3: export, 100 min ({NAME})"
    deploy.open(window=3)

    reason = refusal(deploy.look, START + timedelta(seconds=9000))

    assert f"'mixtral' is still being compiled: export, 150 min ({NAME})" in reason
    assert "the compilation goes on" in reason
    assert "modelzone compile mixtral -e dev --follow, and deploy again" in reason


def test_a_window_that_is_over_before_the_job_begins() -> None:
    deploy = Deploy()
    deploy.open()

    result = deploy.look(START + timedelta(hours=1))

    assert result["PhysicalResourceId"] == f"window 1 of 3: starting a host, 60 min ({NAME})"


def test_a_compilation_that_failed_between_two_windows_is_not_repeated() -> None:
    deploy = Deploy()
    arn = deploy.open()["Execution"]
    deploy.now = START + timedelta(minutes=50)
    deploy.aws.stepfunctions.executions[arn] |= {
        "status": "FAILED",
        "cause": "step 'export' failed: why.",
        "stopDate": START + timedelta(minutes=49),
    }

    assert "step 'export' failed: why. More: modelzone compile logs mixtral." in refusal(deploy.open, 2)
    assert len(deploy.started) == 1
    # A later deploy tries again.
    deploy.open(window=1)
    assert len(deploy.started) == 2


@pytest.mark.parametrize("stopped", [timedelta(minutes=20), None])
def test_an_old_failure_is_of_another_deploy(stopped: timedelta | None) -> None:
    deploy = Deploy()
    more = {"stopDate": START - stopped} if stopped else {}
    deploy.aws.stepfunctions.add(f"mixtral-{KEY}-20261121080000", "FAILED", started=START - timedelta(hours=2), **more)

    deploy.open(window=2)

    assert len(deploy.started) == 1


def test_an_answer_that_does_not_come_is_waited_for() -> None:
    deploy = Deploy()
    deploy.open()
    machine = deploy.aws.stepfunctions
    machine.planted["describe_execution"] = [
        client_error("ThrottlingException"),
        EndpointConnectionError(endpoint_url="https://aws.invalid"),
    ]

    assert deploy.look() == {"IsComplete": False}
    assert deploy.look() == {"IsComplete": False}
    machine.planted["describe_execution"] = [client_error("ThrottlingException")]
    assert "DescribeExecution failed with ThrottlingException" in refusal(deploy.look, START + timedelta(hours=1))


@pytest.mark.parametrize("operation", ["list_executions", "start_execution"])
def test_a_machine_that_refuses_is_named(operation: str) -> None:
    deploy = Deploy()
    deploy.aws.stepfunctions.planted[operation] = [client_error("AccessDeniedException", "x" * 5000)]

    reason = refusal(deploy.open)

    assert "failed with AccessDeniedException: xxx" in reason


def test_a_machine_that_cannot_be_reached() -> None:
    deploy = Deploy()
    deploy.aws.stepfunctions.planted["list_executions"] = [EndpointConnectionError(endpoint_url="https://aws.invalid")]

    assert "could not be started or followed" in refusal(deploy.open)


def test_a_store_that_fails_starts_nothing() -> None:
    deploy = Deploy()
    deploy.aws.s3.planted["get_object"] = [client_error("SlowDown")]

    assert "could not be read: SlowDown" in refusal(deploy.open)
    assert not deploy.started


def test_names_of_executions_fit() -> None:
    name = execution_name("d" * 100, KEY, START)

    assert len(name) == 80
    assert name.endswith(f"d-{KEY}-20261121100000")


def test_names_of_executions_are_the_command_line_s() -> None:
    from modelzone.compiling import executions  # noqa: PLC0415 - beside what it is compared with

    assert compiling
    for deployment in ("mixtral", "d" * 100):
        assert execution_name(deployment, KEY, START) == executions.execution_name(deployment, KEY, START)


def test_the_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    deploy = Deploy()
    monkeypatch.setattr(Clients, "shared", classmethod(lambda _: deploy.aws))
    monkeypatch.setenv("PROGRESS_PATH", "/modelzone/dev/compile/progress")
    request = {"RequestType": "Create", "ResourceProperties": deploy.properties}

    result = waiting.on_event(request, None)

    assert waiting.is_complete({**request, **result}, None) == {"IsComplete": False}
    assert json.loads(deploy.started[0]["input"])["requested_by"] == "deploy of a stack"
