"""Executions by their names, how far they are, and what they cost."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from hypothesis import given
from hypothesis import strategies as st
from unit.compile_world import MACHINE, NOW, Run, World

from modelzone.compiling.aws import UnreachableError, aws_errors, stack_outputs
from modelzone.compiling.executions import Execution, Machine, execution_name
from modelzone.compiling.hosts import hosts_of_execution, usd_so_far
from modelzone.compiling.snapshot import Snapshot, Watch, follow, parse_progress, step_times
from modelzone.compiling.text import clean, duration, facts_of, line_of, marks_of, progress_text, size, step_rows
from modelzone.errors import ModelzoneError

KEY = "0123456789abcdef0123"
NAME = f"mixtral-{KEY}-20261121120000"


@pytest.fixture
def world() -> World:
    return World()


def machine(world: World) -> Machine:
    return Machine(world("stepfunctions"), MACHINE)


def watch(world: World) -> Watch:
    execution = machine(world).describe(world.runs[-1].arn)
    return Watch(
        execution,
        machine=machine(world),
        ec2=world("ec2"),
        ssm=world("ssm"),
        environment="dev",
        region="us-east-1",
    )


def progress(**changed: Any) -> str:
    return json.dumps(
        {
            "key": KEY,
            "step": "weights",
            "state": "running",
            "percent": 41.4,
            "bytes": 3 * 1024**3,
            "total_bytes": 10 * 1024**3,
            "rate": 200 * 1024**2,
            "seconds_left": 35,
            "steps": {"look": 0.4, "image": 60},
            "message": "",
            "updated": "2026-11-21T12:05:00+00:00",
            **changed,
        }
    )


@given(st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", fullmatch=True), st.from_regex("[0-9a-f]{20}", fullmatch=True))
def test_names_tell_deployment_and_key(deployment: str, key: str) -> None:
    name = execution_name(deployment, key, NOW.astimezone(timezone(timedelta(hours=5))))
    assert len(name) <= 80
    assert name.endswith("-20261121120000")
    execution = Execution(arn="x", name=name, status="RUNNING", started=NOW)
    assert execution.key == key
    assert deployment.startswith(execution.deployment)
    if len(deployment) <= 32:
        assert execution.deployment == deployment


def test_the_one_that_runs_comes_before_the_last_one(world: World) -> None:
    world.runs = [
        Run(f"mixtral-{KEY}-20261121100000", "FAILED"),
        Run(f"mixtral-{KEY}-20261121110000"),
        Run(f"mixtral-{KEY}-20261121113000", "SUCCEEDED"),
        Run(f"other-{KEY}-20261121113000", "SUCCEEDED"),
    ]
    found = machine(world).latest("mixtral")
    assert found
    assert found.name.endswith("110000")
    assert [run.name[-6:] for run in machine(world).latest_of_each()] == ["113000", "113000", "110000"]
    assert machine(world).latest("nothing") is None


def test_two_starts_in_one_second_are_one(world: World) -> None:
    started = [
        machine(world).start(
            deployment="mixtral",
            key=KEY,
            facts={"batch_size": "2"},
            weights_only=True,
            requested_by="me",
            now=NOW,
        )
        for _ in range(2)
    ]
    assert started[0].name == started[1].name == NAME
    given = {"deployment": "mixtral", "requested_by": "me", "facts": {"batch_size": "2"}, "weights_only": True}
    assert world.runs[0].given == given


def test_one_that_ended_meanwhile_needs_no_stop(world: World) -> None:
    world.runs = [Run(NAME)]
    execution = machine(world).running()[0]
    world.broken["StopExecution"] = "ValidationException"
    with pytest.raises(ModelzoneError, match=f"cancelling compilation {NAME}"):
        machine(world).stop(execution, cause="me")
    world.runs[0].status = "SUCCEEDED"
    machine(world).stop(execution, cause="me")


@pytest.mark.parametrize(
    ("status", "cause", "says"),
    [
        ("RUNNING", "", ""),
        ("SUCCEEDED", "", ""),
        ("FAILED", "step 'image' failed:\n denied", "step 'image' failed: denied"),
        ("FAILED", "", "CompileFailed"),
        ("TIMED_OUT", "", f"compilation {NAME} took longer than it may; raise compile.max_hours of the environment"),
        ("ABORTED", "by me", f"compilation {NAME} was cancelled: by me"),
    ],
)
def test_why_one_failed(status: str, cause: str, says: str) -> None:
    execution = Execution(arn="x", name=NAME, status=status, started=NOW, cause=cause, error="CompileFailed")
    assert execution.failure == says


def ran(world: World) -> Run:
    run = Run(NAME)
    for state, after in (
        ("Look", 0),
        ("IsPublished", 2),
        ("StartHost", 3),
        ("WaitForAgent", 10),
        ("AgentPause", 12),
        ("WaitForAgent", 22),
        ("Run", 70),
        ("Follow", 72),
        ("JobPause", 73),
        ("Follow", 93),
    ):
        run.enter(state, after)
    world.runs.append(run)
    world.host(execution=NAME)
    world.parameters[f"/modelzone/dev/compile/progress/{KEY}"] = [progress()]
    return run


def test_a_compilation_in_the_middle(world: World) -> None:
    ran(world)
    seen = watch(world).look(NOW + timedelta(minutes=6))
    assert [(step.name, step.seconds, step.state, step.on_host) for step in seen.steps] == [
        ("look", 3, "done", False),
        ("start-host", 7, "done", False),
        ("wait-for-agent", 60, "done", False),
        ("run", 2, "done", False),
        ("follow", 288, "running", False),
        ("look", 0.4, "done", True),
        ("image", 60, "done", True),
        ("weights", pytest.approx(227.6), "running", True),
    ]
    assert (seen.step, seen.seconds) == ("weights", 360)
    assert seen.usd == pytest.approx(6.49063 / 10)
    assert progress_text(seen.job) == "41%, 3.0 GiB of 10.0 GiB, 200.0 MiB/s, 35 s left"  # type: ignore[arg-type]
    line = line_of(seen)
    assert line.startswith("12:06:00  weights  41%, 3.0 GiB of")
    assert "i-00000000000000001, inf2.24xlarge in us-east-1a, on-demand  after 6 min  0.65 USD" in line
    assert ("...", "  weights", "4 min") in step_rows(seen)
    assert dict(facts_of(seen))["step"].startswith("weights: 41%")
    document = json.loads(json.dumps(seen.as_dict()))
    assert document["progress"]["bytes_per_second"] == 200 * 1024**2
    assert document["host"]["zone"] == "us-east-1a"


def test_only_new_events_are_asked_for(world: World) -> None:
    run = ran(world)
    looking = watch(world)
    looking.look(NOW)
    before = len(world.asked_for("GetExecutionHistory"))
    run.enter("Verify", 200)
    seen = looking.look(NOW + timedelta(seconds=230))
    assert len(world.asked_for("GetExecutionHistory")) == before + 1
    assert (seen.step, seen.steps[-1].seconds) == ("verify", 30)


def test_a_failure_marks_the_step_that_failed(world: World) -> None:
    run = ran(world)
    run.enter("follow failed", 100).enter("StopFailedHost", 100).enter("NotifyFailure", 130)
    run.status, run.stopped = "FAILED", NOW + timedelta(seconds=131)
    run.error, run.cause = "CompileFailed", "step 'weights' failed: gated. Accept the licence. Log: g s"
    seen = watch(world).look()
    states = {(step.name, step.on_host): step.state for step in seen.steps}
    assert states["stop-host", False] == "done"
    # The job did not say so itself: what it did last failed.
    assert states["weights", True] == "failed"
    world.parameters[f"/modelzone/dev/compile/progress/{KEY}"] = [progress(state="failed", message="gated")]
    seen = watch(world).look()
    assert {(s.name, s.on_host): s.state for s in seen.steps}["weights", True] == "failed"
    assert dict(facts_of(seen))["failure"] == run.cause
    assert seen.step == ""


def test_a_host_that_was_stopped_after_an_interruption_adds_up() -> None:
    entered = [
        (NOW + timedelta(seconds=after), state)
        for after, state in (
            (0, "StartHost"),
            (10, "Follow"),
            (50, "StopInterruptedHost"),
            (60, "StartHost"),
            (75, "Follow"),
        )
    ]
    steps = step_times(entered, None, ended=None, failed=False, now=NOW + timedelta(seconds=100))
    assert {step.name: step.seconds for step in steps} == {"start-host": 25, "follow": 65, "stop-host": 10}


@pytest.mark.parametrize(
    "value",
    ["", "[]", "{}", '{"updated": "yesterday"}', progress(updated="2026-11-21T11:59:00+00:00"), progress(steps=3)],
)
def test_progress_that_says_nothing_of_this_compilation(value: str) -> None:
    assert parse_progress(value, since=NOW) is None


def test_progress_without_figures() -> None:
    found = parse_progress(
        progress(percent=None, total_bytes=None, rate=0, seconds_left=None, bytes=0, updated="2026-11-21T12:00:00"),
        since=NOW,
    )
    assert found
    assert (found.percent, found.bytes_per_second, progress_text(found)) == (None, None, "")


def test_the_cost_of_hosts_that_ended(world: World) -> None:
    ended = world.host(1, state="terminated", execution=NAME)
    ended["StateTransitionReason"] = "User initiated (2026-11-21 13:00:00 GMT)"
    world.host(2, execution=NAME)
    hosts = hosts_of_execution(world("ec2"), NAME)
    assert usd_so_far(hosts, region="us-east-1", now=NOW + timedelta(hours=2)) == pytest.approx(3 * 6.49063)
    assert usd_so_far(hosts, region="mars-1", now=NOW) is None
    assert usd_so_far([], region="us-east-1", now=NOW) is None
    del ended["StateTransitionReason"]
    assert usd_so_far(hosts_of_execution(world("ec2"), NAME), region="us-east-1", now=NOW) is None


@pytest.mark.parametrize("told", ["output", "history", "ec2"])
def test_the_cost_of_a_host_that_nobody_remembers(world: World, told: str) -> None:
    host = {"host": {"instance_type": "inf2.24xlarge"}}
    run = Run(NAME, "SUCCEEDED", stopped=NOW + timedelta(hours=2, minutes=10))
    run.enter("StartHost", 0).leave("StartHost", host if told == "history" else {}, after=360)
    run.enter("StopHost", 7200).leave("StopHost", {}, after=7560)
    run.output = host if told == "output" else {}
    world.runs = [run]
    if told == "ec2":
        world.host(1, state="terminated", execution=NAME)
    seen = watch(world).look()
    assert seen.usd == pytest.approx(2 * 6.49063)
    assert dict(facts_of(seen))["cost"] == "about 12.98 USD at the on-demand price, by the times of the steps"


def test_a_price_that_is_unknown_is_said_with_the_type(world: World) -> None:
    world.runs = [Run(NAME)]
    world.host(1, execution=NAME)["InstanceType"] = "mars1.large"
    seen = watch(world).look()
    assert dict(facts_of(seen))["cost"] == "unknown, no price of mars1.large"
    assert line_of(seen).endswith("  cost unknown, no price of mars1.large")


def test_long_names_of_deployments_are_cut() -> None:
    name = "a" * 60
    execution = Execution(arn="x", name=execution_name(name, KEY, NOW), status="RUNNING", started=NOW)
    assert execution.is_of(name)
    assert not execution.is_of("a")


def test_following_until_it_ends_outlasts_a_lost_connection(world: World) -> None:
    run = ran(world)
    looks, shown = iter(range(9)), []
    looking = watch(world)

    def look() -> Snapshot:
        number = next(looks)
        if number in {1, 2}:
            raise UnreachableError("no answer")
        if number == 4:
            run.status, run.stopped, run.output = "SUCCEEDED", NOW, {"artifact": "s3://a/"}
        return looking.look(NOW)

    final = follow(look, shown.append, interval=5, sleep=lambda _: None, clock=lambda: 0.0)
    assert final.execution.output["artifact"] == "s3://a/"
    assert len(shown) == 3
    assert marks_of(shown[0]) == marks_of(shown[1]) != marks_of(shown[2])
    assert dict(facts_of(final))["artifact"] == "s3://a/"


def test_a_connection_that_stays_lost_is_an_error() -> None:
    clock = iter(range(0, 10_000, 100))

    def look() -> Snapshot:
        raise UnreachableError("no answer")

    with pytest.raises(UnreachableError):
        follow(look, lambda _: None, interval=5, sleep=lambda _: None, clock=lambda: float(next(clock)))


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0.04, "0.0 s"), (1, "1 s"), (119.4, "119 s"), (120, "2 min"), (7000, "117 min"), (7300, "2 h 02 min")],
)
def test_durations(seconds: float, says: str) -> None:
    assert duration(seconds) == says


@pytest.mark.parametrize(
    ("count", "says"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * 1024**2, "1.5 GiB")]
)
def test_sizes(count: int, says: str) -> None:
    assert size(count) == says


def test_a_terminal_obeys_nothing_from_afar() -> None:
    assert clean("a\x1b[31mb\x07\tc\x1b]0;x") == "ab    c]0;x"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NoCredentialsError(), "no credentials: .*\n  fix: sign in"),
        (EndpointConnectionError(endpoint_url="http://x"), "AWS does not answer"),
        (ClientError({"Error": {"Code": "ExpiredToken", "Message": ""}}, "X"), r"no longer valid \(ExpiredToken\)"),
        (ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "Do"), "not allowed to call Do: no"),
        (ClientError({"Error": {"Code": "Odd", "Message": "why"}}, "Do"), "doing: Do: Odd: why"),
    ],
)
def test_what_aws_says_becomes_one_message(error: Exception, says: str) -> None:
    with pytest.raises(ModelzoneError, match=says), aws_errors("doing"):
        raise error


def test_outputs_that_are_missing_name_the_command(world: World) -> None:
    client = world("cloudformation")
    with pytest.raises(ModelzoneError, match=r"has no output Else\n  fix: deploy it again: cdk deploy CompileStack -c"):
        stack_outputs(client, environment="dev", suffix="compile", needed=("Else",))
    with pytest.raises(ModelzoneError, match=r"is not deployed .*\n  fix: cdk deploy ModelStoreStack -c environment=x"):
        stack_outputs(client, environment="x", suffix="model-store", needed=())


def test_times_are_of_utc() -> None:
    assert datetime(2026, 11, 21, 12, tzinfo=UTC) == NOW
