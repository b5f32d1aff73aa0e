"""The last steps, the one message of a failure, and the steps as a whole."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from unit.compiled_artifact_aws import (
    BUCKET,
    EXECUTION,
    FACTS,
    KEY,
    NAME,
    PREFIX,
    SETTINGS,
    Machine,
    client_error,
    manifest,
    publish,
    publish_weights,
)

from compiled_artifact import steps as steps_module
from compiled_artifact.aws import Clients, failure_of
from compiled_artifact.context import Settings
from compiled_artifact.errors import CapacityError, CompileError, TransientError
from compiled_artifact.steps import handler

ENTRY = f"/modelzone/dev/artifacts/{KEY}"


def run(machine: Machine, *, limit: int = 40) -> dict[str, Any]:
    """Go through the machine as its definition says; returns its output, or its one message as {"cause"}."""
    step = "look"
    try:
        for _ in range(limit):
            state = machine.step(step)
            if step == "look":
                step = "register" if state["published"] else "start-host"
            elif step == "start-host" and state["published"]:
                step = "register"
            elif step == "start-host":
                machine.aws.ssm.pings[machine.host] = "Online"
                step = "wait-for-agent"
            elif step == "wait-for-agent":
                step = "wait-for-agent" if state["agent"] == "pending" else "run"
            elif step == "run":
                step = "follow"
            elif step == "follow":
                step = {"running": "follow", "succeeded": "verify", "interrupted": "stop-host"}[state["run"]]
            elif step == "stop-host":
                step = "start-host" if state["run"] == "interrupted" else "notify"
            elif step == "notify":
                return dict(state["output"])
            else:
                step = {"verify": "register", "register": "stop-host"}[step]
    except CompileError as error:
        # As Step Functions' Catch leaves it.
        cause = {"errorMessage": str(error), "errorType": type(error).__name__, "stackTrace": ["  File ..."]}
        machine.state["failure"] = {"Error": type(error).__name__, "Cause": json.dumps(cause)}
        machine.steps("stop-host", "notify")
        return {"cause": machine.state["failure"]["message"]}
    raise AssertionError(step)


def succeeding(machine: Machine, *, seconds: float = 2400) -> None:
    """The job publishes at the first look at it."""

    def invocation(**_: Any) -> dict[str, Any]:
        if PREFIX + "manifest.json" not in machine.aws.s3.objects:
            publish(machine.aws.s3)
            machine.pass_time(seconds)
            machine.progress(state="done", steps={"export": 2000.0})
        return {"Status": "Success", "StatusDetails": "Success", "ResponseCode": 0}

    machine.aws.ssm.get_command_invocation = invocation  # type: ignore[method-assign]


def test_a_compilation_from_end_to_end() -> None:
    machine = Machine()
    succeeding(machine)

    output = run(machine)

    assert output == {
        "deployment": "mixtral",
        "key": KEY,
        "artifact": f"s3://{BUCKET}/{PREFIX}",
        "already": False,
        "seconds": 2400.0,
        "host": {"instance_type": "inf2.24xlarge", "purchase": "on-demand"},
        "steps": {"export": 2000.0},
    }
    assert not machine.aws.ec2.live
    entry = json.loads(machine.aws.ssm.parameters[ENTRY])
    assert entry == {
        "artifact": f"s3://{BUCKET}/{PREFIX}",
        "manifest_sha256": machine.state["found"]["manifest_sha256"],
        "facts": FACTS,
        "deployment": "mixtral",
        "created": "2026-11-21T10:40:00Z",
        "bytes": 13,
        "seconds": 2400.0,
        "execution": NAME,
    }
    metrics = machine.aws.metrics()
    assert [name for name, *_ in metrics if name != "StepSeconds"] == ["HostSeconds", "Compilations"]
    metered = {step for name, _, step in metrics if name == "StepSeconds" and not step.startswith("job:")}
    assert metered == {"look", "start-host", "wait-for-agent", "run", "verify", "register", "stop-host"}
    (notice,) = machine.aws.notices()
    assert notice["Subject"] == "Modelzone dev: mixtral is compiled"
    assert "after 40 minutes" in notice["Message"]
    order = ("look", "start-host", "wait-for-agent", "run", "follow", "verify", "register", "stop-host", "notify")
    told = machine.aws.told()
    for step in order:
        assert (told.count((step, "started")), told.count((step, "succeeded"))) == (1, 1), step
    assert len(json.dumps(machine.state)) < 20_000, "Step Functions takes 256 KiB"


def test_an_artifact_that_is_there_takes_no_host_and_no_notice() -> None:
    machine = Machine()
    publish(machine.aws.s3)

    output = run(machine)

    assert (output["already"], output["host"], output["seconds"]) == (True, None, 0.0)
    assert not machine.aws.ec2.instances
    assert not machine.aws.notices()
    assert not machine.aws.metrics()
    assert json.loads(machine.aws.ssm.parameters[ENTRY])["bytes"] == 13


def test_an_interrupted_compilation_goes_on_with_another_host() -> None:
    machine = Machine(purchase="spot")
    answers = [{"Status": "Failed", "StatusDetails": "Failed", "ResponseCode": 75}] * 2

    def invocation(**_: Any) -> dict[str, Any]:
        if answers:
            return answers.pop()
        publish(machine.aws.s3)
        return {"Status": "Success"}

    machine.aws.ssm.get_command_invocation = invocation  # type: ignore[method-assign]

    output = run(machine)

    assert output["host"] == {"instance_type": "inf2.24xlarge", "purchase": "on-demand"}
    assert len(machine.aws.ec2.instances) == 3
    assert not machine.aws.ec2.live


def test_a_failed_compilation_ends_in_one_message() -> None:
    machine = Machine()
    machine.aws.ssm.invocation = {
        "Status": "Failed",
        "ResponseCode": 1,
        "StandardErrorContent": "x\ncompile_job: step 'export' failed: out of memory; use a larger host\n",
    }

    cause = run(machine)["cause"]

    assert cause == (
        "step 'export' failed: out of memory; use a larger host. "
        "Log: /modelzone/dev/compile 00000000-0000-4000-8000-000000000000/i-0000"
    )
    assert not machine.aws.ec2.live
    (notice,) = machine.aws.notices()
    assert notice["Subject"] == "Modelzone dev: compiling mixtral failed in step export"
    assert notice["Message"].startswith(cause)
    assert "modelzone compile logs mixtral -e dev" in notice["Message"]
    assert ("Failures", 1, "") in machine.aws.metrics()
    assert machine.aws.told()[-1] == ("export", "failed")
    assert machine.state["failure"]["step"] == "export"


# What each step asks of AWS; a failure of each must be one line, and leave no host.
ASKED = [
    ("look", "ssm", "get_parameter"),
    ("look", "s3", "get_object"),
    ("look", "registry", "batch_get_image"),
    ("start-host", "s3", "get_object"),
    ("start-host", "stepfunctions", "list_executions"),
    ("start-host", "stepfunctions", "describe_execution"),
    ("start-host", "ec2", "describe_instances"),
    ("start-host", "ec2", "run_instances"),
    ("wait-for-agent", "ssm", "describe_instance_information"),
    ("run", "ssm", "list_commands"),
    ("run", "ssm", "send_command"),
    ("follow", "ssm", "get_command_invocation"),
    ("verify", "s3", "get_object"),
    ("verify", "s3", "head_object"),
    ("register", "s3", "get_object"),
    ("register", "s3", "list_objects_v2"),
    ("register", "s3", "delete_objects"),
    ("register", "ssm", "get_parameter"),
    ("register", "ssm", "put_parameter"),
    ("stop-host", "ec2", "terminate_instances"),
]
BEFORE = {
    "look": (),
    "start-host": ("look",),
    "wait-for-agent": ("look", "start-host"),
    "run": ("look", "start-host"),
    "follow": ("look", "start-host", "run"),
    "verify": ("look", "start-host", "run"),
    "register": ("look", "start-host", "run", "verify"),
    "stop-host": ("look", "start-host"),
}


def planted(step: str, service: str, operation: str, error: Exception) -> Machine:
    machine = Machine()
    for name in BEFORE[step]:
        if name == "verify":
            publish(machine.aws.s3)
        machine.step(name)
    if step == "verify":
        publish(machine.aws.s3)
    if step == "register":
        machine.aws.s3.put(PREFIX + "extra", b"x")
    getattr(machine.aws, service).planted[operation] = [error]
    return machine


@pytest.mark.parametrize(("step", "service", "operation"), ASKED)
def test_each_refusal_of_aws_is_one_line_with_its_step(step: str, service: str, operation: str) -> None:
    machine = planted(step, service, operation, client_error("AccessDenied", "User: arn:aws:sts::1:x\n is not allowed"))

    with pytest.raises(CompileError) as caught:
        machine.step(step)

    text = str(caught.value)
    assert type(caught.value) is CompileError
    assert text.startswith(f"step '{step}' failed: ")
    assert "AccessDenied: User: arn:aws:sts::1:x is not allowed" in text
    assert "\n" not in text
    assert text.endswith(".")


@pytest.mark.parametrize(("step", "service", "operation"), ASKED)
@pytest.mark.parametrize("kind", ["throttled", "fault", "unreachable"])
def test_each_passing_failure_of_aws_is_worth_another_try(step: str, service: str, operation: str, kind: str) -> None:
    error: Exception = client_error("ThrottlingException")
    if kind == "fault":
        error = client_error("Strange")
        error.response["ResponseMetadata"] = {"HTTPStatusCode": 503}  # type: ignore[attr-defined]
    elif kind == "unreachable":
        error = EndpointConnectionError(endpoint_url="https://aws.invalid")
    machine = planted(step, service, operation, error)

    with pytest.raises(TransientError):
        machine.step(step)
    machine.step(step)


@pytest.mark.parametrize("service", ["sns", "cloudwatch", "events"])
@pytest.mark.parametrize("failing", [True, False])
def test_nothing_fails_because_nobody_can_be_told(service: str, *, failing: bool) -> None:
    machine = Machine()
    operation = {"sns": "publish", "cloudwatch": "put_metric_data", "events": "put_events"}[service]
    getattr(machine.aws, service).always[operation] = client_error("AuthorizationError")
    if failing:
        machine.aws.ssm.invocation = {"Status": "Failed", "ResponseCode": 1}
        assert "step 'follow' failed" in run(machine)["cause"]
    else:
        succeeding(machine)
        assert run(machine)["already"] is False


def test_a_fault_of_our_own_is_one_readable_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        message = "boom\nin two lines"
        raise ZeroDivisionError(message)

    monkeypatch.setitem(steps_module._STEPS, "verify", explode)  # type: ignore[index]
    machine = Machine()

    with pytest.raises(CompileError) as caught:
        machine.step("verify")

    assert str(caught.value).startswith("step 'verify' failed: ZeroDivisionError: boom in two lines. ")
    assert "Traceback" not in str(caught.value)


def test_an_unknown_step() -> None:
    with pytest.raises(CompileError, match="step 'dance' failed: there is no such step"):
        Machine().step("dance")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("gone", f"the job ended well, but s3://{BUCKET}/{PREFIX} has no manifest"),
        ("object", "compiled/a.neff does not exist"),
        ("size", "config.json has 1 bytes, the manifest says 2"),
        ("sha256", "config.json has SHA-256 unknown, the manifest says"),
        (
            "checksum",
            f"config.json has checksum SHA256:composite-2 in S3, the manifest says SHA256:sum-{PREFIX}config.json",
        ),
        ("facts", "was compiled with batch_size '2', deployment 'mixtral' wants '1'"),
    ],
)
def test_what_is_published_is_verified_from_outside(damage: str, words: str) -> None:
    machine = Machine()
    machine.running("Success")
    machine.step("follow")
    objects = machine.aws.s3.objects
    if damage != "gone":
        publish(machine.aws.s3)
    match damage:
        case "object":
            del objects[PREFIX + "compiled/a.neff"]
        case "size":
            objects[PREFIX + "config.json"]["Body"] = b"{"
        case "sha256":
            objects[PREFIX + "config.json"]["Metadata"] = {}
        case "checksum":
            objects[PREFIX + "config.json"]["ChecksumSHA256"] = "composite-2"
        case "facts":
            machine.aws.s3.put(
                PREFIX + "manifest.json", json.dumps(manifest(facts={**FACTS, "batch_size": "2"})).encode()
            )

    with pytest.raises(CompileError) as caught:
        machine.step("verify")

    assert words in str(caught.value)
    assert "it repairs what is wrong" in str(caught.value)


def test_mirrored_weights_are_verified_and_not_registered() -> None:
    machine = Machine()
    machine.step("look", weights_only=True)
    publish_weights(machine.aws.s3)

    machine.steps("verify", "register", "notify")

    assert ENTRY not in machine.aws.ssm.parameters
    assert machine.state["output"]["artifact"].endswith("/main/")


def test_what_the_manifest_does_not_list_is_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine()
    publish(machine.aws.s3)
    others = ["compiled/z", PREFIX.rstrip("/") + "0/x", f"cache/{KEY}/graph", "weights/x/main/manifest.json"]
    for key in others:
        machine.aws.s3.put(key, b"x")
    before = sorted(machine.aws.s3.objects)
    for key in (PREFIX + "old.safetensors", PREFIX + "compiled/old.neff", PREFIX + "sub/manifest.json"):
        machine.aws.s3.put(key, b"x")

    machine.steps("look", "register")

    assert sorted(machine.aws.s3.objects) == before
    assert '"unlisted": 3' in capsys.readouterr().out
    machine.steps("look", "register")
    assert sorted(machine.aws.s3.objects) == before


@pytest.mark.parametrize("change", ["another", "empty", "gone", "broken"])
def test_nothing_is_deleted_by_a_manifest_that_was_not_verified(change: str) -> None:
    machine = Machine()
    publish(machine.aws.s3)
    machine.step("look")
    machine.aws.s3.put(PREFIX + "old", b"x")
    match change:
        case "another":
            publish(machine.aws.s3, created="2026-11-22T00:00:00Z")
        case "empty":
            publish(machine.aws.s3, objects=[])
        case "gone":
            del machine.aws.s3.objects[PREFIX + "manifest.json"]
        case _:
            machine.aws.s3.put(PREFIX + "manifest.json", b"{")

    with pytest.raises(CompileError, match="step 'register' failed"):
        machine.step("register")

    assert PREFIX + "old" in machine.aws.s3.objects
    assert ENTRY not in machine.aws.ssm.parameters


def test_an_entry_that_says_the_same_stays_as_it_is() -> None:
    machine = Machine()
    publish(machine.aws.s3)
    machine.steps("look", "register")
    machine.pass_time(hours=1)

    machine.steps("look", "register")
    assert len(machine.aws.ssm.called("put_parameter")) == 1
    publish(machine.aws.s3, created="2026-11-22T00:00:00Z")
    machine.steps("look", "register")

    assert len(machine.aws.ssm.called("put_parameter")) == 2
    assert json.loads(machine.aws.ssm.parameters[ENTRY])["created"] == "2026-11-22T00:00:00Z"


def test_an_entry_that_cannot_be_read_is_written_anew() -> None:
    machine = Machine()
    publish(machine.aws.s3)
    machine.aws.ssm.parameters[ENTRY] = "{"

    machine.steps("look", "register")

    assert json.loads(machine.aws.ssm.parameters[ENTRY])["execution"] == NAME


@pytest.mark.parametrize(
    ("state", "failure", "step", "words"),
    [
        ({}, {"Error": "Sandbox.Timedout", "Cause": "{"}, "look", "its function took longer than it may"),
        ({"step": "look"}, {"Error": "States.Timeout", "Cause": ""}, "start-host", "than the state machine allows"),
        ({"step": "look", "published": True}, {"Error": "X", "Cause": "y"}, "register", "X: y."),
        ({"step": "start-host", "published": True}, {"Error": "X", "Cause": "y"}, "register", "X: y."),
        ({"step": "start-host"}, {"Error": "Lambda.Unknown", "Cause": "z"}, "wait-for-agent", "Lambda.Unknown: z."),
        ({"step": "wait-for-agent", "agent": "pending"}, {"Error": "X"}, "wait-for-agent", "failed: X."),
        ({"step": "wait-for-agent", "agent": "online"}, {"Error": "X"}, "run", "failed: X."),
        ({"step": "run"}, {"Error": "X"}, "follow", "failed: X."),
        ({"step": "follow", "run": "running"}, {"Error": "X"}, "follow", "failed: X."),
        ({"step": "follow", "run": "succeeded"}, {"Error": "X"}, "verify", "failed: X."),
        ({"step": "verify"}, {"Error": "X"}, "register", "failed: X."),
        ({"step": "register"}, {"Error": "X"}, "stop-host", "failed: X."),
        ({"step": "stop-host", "run": "interrupted"}, {"Error": "X"}, "start-host", "failed: X."),
        ({}, {}, "look", "nothing is known of the cause"),
        ({}, "a text", "look", "a text"),
    ],
)
def test_what_nobody_foresaw_is_one_message_too(state: dict[str, Any], failure: Any, step: str, words: str) -> None:
    machine = Machine()

    result = machine.step("notify", failure=failure or {"Error": ""}, **state)["failure"]

    assert result["step"] == step
    assert result["message"].startswith(f"step '{step}' failed: ")
    assert words in result["message"]
    assert result["message"].endswith(f"Log: /aws/lambda/steps {NAME}")


def test_a_host_that_could_not_be_ended_is_told_of() -> None:
    machine = Machine()
    stop = {"Error": "CompileError", "Cause": json.dumps({"errorMessage": "step 'stop-host' failed: no right"})}

    machine.step("notify", failure={"Error": "X", "Cause": "step 'look' failed: why"}, stop_failure=stop)

    assert (
        "step 'look' failed: why. The host could not be terminated, either: step 'stop-host' failed: no right. Log:"
        in machine.state["failure"]["message"]
    )


def test_a_message_that_is_there_stays_as_it_is_when_the_step_is_repeated() -> None:
    machine = Machine()
    machine.step("notify", failure={"Error": "X", "Cause": "step 'look' failed: why."})
    message = machine.state["failure"]["message"]

    assert machine.step("notify")["failure"]["message"] == message


def test_long_messages_are_cut_before_the_log() -> None:
    machine = Machine()
    cause = json.dumps({"errorMessage": "step 'export' failed: " + "x" * 9000})

    message = machine.step("notify", failure={"Error": "CompileError", "Cause": cause})["failure"]["message"]

    assert len(message) <= 3000
    assert message.endswith(f"… Log: /aws/lambda/steps {NAME}")


def test_no_topic_no_notice() -> None:
    machine = Machine(settings=replace(SETTINGS, topic_arn=""))

    machine.step("notify", failure={"Error": "X"})

    assert not machine.aws.sns.calls


def test_subjects_fit_into_a_mail() -> None:
    machine = Machine()

    machine.step("notify", failure={"Error": "X"}, deployment="ü" * 90)

    (notice,) = machine.aws.notices()
    assert len(notice["Subject"]) == 100
    assert notice["Subject"].isascii()


def test_the_settings_are_the_function_s_environment() -> None:
    environ = {
        "ENVIRONMENT": "dev",
        "BUCKET": "b",
        "ORDERS_PATH": "/o/",
        "ARTIFACTS_PATH": "/a",
        "PROGRESS_PATH": "/p",
        "SUBNET_IDS": "subnet-1, subnet-2",
        "DOCUMENT_NAME": "d",
        "LOG_GROUP": "l",
        "AGENT_POLLS": "3",
    }

    settings = Settings.from_environment(environ)

    assert (settings.orders_path, settings.subnets) == ("/o", ("subnet-1", "subnet-2"))
    assert (settings.agent_polls, settings.lost_polls, settings.topic_arn) == (3, 30, "")
    for name in ("BUCKET", "SUBNET_IDS"):
        with pytest.raises(CompileError, match=f"no environment variable {name}"):
            Settings.from_environment({**environ, name: ""})


def test_the_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(Clients, "shared", classmethod(lambda _: machine.aws))
    monkeypatch.setattr(Settings, "from_environment", classmethod(lambda *_: SETTINGS))

    state = handler({"step": "look", "execution": EXECUTION, "state": {"deployment": "mixtral"}}, object())

    assert state["key"] == KEY
    machine.aws.ec2.refusals = {(None, None): "InsufficientInstanceCapacity"}
    with pytest.raises(CapacityError, match="before the step's time was over"):
        handler(
            {"step": "start-host", "execution": EXECUTION, "state": state},
            SimpleNamespace(get_remaining_time_in_millis=lambda: 59_000),
        )


def test_following_has_clients_that_give_up_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    machine.running()
    monkeypatch.setattr(Clients, "quick", classmethod(lambda _: machine.aws))
    monkeypatch.setattr(Settings, "from_environment", classmethod(lambda *_: SETTINGS))

    assert handler({"step": "follow", "execution": EXECUTION, "state": machine.state})["polls"] == 1


def test_clients_are_made_once_and_give_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    clients = Clients()

    for name in ("s3", "ec2", "ssm", "stepfunctions", "sns", "cloudwatch", "events", "sagemaker", "cloudformation"):
        client = getattr(clients, name)
        assert client is getattr(clients, name)
        config = client.meta.config
        assert (config.connect_timeout, config.read_timeout) == (5, 20)
        assert config.retries["mode"] == "standard"
    assert clients.ecr("eu-west-1").meta.region_name == "eu-west-1"
    assert Clients.shared() is Clients.shared()
    for name in ("ec2_once", "ssm_once"):
        config = getattr(clients, name).meta.config
        assert (config.read_timeout, config.retries["total_max_attempts"]) == (20, 1)
    quick = Clients.quick()
    assert quick is Clients.quick() is not Clients.shared()
    for name in ("ec2", "ssm", "cloudwatch", "events"):
        config = getattr(quick, name).meta.config
        assert (config.read_timeout, config.retries["total_max_attempts"]) == (5, 2)


def test_an_unknown_error_of_aws_names_the_call() -> None:
    failure = failure_of("verify", client_error("Strange", "what", "HeadObject"))

    assert str(failure) == (
        "step 'verify' failed: HeadObject failed (Strange: what). Deploy the compile stack again and retry."
    )
