"""Debugging hosts end themselves, start where there is capacity, and cancelled compilations leave none."""

from __future__ import annotations

import base64
from datetime import timedelta

import pytest
from unit.compile_world import NOW, World, order

from compiled_artifact import refusals
from modelzone.compiling.hosts import NO_CAPACITY, Host, connect_command, hosts_of, start_debug_host, wait_until_gone
from modelzone.errors import ModelzoneError

NAME = "mixtral-0123456789abcdef0123-20261121120000"
TYPES = ("inf2.24xlarge", "inf2.48xlarge")


@pytest.fixture
def world() -> World:
    return World()


def start(world: World, hours: int = 3) -> Host:
    return start_debug_host(
        world("ec2"),
        environment="dev",
        deployment="mixtral",
        order=order(hosts=[{"instance_type": name, "devices": 6} for name in TYPES]),
        subnets=["subnet-a", "subnet-b"],
        hours=hours,
        now=NOW,
    )


def test_a_debugging_host_is_tagged_and_ends_itself(world: World) -> None:
    host = start(world)
    (asked,) = world.started
    assert asked["LaunchTemplate"] == {"LaunchTemplateId": "lt-0123456789abcdef0", "Version": "3"}
    assert {"KeyName", "NetworkInterfaces", "SecurityGroupIds", "IamInstanceProfile"} & set(asked) == set()
    script = asked["UserData"]
    script = script if script.startswith("#!") else base64.b64decode(script).decode()
    assert "OnBootSec=3h" in script
    for row in asked["TagSpecifications"]:
        tags = {tag["Key"]: tag["Value"] for tag in row["Tags"]}
        assert tags["modelzone:role"] == "debug-host"
        assert tags["modelzone:environment"] == "dev"
        assert tags["modelzone:until"] == (NOW + timedelta(hours=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert [row["ResourceType"] for row in asked["TagSpecifications"]] == ["instance", "volume"]
    assert (host.role, host.until) == ("debug-host", "2026-11-21T15:00:00Z")


def test_zones_in_turn_and_then_the_next_type(world: World) -> None:
    world.no_capacity = {(TYPES[0], "subnet-a"), (TYPES[0], "subnet-b"), (TYPES[1], "subnet-a")}
    assert start(world).instance_type == TYPES[1]
    tried = [(asked["InstanceType"], asked["SubnetId"]) for asked in world.started]
    assert tried == [(name, subnet) for name in TYPES for subnet in ("subnet-a", "subnet-b")]


def test_no_capacity_anywhere_names_every_place(world: World) -> None:
    world.no_capacity = {(name, subnet) for name in TYPES for subnet in ("subnet-a", "subnet-b")}
    with pytest.raises(ModelzoneError, match=r"inf2\.48xlarge in subnet-b: InsufficientInstanceCapacity\n  fix: try"):
        start(world)


def test_another_place_is_tried_for_the_same_reasons_as_in_a_compilation() -> None:
    assert set(NO_CAPACITY) == set(refusals.NEXT)


def test_other_refusals_end_it_at_once(world: World) -> None:
    world.broken["RunInstances"] = "UnauthorizedOperation"
    with pytest.raises(
        ModelzoneError, match=r"starting a inf2\.24xlarge in subnet-a: not allowed to call RunInstances"
    ):
        start(world)
    assert len(world.asked_for("RunInstances")) == 1


def test_hosts_of_an_environment(world: World) -> None:
    world.host(1, role="debug-host")
    world.host(2, state="terminated")
    world.host(3, environment="prod")
    world.host(4, role="something")
    assert [host.instance_id[-1] for host in hosts_of(world("ec2"), environment="dev")] == ["1"]


class Clock:
    """Time that goes on when one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def wait(world: World, clock: Clock) -> list[Host]:
    return wait_until_gone(world("ec2"), NAME, sleep=clock.sleep, clock=clock)


def test_waiting_until_the_clean_up_has_ended_the_host(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host = world.host(execution=NAME)
    clock = Clock()

    def sleep(seconds: float) -> None:
        Clock.sleep(clock, seconds)
        if clock.now > 20:
            host["State"] = {"Name": "shutting-down"}

    monkeypatch.setattr(clock, "sleep", sleep)
    assert [found.state for found in wait(world, clock)] == ["shutting-down"]
    assert world.asked_for("TerminateInstances") == []


def test_without_a_clean_up_it_ends_the_host_itself(world: World) -> None:
    world.host(execution=NAME)
    clock = Clock()
    wait(world, clock)
    assert len(world.asked_for("TerminateInstances")) == 1
    assert 90 <= clock.now < 120


def test_a_host_that_does_not_go_is_said_with_the_command(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.host(execution=NAME)
    monkeypatch.setattr(World, "ec2_terminate_instances", lambda *_: {})
    with pytest.raises(ModelzoneError, match="aws ec2 terminate-instances --instance-ids i-00000000000000001"):
        wait(world, Clock())


def test_a_compilation_without_a_host(world: World) -> None:
    clock = Clock()
    assert wait(world, clock) == []
    assert clock.now == 10


def test_commands_to_connect() -> None:
    aws = ["aws", "--region", "us-east-1"]
    assert connect_command("i-1", aws=aws) == [*aws, "ssm", "start-session", "--target", "i-1"]
    assert connect_command("i-1", aws=aws, port=8888, local_port=9999)[-4:] == [
        "--document-name",
        "AWS-StartPortForwardingSession",
        "--parameters",
        '{"portNumber": ["8888"], "localPortNumber": ["9999"]}',
    ]
