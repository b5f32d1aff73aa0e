"""The custom resources that wait for a compilation, window after window."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from unit.compiled_artifact_aws import (
    BUCKET,
    EXECUTION,
    FACTS,
    KEY,
    MACHINE,
    NAME,
    PREFIX,
    START,
    FakeAws,
    client_error,
    publish,
)

from compiled_artifact import waiting
from compiled_artifact.aws import Clients
from compiled_artifact.executions import execution_name
from compiled_artifact.facts import artifact_key
from modelzone import compiling


class Deploy:
    """One deploy: a window is opened and looked at as the provider framework does."""

    def __init__(self, **overrides: Any) -> None:
        self.aws = FakeAws()
        self.now = START
        planned = {
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
            "CompileHint": "Compile it: modelzone compile mixtral -e dev.",
            "StateMachineArn": MACHINE,
            "Window": "1",
            "Windows": "3",
            "WindowSeconds": "3000",
            "Compile": "true",
            "Previous": "",
            **overrides,
        }
        self.event: dict[str, Any] = {}

    def open(self, window: int = 1, kind: str = "Create", previous: str = "", **more: Any) -> dict[str, Any]:
        request = {
            "RequestType": kind,
            "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/modelzone-dev-deployment-mixtral/1",
            "ResourceProperties": {**self.properties, "Window": str(window), "Previous": previous},
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

    def outcome(self, now: datetime | None = None) -> str:
        """Of a window that must be over now."""
        result = self.look(now)
        assert result["IsComplete"] is True
        return outcome_of(result)

    @property
    def started(self) -> list[dict[str, Any]]:
        return self.aws.stepfunctions.called("start_execution")


ARN = EXECUTION["id"]


def outcome_of(result: dict[str, Any]) -> str:
    text = result["Data"]["Outcome"]
    assert isinstance(text, str)
    assert "\n" not in text
    assert len(json.dumps(text)) <= 520
    assert len(result.get("PhysicalResourceId", "")) <= 512
    return text


def test_a_complete_artifact_starts_nothing() -> None:
    deploy = Deploy()
    publish(deploy.aws.s3)

    result = deploy.open()

    assert result["PhysicalResourceId"] == f"window 1 of 3: s3://{BUCKET}/{PREFIX} is complete"
    assert outcome_of(result) == "complete"
    assert deploy.look() == {"IsComplete": True, "Data": {"Outcome": "complete"}}
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
    deploy = Deploy(given={"BatchSize": "4", "SequenceLength": "2048", "InstanceType": "ml.inf2.24xlarge"})

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


def test_without_compiling_the_check_says_that_it_is_missing() -> None:
    deploy = Deploy(Compile="false")

    assert outcome_of(deploy.open()) == "refused"
    assert deploy.outcome() == "refused"
    assert not deploy.aws.stepfunctions.calls
    publish(deploy.aws.s3)
    assert outcome_of(deploy.open()) == "complete"


@pytest.mark.parametrize(
    "overrides",
    [
        {"given": {"TensorParallelDegree": "3"}},
        {"given": {"SequenceLength": "99999"}},
        {"given": {"BatchSize": "none"}},
        {"MaxInputTokens": "4096"},
        {"Facts": {}},
    ],
)
def test_impossible_numbers_start_nothing(overrides: dict[str, Any]) -> None:
    deploy = Deploy(**overrides)

    assert outcome_of(deploy.open()) == "refused"
    assert deploy.event["PhysicalResourceId"] == "window 1 of 3: refused"
    assert not deploy.aws.stepfunctions.calls


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"StateMachineArn": ""}, "unknown Property StateMachineArn is missing or empty."),
        ({"WindowSeconds": "long"}, "unknown WindowSeconds is 'long'"),
        ({"Windows": "0"}, "unknown Windows is '0', expected a whole number of at least 1"),
        ({"Given": None}, "unknown AttributeError"),
    ],
)
def test_a_window_that_is_wrong_itself_fails_nothing(overrides: dict[str, Any], words: str) -> None:
    deploy = Deploy(**overrides)

    assert outcome_of(deploy.open()).startswith(words)
    assert deploy.outcome().startswith(words)
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
        "Data": {"Outcome": "complete"},
    }


@pytest.mark.parametrize("status", ["FAILED", "ABORTED", "TIMED_OUT"])
def test_a_compilation_that_fails_is_told_and_fails_no_window(status: str) -> None:
    deploy = Deploy()
    arn = deploy.open()["Execution"]
    deploy.aws.stepfunctions.executions[arn] |= {"status": status, "stopDate": START + timedelta(minutes=7)}

    result = deploy.look()

    assert outcome_of(result) == f"failed {ARN}"
    assert result["PhysicalResourceId"] == f"window 1 of 3: failed after 7 min ({NAME})"


def test_windows_follow_one_another() -> None:
    deploy = Deploy()
    deploy.open()
    assert deploy.look(START + timedelta(seconds=2999)) == {"IsComplete": False}
    deploy.progress(percent=12.4)

    result = deploy.look(START + timedelta(seconds=3000))

    assert result == {
        "IsComplete": True,
        "PhysicalResourceId": f"window 1 of 3: export 12 %, 50 min ({NAME})",
        "Data": {"Outcome": f"running {ARN}"},
    }
    deploy.aws.s3.calls.clear()
    assert deploy.open(2, previous=f"running {ARN}")["PhysicalResourceId"] == f"window 2 of 3: waiting for {NAME}"
    assert not deploy.aws.s3.calls
    assert deploy.look() == {"IsComplete": False}
    deploy.progress(percent=None)
    result = deploy.look(START + timedelta(seconds=6000))
    assert result["PhysicalResourceId"] == f"window 2 of 3: export, 100 min ({NAME})"
    deploy.open(3, previous=outcome_of(result))

    result = deploy.look(START + timedelta(seconds=9000))

    assert outcome_of(result) == f"running {ARN}", "the check tells how to follow it"
    assert result["PhysicalResourceId"] == f"window 3 of 3: export, 150 min ({NAME})"
    assert len(deploy.started) == 1


def test_a_window_waits_for_the_execution_of_the_one_before_and_for_no_other() -> None:
    deploy = Deploy()
    deploy.aws.stepfunctions.add(NAME, started=START - timedelta(minutes=1))
    deploy.aws.stepfunctions.add(f"mixtral-{KEY}-20261121090000", started=START - timedelta(hours=1))

    assert deploy.open(2, previous=f"running {ARN}")["Execution"] == ARN
    deploy.aws.stepfunctions.executions[ARN] |= {"status": "FAILED", "stopDate": START}
    assert deploy.outcome() == f"failed {ARN}"


@pytest.mark.parametrize("previous", ["complete", "refused", f"failed {ARN}", "unknown AWS could not be reached", "x"])
def test_what_has_ended_is_passed_on_at_once(previous: str) -> None:
    deploy = Deploy()

    result = deploy.open(2, previous=previous)

    word = previous.partition(" ")[0]
    assert outcome_of(result) == previous
    assert result["PhysicalResourceId"] == f"window 2 of 3: {word}, as the window before"
    assert deploy.outcome() == previous
    for service in (deploy.aws.s3, deploy.aws.ssm, deploy.aws.stepfunctions):
        assert not service.calls


def test_a_window_that_is_over_before_the_job_begins() -> None:
    deploy = Deploy()
    deploy.open()

    result = deploy.look(START + timedelta(hours=1))

    assert result["PhysicalResourceId"] == f"window 1 of 3: starting a host, 60 min ({NAME})"


def test_an_answer_that_does_not_come_is_waited_for() -> None:
    deploy = Deploy()
    deploy.open()
    machine = deploy.aws.stepfunctions
    machine.planted["describe_execution"] = [
        client_error("ThrottlingException"),
        EndpointConnectionError(endpoint_url="https://aws.invalid"),
        client_error("ExecutionDoesNotExist"),
    ]

    for _ in range(3):
        assert deploy.look() == {"IsComplete": False}
    machine.planted["describe_execution"] = [client_error("ThrottlingException")]
    assert deploy.outcome(START + timedelta(hours=1)) == f"running {ARN}", "the next window may reach it"


def test_an_execution_that_may_not_be_looked_at_is_not_known() -> None:
    deploy = Deploy()
    deploy.open()
    deploy.aws.stepfunctions.always["describe_execution"] = client_error("AccessDeniedException", "x" * 5000)

    outcome = deploy.outcome()

    assert outcome.startswith("unknown DescribeExecution failed with AccessDeniedException: xxx")


@pytest.mark.parametrize("event", [{}, {"Execution": ARN}, {"Execution": ARN, "Until": "soon"}])
def test_an_event_that_nobody_understands_is_not_known(event: dict[str, Any]) -> None:
    deploy = Deploy()
    deploy.event = event

    assert deploy.outcome().startswith("unknown ")


@pytest.mark.parametrize("operation", ["list_executions", "start_execution"])
def test_a_machine_that_refuses_is_named(operation: str) -> None:
    deploy = Deploy()
    deploy.aws.stepfunctions.planted[operation] = [client_error("AccessDeniedException", "no right\nat all")]

    outcome = outcome_of(deploy.open())

    assert "failed with AccessDeniedException: no right at all; deploy the compile stack again" in outcome
    assert deploy.event["PhysicalResourceId"] == f"window 1 of 3: unknown: {outcome.removeprefix('unknown ')}"


def test_a_machine_that_cannot_be_reached() -> None:
    deploy = Deploy()
    deploy.aws.stepfunctions.planted["list_executions"] = [EndpointConnectionError(endpoint_url="https://aws.invalid")]

    assert outcome_of(deploy.open()).startswith("unknown AWS could not be reached: ")


def test_a_store_that_fails_starts_nothing() -> None:
    deploy = Deploy()
    deploy.aws.s3.planted["get_object"] = [client_error("SlowDown")]

    assert "could not be read: SlowDown" in outcome_of(deploy.open())
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
    monkeypatch.setattr(Clients, "quick", classmethod(lambda _: deploy.aws))
    monkeypatch.setenv("PROGRESS_PATH", "/modelzone/dev/compile/progress")
    request = {"RequestType": "Create", "ResourceProperties": deploy.properties}

    result = waiting.on_event(request, None)

    assert waiting.is_complete({**request, **result}, None) == {"IsComplete": False}
    assert json.loads(deploy.started[0]["input"])["requested_by"] == "deploy of a stack"
