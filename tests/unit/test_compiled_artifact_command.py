"""The job on the host: sent once, followed, and explained when it fails."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from unit.compiled_artifact_aws import NAME, SETTINGS, Machine, client_error

from compiled_artifact.errors import CompileError, TransientError


def refusal(machine: Machine, step: str = "follow", kind: type[CompileError] = CompileError) -> str:
    with pytest.raises(CompileError) as caught:
        machine.step(step)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_job_is_sent_as_base64_and_nothing_else() -> None:
    machine = Machine()
    machine.online()

    state = machine.step("run")

    (command,) = machine.aws.ssm.called("send_command")
    (job,) = command.pop("Parameters")["Job"]
    assert json.loads(base64.b64decode(job, validate=True)) == state["job"]
    assert json.loads(base64.b64decode(job))["devices"] == 6
    assert len(job) <= 8192
    assert command == {
        "InstanceIds": ["i-0000"],
        "DocumentName": "CompileDocument",
        "Comment": NAME,
        "TimeoutSeconds": 600,
        "CloudWatchOutputConfig": {
            "CloudWatchLogGroupName": "/modelzone/dev/compile",
            "CloudWatchOutputEnabled": True,
        },
    }
    assert (state["command_id"], state["run"]) == ("00000000-0000-4000-8000-000000000000", "running")


def test_the_job_is_sent_once() -> None:
    machine = Machine()
    machine.online()
    before = machine.state

    machine.steps("run", "run")
    assert len(machine.aws.ssm.commands) == 1
    # The function died before it could tell the machine.
    machine.state = before
    machine.step("run")

    assert len(machine.aws.ssm.commands) == 1
    assert machine.state["command_id"] == "00000000-0000-4000-8000-000000000000"


def test_a_command_of_another_document_is_not_taken_over() -> None:
    machine = Machine()
    machine.online()
    machine.aws.ssm.commands.append(
        {"InstanceIds": ["i-0000"], "DocumentName": "AWS-UpdateSSMAgent", "CommandId": "other"}
    )

    assert machine.step("run")["command_id"] == "00000001-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("InvalidDocument", "SSM does not take the job with document CompileDocument"),
        ("InvalidParameters", "SSM does not take the job with document CompileDocument"),
        ("AccessDeniedException", "Allow the role of the compile steps ssm:SendCommand with document CompileDocument"),
        ("SomethingNew", "SendCommand failed (SomethingNew: no)"),
    ],
)
def test_a_command_that_is_refused(code: str, words: str) -> None:
    machine = Machine()
    machine.online()
    machine.aws.ssm.planted["send_command"] = [client_error(code)]

    assert words in refusal(machine, "run")


@pytest.mark.parametrize("code", ["InvalidInstanceId", "ThrottlingException"])
def test_a_command_that_may_be_sent_later(code: str) -> None:
    machine = Machine()
    machine.online()
    machine.aws.ssm.planted["send_command"] = [client_error(code)]

    refusal(machine, "run", TransientError)
    assert machine.step("run")["command_id"] == "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize("status", ["Pending", "InProgress", "Delayed", "Cancelling"])
def test_a_job_that_runs(status: str) -> None:
    machine = Machine()
    machine.running(status)

    assert machine.step("follow")["run"] == "running"


def test_a_command_that_ssm_does_not_know_yet() -> None:
    machine = Machine()
    machine.online()
    machine.step("run")

    assert machine.step("follow")["run"] == "running"


def test_a_job_that_is_done() -> None:
    machine = Machine()
    machine.running()
    machine.progress(steps={"devices": 0.4, "weights": 700})
    machine.step("follow")
    machine.progress(steps={"devices": 0.4, "weights": 700, "export": 1200.5})
    machine.steps("follow", "follow")
    machine.progress(steps={"devices": 0.4, "weights": 700, "export": 1200.5, "publish": 60}, state="done")
    machine.invocation("Success", ResponseCode=0)

    state = machine.step("follow")

    assert state["run"] == "succeeded"
    assert state["steps"] == {"devices": 0.4, "weights": 700, "export": 1200.5, "publish": 60}
    metrics = machine.aws.metrics()
    seconds = [(step, value) for name, value, step in metrics if name == "StepSeconds" and step.startswith("job:")]
    assert seconds == [
        ("job:devices", 0.4),
        ("job:weights", 700.0),
        ("job:export", 1200.5),
        ("job:publish", 60.0),
    ], "each once"
    told = machine.aws.told()
    assert told.count(("job:export", "succeeded")) == 1
    assert told.count(("follow", "started")) == 1
    assert told.count(("follow", "succeeded")) == 1


def test_progress_that_cannot_be_read_stops_nothing() -> None:
    machine = Machine()
    machine.running()
    for value in ("{", "[]", json.dumps({"updated": "soon", "steps": {"export": 1}})):
        machine.aws.ssm.parameters["/modelzone/dev/compile/progress/" + machine.state["key"]] = value
        assert machine.step("follow")["run"] == "running"
    machine.aws.ssm.always["get_parameter"] = client_error("AccessDeniedException")
    assert machine.step("follow")["run"] == "running"
    assert machine.state["steps"] == {}


def test_progress_of_an_earlier_host_is_not_this_one_s() -> None:
    machine = Machine()
    machine.progress(steps={"export": 1000.0}, state="done")
    machine.pass_time(60)
    machine.running()

    assert machine.step("follow")["steps"] == {}


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (
            "x\ncompile_job: step 'image' failed: old\ncompile_job: step 'export' failed: killed; use more\nfoot\n",
            "step 'export' failed: killed; use more.",
        ),
        ("compile_job: stopped by nobody\n", "step 'follow' failed: stopped by nobody."),
        (
            "no docker\n",
            "step 'follow' failed: the command on the host ended with exit status 1: no docker. The log says more.",
        ),
        ("", "step 'follow' failed: the command on the host ended with exit status 1. The log says more."),
    ],
)
def test_a_job_that_failed_says_so_in_its_own_words(errors: str, message: str) -> None:
    machine = Machine()
    machine.running("Failed", ResponseCode=1, StandardErrorContent=errors)

    assert refusal(machine) == message


def test_a_long_output_hides_the_last_line_and_the_progress_tells_it() -> None:
    machine = Machine()
    machine.running("Failed", ResponseCode=1, StandardErrorContent="layer\n" * 1000)
    machine.progress(state="failed", message="step 'weights' failed: the hub refused the token")

    assert refusal(machine) == "step 'weights' failed: the hub refused the token."


@pytest.mark.parametrize(
    ("code", "errors", "words"),
    [
        (
            2,
            "compile_job: wrong job: key 'layout' is missing",
            "step 'run' failed: wrong job: key 'layout' is missing.",
        ),
        (2, "", "step 'run' failed: the job is wrong (exit status 2). Deploy the compile stack again."),
        (137, "", "ended with exit status 137: killed, most likely for lack of memory"),
        (143, "compile_job: stopped by a signal", "the job was stopped by a signal: stopped by a signal."),
        (143, "", "step 'follow' failed: the job was stopped by a signal. Start the compilation again"),
    ],
)
def test_what_exit_statuses_mean(code: int, errors: str, words: str) -> None:
    machine = Machine()
    machine.running("Failed", ResponseCode=code, StandardErrorContent=errors)

    assert words in refusal(machine)


@pytest.mark.parametrize(
    ("status", "details", "words"),
    [
        ("TimedOut", "DeliveryTimedOut", "did not take the command within 10 minutes"),
        ("TimedOut", "Delivery Timed Out", "did not take the command within 10 minutes"),
        ("TimedOut", "TimedOut", "did not take the command within 10 minutes"),
        ("TimedOut", "ExecutionTimedOut", "took longer than the document allows (compile.max_hours is 6)"),
        ("Cancelled", "Cancelled", "the command on host i-0000 was cancelled"),
        ("Failed", "Undeliverable", "could not be delivered to host i-0000 (Undeliverable)"),
        ("Undeliverable", "Undeliverable", "could not be delivered to host i-0000 (Undeliverable)"),
        ("Failed", "Terminated", "could not be delivered to host i-0000 (Terminated)"),
        ("Failed", "AccessDenied", "SSM may not run the command"),
    ],
)
def test_commands_that_end_otherwise(status: str, details: str, words: str) -> None:
    machine = Machine()
    machine.running()
    machine.invocation(status, StatusDetails=details, ResponseCode=-1)

    assert words in refusal(machine)


def test_a_spot_notice_is_an_interruption() -> None:
    machine = Machine(purchase="spot")
    machine.running("Failed", ResponseCode=75, StandardErrorContent="compile_job: stopped by a Spot notice")

    assert machine.step("follow")["run"] == "interrupted"
    assert ("follow", "failed") in machine.aws.told()


@pytest.mark.parametrize("status", ["Failed", "InProgress", "TimedOut"])
def test_a_host_that_spot_took_is_an_interruption(status: str) -> None:
    machine = Machine(purchase="spot")
    machine.running(status, ResponseCode=143)
    machine.aws.ec2.end("i-0000", state="shutting-down")

    assert machine.step("follow")["run"] == "interrupted"


@pytest.mark.parametrize(
    "code", ["Client.UserInitiatedShutdown", "Client.InstanceInitiatedShutdown", "Server.InternalError", None]
)
@pytest.mark.parametrize("status", ["InProgress", "Terminated", "TimedOut", "Failed"])
def test_a_host_that_ended_otherwise_is_a_failure_and_not_replaced(code: str | None, status: str) -> None:
    machine = Machine()
    machine.running()
    machine.invocation(status, **({"ResponseCode": 143} if status == "Failed" else {}))
    if code is None:
        del machine.aws.ec2.instances["i-0000"]
    else:
        machine.aws.ec2.end("i-0000", code)

    reason = refusal(machine)

    words = f"{code}: it ended" if code else "EC2 does not know it any more"
    assert f"host i-0000 (inf2.24xlarge) ended before its job: {words}." in reason


@pytest.mark.parametrize("status", ["InProgress", "TimedOut"])
def test_a_job_that_failed_before_its_host_ended_is_that_failure(status: str) -> None:
    machine = Machine(purchase="spot")
    machine.running()
    machine.progress(state="failed", message="step 'export' failed: out of memory")
    machine.invocation(status)
    machine.aws.ec2.end("i-0000")

    assert refusal(machine) == "step 'export' failed: out of memory."


@pytest.mark.parametrize(
    ("message", "code", "interrupted"),
    [
        ("Spot interruption notice", "Client.InstanceInitiatedShutdown", True),
        ("stopped by a signal", "Client.InstanceInitiatedShutdown", False),
        ("stopped by a signal", "Server.SpotInstanceTermination", True),
    ],
)
@pytest.mark.parametrize("status", ["InProgress", "Failed"])
def test_a_job_that_was_stopped(message: str, code: str, *, interrupted: bool, status: str) -> None:
    machine = Machine(purchase="spot")
    machine.running()
    machine.progress(state="stopped", message=message)
    machine.invocation(status, ResponseCode=143)
    machine.aws.ec2.end("i-0000", code)

    if interrupted:
        assert machine.step("follow")["run"] == "interrupted"
    else:
        assert "ended before its job" in refusal(machine)


def test_the_third_interruption_ends_it() -> None:
    machine = Machine()
    machine.running()
    machine.state["host"]["attempt"] = 3
    machine.aws.ec2.end("i-0000")

    reason = refusal(machine)

    assert "3 hosts were taken away one after another; the last: EC2 took host i-0000 back (Server.Spot" in reason


def test_a_host_that_shut_down_with_the_job_done_is_no_failure() -> None:
    machine = Machine()
    machine.running()
    machine.progress(state="done")
    machine.aws.ec2.end("i-0000", "Client.InstanceInitiatedShutdown")

    assert machine.step("follow")["run"] == "succeeded"


@pytest.mark.parametrize("status", ["InProgress", "Failed"])
def test_a_host_at_the_end_of_its_lifetime_is_not_replaced(status: str) -> None:
    machine = Machine()
    machine.running()
    machine.pass_time(hours=6)
    machine.invocation(status, ResponseCode=143)
    machine.aws.ec2.end("i-0000", "Client.InstanceInitiatedShutdown")

    reason = refusal(machine)

    assert "the lifetime of host i-0000 is over (compile.max_hours is 6)" in reason
    assert "Raise compile.max_hours" in reason


def test_an_agent_that_is_lost() -> None:
    machine = Machine(settings=replace(SETTINGS, lost_polls=3))
    machine.running()
    machine.progress(step="export")
    machine.step("follow")
    machine.aws.ssm.pings["i-0000"] = "ConnectionLost"
    machine.steps("follow", "follow")

    reason = refusal(machine)

    assert "SSM agent lost: the agent of host i-0000 reports ConnectionLost" in reason
    assert "no progress since 2026-11-21T10:00:00+00:00 (export)" in reason


@pytest.mark.parametrize("sign", ["ping", "progress"])
def test_a_job_that_reports_itself_is_not_lost(sign: str) -> None:
    machine = Machine(settings=replace(SETTINGS, lost_polls=3))
    machine.running()
    machine.aws.ssm.pings["i-0000"] = "ConnectionLost"
    for poll in range(10):
        machine.pass_time(20)
        if poll % 2:
            if sign == "ping":
                machine.aws.ssm.pings["i-0000"] = "Online"
            else:
                machine.progress()
        else:
            machine.aws.ssm.pings["i-0000"] = "ConnectionLost"
        assert machine.step("follow")["run"] == "running"


@pytest.mark.parametrize("ping", ["Online", "ConnectionLost"])
def test_a_job_that_says_nothing_for_half_an_hour_is_dead(ping: str) -> None:
    machine = Machine(settings=replace(SETTINGS, lost_polls=1000))
    machine.running()
    machine.progress()
    machine.step("follow")
    machine.aws.ssm.pings["i-0000"] = ping
    machine.pass_time(minutes=29)
    machine.step("follow")
    # For a moment it cannot be read: that is no news.
    machine.aws.ssm.planted["get_parameter"] = [client_error("ThrottlingException")]
    machine.step("follow")
    machine.pass_time(minutes=1)

    reason = refusal(machine)

    assert "the job on host i-0000 has written no progress since 2026-11-21T10:00:00+00:00 (export)" in reason
    assert f"the agent reports {ping}" in reason


def test_a_job_that_speaks_now_and_then_lives() -> None:
    machine = Machine()
    machine.running()
    for _ in range(5):
        machine.progress()
        assert machine.step("follow")["run"] == "running"
        machine.pass_time(minutes=29)
        assert machine.step("follow")["run"] == "running"


def test_a_job_that_was_never_heard_may_take_its_time() -> None:
    machine = Machine()
    machine.running()
    machine.pass_time(minutes=50)

    assert machine.step("follow")["run"] == "running"


def test_a_command_that_ssm_never_comes_to_know() -> None:
    machine = Machine()
    machine.online()
    machine.step("run")
    machine.pass_time(minutes=12)
    assert machine.step("follow")["run"] == "running"
    machine.pass_time(seconds=1)

    assert "SSM knows nothing of command 00000000-0000-4000-8000-000000000000 on host i-0000" in refusal(machine)


def test_a_command_that_was_known_once_is_not_lost() -> None:
    machine = Machine()
    machine.running()
    machine.step("follow")
    machine.aws.ssm.invocation = None
    machine.pass_time(minutes=20)

    assert machine.step("follow")["run"] == "running"


def test_a_command_whose_answer_is_lost_is_not_sent_again() -> None:
    machine = Machine()
    machine.online()
    sent = machine.aws.ssm.send_command

    def lose(**given: Any) -> None:
        sent(**given)
        raise ReadTimeoutError(endpoint_url="https://aws.invalid")

    machine.aws.ssm_once = SimpleNamespace(send_command=lose)  # type: ignore[assignment]
    refusal(machine, "run", TransientError)

    assert machine.step("run")["command_id"] == "00000000-0000-4000-8000-000000000000"
    assert len(machine.aws.ssm.commands) == 1


def test_nothing_of_the_job_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine()
    machine.running()
    machine.step("follow")

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    steps: list[dict[str, Any]] = [line for line in lines if line["event"] == "step"]
    assert [line["step"] for line in steps] == ["look", "start-host", "wait-for-agent", "run", "follow"]
    assert all(line["status"] == "ok" and line["execution"] == NAME and line["seconds"] >= 0 for line in steps)
    assert "export_command" not in json.dumps(lines)
