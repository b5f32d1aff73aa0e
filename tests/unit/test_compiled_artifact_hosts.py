"""Compile hosts: started somewhere, waited for, ended on every path."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError
from unit.compiled_artifact_aws import EXECUTION, KEY, NAME, START, FakeEc2, Machine, client_error, publish

from compiled_artifact import hosts
from compiled_artifact.errors import BusyError, CapacityError, CompileError, TransientError

COMPILE = {"modelzone:environment": "dev", "modelzone:role": "compile-host"}


def refusal(machine: Machine, step: str, kind: type[CompileError] = CompileError) -> str:
    with pytest.raises(CompileError) as caught:
        machine.step(step)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert text.startswith(f"step '{step}' failed: ")
    assert "\n" not in text
    return text


def tried(machine: Machine) -> list[tuple[str, str]]:
    return [(given["InstanceType"], given["SubnetId"]) for given in machine.aws.ec2.called("run_instances")]


def tags(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def test_a_host_is_started_from_the_launch_template() -> None:
    machine = Machine()

    state = machine.steps("look", "start-host")

    (given,) = machine.aws.ec2.called("run_instances")
    assert given["LaunchTemplate"] == {"LaunchTemplateId": "lt-1", "Version": "3"}
    assert (given["InstanceType"], given["SubnetId"]) == ("inf2.24xlarge", "subnet-a")
    assert (given["MinCount"], given["MaxCount"]) == (1, 1)
    assert len(given["ClientToken"]) == 64
    assert "InstanceMarketOptions" not in given
    for specification in given["TagSpecifications"]:
        assert {tag["Key"]: tag["Value"] for tag in specification["Tags"]} == {
            **COMPILE,
            "modelzone:execution": NAME,
            "modelzone:attempt": "1",
            "modelzone:deployment": "mixtral",
            "modelzone:until": "2026-11-21T17:00:00Z",
            "Name": "modelzone-dev-compile-mixtral",
        }
    assert [one["ResourceType"] for one in given["TagSpecifications"]] == ["instance", "volume"]
    assert state["host"] == {
        "instance_id": "i-0000",
        "instance_type": "inf2.24xlarge",
        "subnet_id": "subnet-a",
        "purchase": "on-demand",
        "attempt": 1,
        "launched": "2026-11-21T10:00:00Z",
    }
    assert (state["agent"], state["run"], state["job"]["devices"]) == ("pending", "pending", 6)


def test_all_zones_are_tried_before_the_next_type() -> None:
    machine = Machine()
    machine.aws.ec2.refusals = {
        ("inf2.24xlarge", "subnet-a"): "InsufficientInstanceCapacity",
        ("inf2.24xlarge", "subnet-b"): "Unsupported",
        ("inf2.48xlarge", "subnet-a"): "InsufficientFreeAddressesInSubnet",
    }

    state = machine.steps("look", "start-host")

    assert tried(machine) == [
        ("inf2.24xlarge", "subnet-a"),
        ("inf2.24xlarge", "subnet-b"),
        ("inf2.48xlarge", "subnet-a"),
        ("inf2.48xlarge", "subnet-b"),
    ]
    assert (state["host"]["instance_type"], state["job"]["devices"]) == ("inf2.48xlarge", 12)
    tokens = {given["ClientToken"] for given in machine.aws.ec2.called("run_instances")}
    assert len(tokens) == 4, "a token of another candidate would be refused"


def test_hosts_that_cannot_hold_the_degree_are_left_out() -> None:
    small = {"instance_type": "inf2.xlarge", "devices": 1, "tensor_parallel_degrees": [1, 2]}
    large = {"instance_type": "inf2.48xlarge", "devices": 12, "tensor_parallel_degrees": [8, 24]}
    machine = Machine(hosts=[small, large])

    machine.steps("look", "start-host")

    assert tried(machine) == [("inf2.48xlarge", "subnet-a")]


def test_no_capacity_anywhere_is_worth_another_try_and_says_what_was_tried() -> None:
    machine = Machine()
    machine.aws.ec2.refusals = {
        (None, None): "InsufficientInstanceCapacity",
        ("inf2.48xlarge", "subnet-b"): "Unsupported",
    }
    machine.step("look")

    reason = refusal(machine, "start-host", CapacityError)

    assert (
        "inf2.24xlarge (us-east-1a: no capacity, us-east-1b: no capacity); "
        "inf2.48xlarge (us-east-1a: no capacity, us-east-1b: not offered there)" in reason
    )
    assert "compile.instance_types" in reason
    machine.aws.ec2.refusals = {}
    assert machine.step("start-host")["host"]["attempt"] == 1


def test_zones_are_named_by_their_subnets_where_ec2_does_not_tell() -> None:
    machine = Machine()
    machine.aws.ec2.refusals = {(None, None): "InsufficientInstanceCapacity"}
    machine.aws.ec2.always["describe_subnets"] = client_error("UnauthorizedOperation")
    machine.step("look")

    assert "subnet-a: no capacity" in refusal(machine, "start-host", CapacityError)


def test_a_type_that_no_zone_offers_is_not_waited_for() -> None:
    machine = Machine()
    machine.aws.ec2.refusals = {(None, None): "Unsupported"}
    machine.step("look")

    assert "none of the environment's zones offers a host" in refusal(machine, "start-host")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("VcpuLimitExceeded", "Ask Service Quotas (Amazon EC2) for more vCPUs of 'Running On-Demand Inf instances'"),
        ("UnauthorizedOperation", "ec2:RunInstances with the launch template, ec2:CreateTags, and iam:PassRole"),
        ("InvalidSubnetID.NotFound", "The network was changed"),
        ("InvalidLaunchTemplateId.NotFound", "Deploy the compile stack again"),
        ("InvalidAMIID.NotFound", "Choose another AMI parameter"),
        ("IdempotentParameterMismatch", "was changed meanwhile"),
        ("PendingVerification", "verifying the account"),
        ("SomethingNew", "SomethingNew: refused. Deploy the compile stack again"),
    ],
)
def test_what_no_other_zone_mends_ends_it_at_once(code: str, words: str) -> None:
    machine = Machine()
    machine.aws.ec2.refusals = {(None, None): code}
    machine.step("look")

    reason = refusal(machine, "start-host")

    assert words in reason
    assert "inf2.24xlarge in subnet-a" in reason
    assert len(tried(machine)) == 1


def test_the_encoded_part_of_a_refusal_is_left_out() -> None:
    machine = Machine()
    text = "You are not authorized. Encoded authorization failure message: " + "aB3" * 400
    machine.aws.ec2.planted["run_instances"] = [client_error("UnauthorizedOperation", text)]
    machine.step("look")

    reason = refusal(machine, "start-host")

    assert "You are not authorized." in reason
    assert "Encoded" not in reason
    assert "aB3" not in reason


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "InternalError", "Unavailable"])
def test_throttling_is_worth_another_try(code: str) -> None:
    machine = Machine()
    machine.aws.ec2.planted["run_instances"] = [client_error(code)]
    machine.step("look")

    refusal(machine, "start-host", TransientError)
    machine.step("start-host")


@pytest.mark.parametrize(
    ("instance_type", "quota"),
    [
        ("inf2.xlarge", "Running On-Demand Inf instances"),
        ("trn1.32xlarge", "Running On-Demand Trn instances"),
        ("g6e.12xlarge", "Running On-Demand G and VT instances"),
        ("p5.48xlarge", "Running On-Demand P instances"),
        ("m7i.large", "Running On-Demand Standard"),
    ],
)
def test_each_family_has_its_own_quota(instance_type: str, quota: str) -> None:
    machine = Machine(hosts=[{"instance_type": instance_type, "devices": 1}])
    machine.aws.ec2.refusals = {(None, None): "VcpuLimitExceeded"}
    machine.step("look")

    assert quota in refusal(machine, "start-host")


def test_spot_hosts_and_the_last_one_on_demand() -> None:
    machine = Machine(purchase="spot")
    machine.step("look")
    purchases = []
    for _ in range(3):
        machine.step("start-host")
        purchases.append(machine.state["host"]["purchase"])
        machine.step("stop-host", run="interrupted")

    assert purchases == ["spot", "spot", "on-demand"]
    first, second, third = machine.aws.ec2.called("run_instances")
    assert first["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
    }
    assert "InstanceMarketOptions" in second
    assert "InstanceMarketOptions" not in third
    assert "3 hosts were tried" in refusal(machine, "start-host")
    assert len(machine.aws.ec2.called("run_instances")) == 3


@pytest.mark.parametrize("code", ["InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow"])
def test_where_there_is_no_spot_host_another_one_is_taken_at_once(code: str) -> None:
    machine = Machine(purchase="spot")
    machine.aws.ec2.spot_refusals = {(None, None): code}

    state = machine.steps("look", "start-host")

    markets = ["InstanceMarketOptions" in given for given in machine.aws.ec2.called("run_instances")]
    assert markets == [True] * 4 + [False]
    assert (state["host"]["purchase"], state["host"]["attempt"]) == ("on-demand", 1)


def test_a_spot_host_that_is_taken_over_is_one() -> None:
    for refusals, purchase in (({}, "spot"), ({(None, None): "InsufficientInstanceCapacity"}, "on-demand")):
        machine = Machine(purchase="spot")
        machine.aws.ec2.spot_refusals = refusals
        before = machine.step("look")
        machine.step("start-host")
        machine.state = before

        assert machine.step("start-host")["host"]["purchase"] == purchase


def test_both_quotas() -> None:
    machine = Machine(purchase="spot")
    machine.aws.ec2.refusals = {(None, None): "VcpuLimitExceeded"}
    machine.aws.ec2.spot_refusals = {(None, None): "MaxSpotInstanceCountExceeded"}
    machine.step("look")

    reason = refusal(machine, "start-host")

    assert "more of 'All Inf Spot Instance Requests' or 'Running On-Demand Inf instances'" in reason


def test_no_spot_capacity_and_no_quota_on_demand_is_worth_another_try() -> None:
    machine = Machine(purchase="spot")
    machine.aws.ec2.refusals = {(None, None): "VcpuLimitExceeded"}
    machine.aws.ec2.spot_refusals = {(None, None): "InsufficientInstanceCapacity"}
    machine.step("look")

    reason = refusal(machine, "start-host", CapacityError)

    assert "Spot: inf2.24xlarge (us-east-1a: no capacity" in reason
    assert "on demand: inf2.24xlarge (us-east-1a: the on-demand quota is used up" in reason


def test_the_loop_ends_before_the_function_does() -> None:
    machine = Machine()
    machine.aws.ec2.refusals = {(None, None): "InsufficientInstanceCapacity"}
    machine.step("look")
    machine.seconds_left = 59.0

    reason = refusal(machine, "start-host", CapacityError)

    assert len(tried(machine)) == 1, "one try, or it would never get on"
    assert "before the step's time was over" in reason


@pytest.mark.parametrize("kind", [ReadTimeoutError, ConnectTimeoutError, EndpointConnectionError])
def test_a_connection_that_breaks_is_worth_another_try(kind: type[Exception]) -> None:
    machine = Machine()
    machine.aws.ec2.planted["run_instances"] = [kind(endpoint_url="https://aws.invalid")]
    machine.step("look")

    refusal(machine, "start-host", TransientError)
    assert machine.step("start-host")["host"]["instance_id"] == "i-0000"


def test_no_host_for_an_execution_that_was_cancelled() -> None:
    machine = Machine()
    machine.step("look")
    machine.aws.stepfunctions.executions[EXECUTION["id"]]["status"] = "ABORTED"

    assert f"execution {NAME} is ABORTED: no host is started for it" in refusal(machine, "start-host")
    assert not tried(machine)


def test_a_host_that_was_started_while_the_execution_was_cancelled_ends_at_once() -> None:
    machine = Machine()
    machine.step("look")

    def cancel() -> None:
        machine.aws.stepfunctions.executions[EXECUTION["id"]]["status"] = "ABORTED"

    machine.aws.ec2.on_start = cancel

    assert "is ABORTED" in refusal(machine, "start-host")
    assert list(machine.aws.ec2.instances) == ["i-0000"]
    assert not machine.aws.ec2.live


def test_an_execution_that_step_functions_does_not_tell_of_yet_goes_on() -> None:
    machine = Machine()
    machine.aws.stepfunctions.executions.clear()

    machine.steps("look", "start-host")

    assert machine.aws.ec2.live == ["i-0000"]


def twin(machine: Machine, name: str, **launched: Any) -> None:
    machine.aws.ec2.add(name, tags={**COMPILE, "modelzone:execution": NAME, "modelzone:attempt": "1"}, **launched)


def test_a_host_that_was_started_twice_is_kept_once() -> None:
    machine = Machine()
    machine.step("look")
    twin(machine, "i-second")
    twin(machine, "i-first", age=timedelta(minutes=1))

    machine.step("start-host")

    assert machine.host == "i-first"
    assert machine.aws.ec2.live == ["i-first"]
    # Tags of a new instance are seen late.
    twin(machine, "i-third")
    machine.aws.ec2.add("i-other", tags={**COMPILE, "modelzone:execution": "other", "modelzone:attempt": "1"})
    machine.step("wait-for-agent")
    assert sorted(machine.aws.ec2.live) == ["i-first", "i-other"]


def test_a_second_host_that_cannot_be_ended_stops_nothing() -> None:
    machine = Machine()
    machine.steps("look", "start-host")
    twin(machine, "i-second")
    machine.aws.ec2.planted["terminate_instances"] = [client_error("UnauthorizedOperation")]

    assert machine.step("wait-for-agent")["agent"] == "pending"
    machine.step("stop-host")
    assert not machine.aws.ec2.live


@pytest.mark.parametrize("name", [f"mixtral-{KEY}-20261121095500", f"a-{KEY}-20261121100000"])
def test_an_older_execution_for_the_same_artifact_is_waited_for(name: str) -> None:
    machine = Machine()
    age = timedelta(minutes=5) if name.startswith("mixtral") else timedelta()
    machine.step("look")
    arn = machine.aws.stepfunctions.add(name, started=START - age)

    reason = refusal(machine, "start-host", BusyError)

    assert f"execution {name} makes the same artifact ({KEY})" in reason
    assert not tried(machine)
    # It ends without a result, hours later: the host of this one has its whole time.
    machine.pass_time(hours=4)
    machine.aws.stepfunctions.executions[arn] |= {"status": "FAILED", "stopDate": machine.now}
    machine.pass_time(minutes=1)
    machine.step("start-host")
    assert tags(machine.aws.ec2.instances["i-0000"])["modelzone:until"] == "2026-11-21T21:00:00Z"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        (f"mixtral-{KEY}-20261121100001", {"started": START + timedelta(seconds=1)}),
        (f"z-{KEY}-20261121100000", {}),
        (f"mixtral-{'0' * 20}-20261121090000", {"started": START - timedelta(hours=1)}),
        ("by-hand", {"started": START - timedelta(hours=1)}),
        (
            f"mixtral-{KEY}-20261121090000",
            {"started": START - timedelta(hours=1), "status": "FAILED", "stopDate": START - timedelta(minutes=1)},
        ),
        (f"mixtral-{KEY}-20261118090000", {"started": START - timedelta(days=3)}),
    ],
)
def test_other_executions_keep_nobody_waiting(name: str, more: dict[str, Any]) -> None:
    machine = Machine()
    machine.aws.stepfunctions.add(name, **more)

    machine.steps("look", "start-host")

    assert tags(machine.aws.ec2.instances["i-0000"])["modelzone:until"] == "2026-11-21T17:00:00Z"


def test_an_artifact_that_was_completed_meanwhile_needs_no_host() -> None:
    machine = Machine()
    assert machine.step("look")["published"] is False
    publish(machine.aws.s3)
    machine.aws.stepfunctions.add(f"mixtral-{KEY}-20261121095500", started=START - timedelta(minutes=5))

    state = machine.step("start-host")

    assert (state["published"], state["host"]) == (True, None)
    assert not tried(machine)
    output = machine.steps("register", "stop-host", "notify")["output"]
    assert (output["already"], output["host"]) == (True, None)


def test_an_artifact_that_was_completed_after_an_interruption_ends_it() -> None:
    machine = Machine(purchase="spot")
    machine.steps("look", "start-host")
    publish(machine.aws.s3)

    machine.step("stop-host", run="interrupted")

    assert machine.step("start-host")["run"] == "pending", "or the machine would start over after stop-host"
    assert machine.state["published"] is True


def test_a_crash_after_the_start_takes_the_host_over() -> None:
    machine = Machine()
    before = machine.step("look")
    machine.step("start-host")

    machine.state = before
    machine.pass_time(minutes=2)
    machine.step("start-host")

    assert len(tried(machine)) == 1
    assert machine.state["host"]["instance_id"] == "i-0000"
    assert machine.state["host"]["launched"] == "2026-11-21T10:00:00Z"
    assert machine.state["job"]["devices"] == 6


def test_a_host_that_the_tags_do_not_find_yet_is_not_started_twice() -> None:
    machine = Machine()
    before = machine.step("look")
    machine.step("start-host")
    machine.aws.ec2.hidden = {"i-0000"}

    machine.state = before
    machine.pass_time(minutes=2)
    machine.step("start-host")

    first, second = machine.aws.ec2.called("run_instances")
    assert first == second, "the same token with other parameters would be refused"
    assert list(machine.aws.ec2.instances) == ["i-0000"]


def test_a_host_that_ended_before_it_was_recorded_is_replaced() -> None:
    machine = Machine()
    before = machine.step("look")
    machine.step("start-host")
    machine.aws.ec2.end("i-0000")

    machine.state = before
    machine.step("start-host")

    assert machine.state["host"]["instance_id"] == "i-0001"


def test_a_token_that_brings_back_an_ended_host_leads_to_the_next_zone() -> None:
    machine = Machine()
    before = machine.step("look")
    machine.step("start-host")
    machine.aws.ec2.end("i-0000")
    machine.aws.ec2.hidden = {"i-0000"}

    machine.state = before
    machine.step("start-host")

    assert tried(machine)[1:] == [("inf2.24xlarge", "subnet-a"), ("inf2.24xlarge", "subnet-b")]
    assert machine.state["host"]["instance_id"] == "i-0001"


def test_another_host_starts_afresh() -> None:
    machine = Machine()
    machine.running()
    machine.progress(steps={"devices": 1.0})
    machine.step("follow")
    machine.pass_time(hours=3)
    machine.step("stop-host", run="interrupted")

    state = machine.step("start-host")

    assert state["host"]["attempt"] == 2
    assert not {"command_id", "metered", "heard"} & set(state)
    assert (state["run"], state["agent"], state["polls"]) == ("pending", "pending", 0)
    assert tags(machine.aws.ec2.instances["i-0001"])["modelzone:until"] == "2026-11-21T20:00:00Z"


def test_waiting_for_the_agent() -> None:
    machine = Machine()
    machine.steps("look", "start-host")

    machine.aws.ssm.pings["i-0000"] = "Inactive"
    assert machine.step("wait-for-agent")["agent"] == "pending"
    assert machine.state["polls"] == 1
    machine.pass_time(90)
    machine.aws.ssm.pings["i-0000"] = "Online"

    assert machine.step("wait-for-agent")["agent"] == "online"
    assert machine.state["polls"] == 0
    assert ("StepSeconds", 90.0, "wait-for-agent") in machine.aws.metrics()
    assert machine.aws.told().count(("wait-for-agent", "started")) == 1
    assert machine.aws.told().count(("wait-for-agent", "succeeded")) == 1


def test_an_agent_that_never_comes() -> None:
    machine = Machine()
    machine.steps("look", "start-host")
    for _ in range(59):
        assert machine.step("wait-for-agent")["agent"] == "pending"

    reason = refusal(machine, "wait-for-agent")

    assert "the SSM agent of host i-0000 (inf2.24xlarge) did not report in 60 tries" in reason
    assert "the AMI has the SSM agent" in reason
    assert "ssmmessages" in reason


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("Client.InternalError", "the account may not use the volume's key"),
        ("Client.VolumeLimitExceeded", "gp3 storage"),
        ("Client.UserInitiatedShutdown", "EC2 console"),
    ],
)
def test_a_host_that_ends_before_its_agent_comes(code: str, remedy: str) -> None:
    machine = Machine()
    machine.steps("look", "start-host")
    machine.aws.ec2.end("i-0000", code)

    reason = refusal(machine, "wait-for-agent")

    assert f"ended before its SSM agent reported: {code}: it ended" in reason
    assert remedy in reason


@pytest.mark.parametrize("code", ["Server.SpotInstanceTermination", "Server.InsufficientInstanceCapacity"])
def test_a_host_that_is_taken_back_before_its_agent_comes_is_replaced(code: str) -> None:
    machine = Machine(purchase="spot")
    machine.steps("look", "start-host")
    machine.aws.ec2.end("i-0000", code)

    machine.steps("wait-for-agent", "run", "follow")

    assert (machine.state["agent"], machine.state["run"]) == ("online", "interrupted")
    assert not machine.aws.ssm.commands
    machine.steps("stop-host", "start-host")
    assert machine.state["host"]["attempt"] == 2


def test_a_host_that_ec2_does_not_know_yet_is_waited_for() -> None:
    machine = Machine()
    machine.steps("look", "start-host")
    del machine.aws.ec2.instances["i-0000"]
    for _ in range(6):
        assert machine.step("wait-for-agent")["agent"] == "pending"

    assert "EC2 does not know it any more" in refusal(machine, "wait-for-agent")


def test_stopping_ends_every_host_of_the_execution() -> None:
    machine = Machine()
    machine.steps("look", "start-host")
    machine.aws.ec2.add("i-lost", tags={**COMPILE, "modelzone:execution": NAME}, state="stopped")
    machine.aws.ec2.add("i-other", tags={**COMPILE, "modelzone:execution": "other"})
    machine.aws.ec2.add("i-prod", tags={"modelzone:environment": "prod", "modelzone:execution": NAME})
    machine.pass_time(minutes=30)

    machine.step("stop-host")

    assert sorted(machine.aws.ec2.live) == ["i-other", "i-prod"]
    assert machine.aws.ec2.instances["i-lost"]["State"]["Name"] == "terminated"
    assert [value for name, value, _ in machine.aws.metrics() if name == "HostSeconds"] == [1800.0, 1800.0]
    assert machine.state["stopped_at"] == "2026-11-21T10:30:00Z"
    ended = len(machine.aws.ec2.called("terminate_instances"))
    machine.step("stop-host")
    assert len(machine.aws.ec2.called("terminate_instances")) == ended, "done once is done"


def test_stopping_knows_the_host_that_the_tags_do_not_find_yet() -> None:
    machine = Machine()
    machine.steps("look", "start-host")
    machine.aws.ec2.hidden = {"i-0000"}

    machine.step("stop-host")

    assert not machine.aws.ec2.live


def test_a_host_that_was_taken_away_was_paid_for() -> None:
    machine = Machine()
    machine.steps("look", "start-host")
    machine.aws.ec2.end("i-0000")
    machine.pass_time(minutes=10)

    machine.steps("stop-host", "stop-host")

    assert [value for name, value, _ in machine.aws.metrics() if name == "HostSeconds"] == [600.0]
    assert not machine.aws.ec2.called("terminate_instances")


def test_stopping_without_a_host_is_no_error() -> None:
    machine = Machine()

    machine.steps("look", "stop-host")

    assert not machine.aws.ec2.called("terminate_instances")


def test_stopping_that_is_refused_says_how_to_do_it_by_hand() -> None:
    machine = Machine()
    machine.steps("look", "start-host")
    machine.aws.ec2.add("i-second", tags={**COMPILE, "modelzone:execution": NAME})
    machine.aws.ec2.planted["terminate_instances"] = [client_error("UnauthorizedOperation")]

    reason = refusal(machine, "stop-host")

    assert "aws ec2 terminate-instances --instance-ids i-0000 i-second" in reason
    assert machine.aws.ec2.live == ["i-0000"], "one that is refused keeps no other running"


def test_stopping_waits_until_hosts_are_on_their_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    machine.steps("look", "start-host")
    monkeypatch.setattr(FakeEc2, "terminate_instances", lambda self, **given: self._enter("terminate_instances", given))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            machine.aws.ec2.end("i-0000", state="shutting-down")

    monkeypatch.setattr(machine, "pass_time", sleep)
    machine.step("stop-host")

    assert slept == [2.0, 2.0, 2.0]


def test_a_host_that_vanished_is_terminated() -> None:
    machine = Machine()
    machine.steps("look", "start-host")
    machine.aws.ec2.planted["terminate_instances"] = [client_error("InvalidInstanceID.NotFound")]
    machine.aws.ec2.instances["i-0000"]["State"] = {"Name": "shutting-down"}

    machine.step("stop-host")


def status_event(status: str, **detail: Any) -> dict[str, Any]:
    return {
        "source": "aws.states",
        "detail-type": "Step Functions Execution Status Change",
        "detail": {
            "executionArn": f"arn:aws:states:us-east-1:123456789012:execution:compile:{NAME}",
            "name": NAME,
            "status": status,
            "input": json.dumps({"deployment": "mixtral"}),
            **detail,
        },
    }


@pytest.mark.parametrize(
    ("status", "detail", "words"),
    [
        ("ABORTED", {"cause": "enough"}, "was cancelled: enough"),
        ("ABORTED", {"name": None, "input": "{"}, "was cancelled"),
        ("TIMED_OUT", {}, "took longer than it may"),
        ("FAILED", {"error": "States.Runtime", "cause": "no such path"}, "outside of its steps: no such path"),
        ("FAILED", {"error": "CompileFailed", "cause": "step 'export' failed"}, None),
    ],
)
def test_cleaning_up_after_an_execution_that_was_cut_short(
    status: str, detail: dict[str, Any], words: str | None
) -> None:
    machine = Machine()
    machine.steps("look", "start-host")
    machine.aws.ec2.add("i-other", tags={**COMPILE, "modelzone:execution": "other"})

    result = machine.event(status_event(status, **detail))

    assert result == {"terminated": ["i-0000"]}
    assert machine.aws.ec2.live == ["i-other"]
    if words is None:
        assert not machine.aws.notices(), "its own steps have told so"
    else:
        (notice,) = machine.aws.notices()
        assert words in notice["Message"]
        assert len(notice["Subject"]) <= 100
        assert notice["Subject"].isascii()
    failures = [name for name, *_ in machine.aws.metrics() if name == "Failures"]
    assert len(failures) == (words is not None and status != "ABORTED")


def test_cleaning_up_twice_is_no_error() -> None:
    machine = Machine()
    machine.steps("look", "start-host")

    machine.event(status_event("TIMED_OUT"))
    assert machine.event({"step": "cleanup", **status_event("TIMED_OUT")}) == {"terminated": []}


def test_an_event_without_an_execution_ends_nothing() -> None:
    machine = Machine()
    machine.aws.ec2.add("i-1", tags={**COMPILE, "modelzone:execution": ""})

    assert machine.event({"step": "cleanup", "detail": {}}) == {"terminated": []}


def reaped(machine: Machine) -> list[str]:
    machine_arn = "arn:aws:states:us-east-1:123456789012:stateMachine:compile"
    return sorted(machine.event({"step": "reap", "state_machine_arn": machine_arn})["terminated"])


def test_the_reaper_ends_what_should_not_run_any_more() -> None:
    machine = Machine()
    ec2, old = machine.aws.ec2, timedelta(minutes=10)
    later, before = "2026-11-21T12:00:00Z", "2026-11-21T09:59:59Z"
    machine.aws.stepfunctions.add("runs")
    machine.aws.stepfunctions.add("ended", "SUCCEEDED")
    debug = {"modelzone:environment": "dev", "modelzone:role": "debug-host"}
    ec2.add("i-runs", tags={**COMPILE, "modelzone:execution": "runs", "modelzone:until": later}, age=old)
    ec2.add("i-over", tags={**COMPILE, "modelzone:execution": "runs", "modelzone:until": before}, age=old)
    ec2.add("i-ended", tags={**COMPILE, "modelzone:execution": "ended", "modelzone:until": later}, age=old)
    ec2.add("i-unknown", tags={**COMPILE, "modelzone:execution": "never", "modelzone:until": later}, age=old)
    ec2.add("i-young", tags={**COMPILE, "modelzone:execution": "never", "modelzone:until": later})
    ec2.add("i-nobody", tags={**COMPILE, "modelzone:until": later}, age=old)
    ec2.add("i-debug", tags={**debug, "modelzone:until": later}, age=old)
    ec2.add("i-debug-over", tags={**debug, "modelzone:until": before}, age=old, state="stopped")
    ec2.add("i-endless", tags={**debug, "modelzone:until": "never"}, age=timedelta(hours=15))
    ec2.add("i-prod", tags={**debug, "modelzone:environment": "prod", "modelzone:until": before}, age=old)
    ec2.add("i-else", tags={"modelzone:environment": "dev", "modelzone:until": before}, age=old)

    assert reaped(machine) == ["i-debug-over", "i-ended", "i-endless", "i-nobody", "i-over", "i-unknown"]

    assert sorted(ec2.live) == ["i-debug", "i-else", "i-prod", "i-runs", "i-young"]
    (notice,) = machine.aws.notices()
    assert "6 forgotten hosts terminated" in notice["Subject"]
    assert "i-ended: execution ended is SUCCEEDED" in notice["Message"]
    assert reaped(machine) == []
    assert len(machine.aws.notices()) == 1, "nothing to tell, nothing told"


def test_the_reaper_leaves_hosts_alone_when_step_functions_does_not_answer() -> None:
    machine = Machine()
    machine.aws.ec2.add(
        "i-1",
        tags={**COMPILE, "modelzone:execution": NAME, "modelzone:until": "2026-11-22T00:00:00Z"},
        age=timedelta(hours=1),
    )
    machine.aws.ec2.add("i-2", tags={**COMPILE, "modelzone:until": "2026-11-20T00:00:00Z"}, age=timedelta(hours=1))
    machine.aws.stepfunctions.always["describe_execution"] = client_error("ThrottlingException")

    with pytest.raises(TransientError):
        reaped(machine)

    assert machine.aws.ec2.live == ["i-1"]


def test_a_host_s_tags_are_those_that_others_look_for() -> None:
    from modelzone import hosts as library  # noqa: PLC0415 - the function must not import it

    for name in ("ENVIRONMENT_TAG", "ROLE_TAG", "EXECUTION_TAG", "UNTIL_TAG", "COMPILE_HOST", "DEBUG_HOST"):
        assert getattr(hosts, name) == getattr(library, name)


def test_a_host_without_a_reason_for_its_end() -> None:
    assert hosts.end_of({"StateTransitionReason": "User initiated (2026)."}) == "User initiated (2026)"
    assert hosts.end_of({}) == "EC2 gives no reason"
    assert hosts.lost_to_capacity({"StateTransitionReason": "Server.SpotInstanceTermination: taken"})
    assert not hosts.lost_to_capacity(None)


def test_the_key_is_in_the_name_of_the_execution() -> None:
    assert KEY in NAME
    assert START.strftime("%Y%m%d%H%M%S") in NAME
