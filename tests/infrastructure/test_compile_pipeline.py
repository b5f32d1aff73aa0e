"""The compile pipeline: a walk over the state machine's definition, its rights, its rules and its notices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from aws_cdk import Duration
from infrastructure.support import ENVIRONMENTS, Zone, text

from compiled_artifact.steps import handler

States = Mapping[str, Mapping[str, Any]]
STEPS = {"look", "start-host", "wait-for-agent", "run", "follow", "verify", "register", "stop-host", "notify"}
STOPS = {"StopHost", "StopInterruptedHost", "StopFailedHost"}


def _machine(zone: Zone) -> Mapping[str, Any]:
    (machine,) = [
        resource.properties
        for resource in zone.resources("AWS::StepFunctions::StateMachine", stack="CompileStack")
        if "StateMachineName" in resource.properties
    ]
    return machine


@pytest.fixture(scope="module")
def definition(dev: Zone) -> Mapping[str, Any]:
    loaded: dict[str, Any] = json.loads(text(_machine(dev)["DefinitionString"]))
    return loaded


@pytest.fixture(scope="module")
def states(definition: Mapping[str, Any]) -> States:
    found: States = definition["States"]
    return found


def _followers(state: Mapping[str, Any]) -> Iterator[str]:
    """Every state that one can lead to, also by failing."""
    if "Next" in state:
        yield state["Next"]
    if "Default" in state:
        yield state["Default"]
    for branch in (*state.get("Choices", ()), *state.get("Catch", ())):
        yield branch["Next"]


def _reached(states: States, start: str, *, without: frozenset[str] = frozenset()) -> set[str]:
    """All states that can be reached, not going through some."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen or name in without:
            continue
        seen.add(name)
        waiting.extend(_followers(states[name]))
    return seen


def _states_of(zone: Zone) -> States:
    found: States = json.loads(text(_machine(zone)["DefinitionString"]))["States"]
    return found


def _tasks(states: States) -> dict[str, Mapping[str, Any]]:
    return {name: state for name, state in states.items() if state["Type"] == "Task"}


def test_every_state_is_reached_and_there(definition: Mapping[str, Any], states: States) -> None:
    assert _reached(states, definition["StartAt"]) == set(states)


def test_tasks_are_the_steps_and_pass_the_whole_state_on(states: States) -> None:
    assert {task["Parameters"]["Payload"]["step"] for task in _tasks(states).values()} == STEPS
    for task in _tasks(states).values():
        payload = task["Parameters"]["Payload"]
        assert payload["state.$"] == "$"
        assert payload["execution"] == {
            "id.$": "$$.Execution.Id",
            "name.$": "$$.Execution.Name",
            "start.$": "$$.Execution.StartTime",
        }
        assert task["OutputPath"] == "$.Payload"
        assert "ResultPath" not in task


def test_steps_are_those_of_the_function(states: States) -> None:
    """With the function's own table."""
    from compiled_artifact.steps import _STEPS  # noqa: PLC0415

    assert {task["Parameters"]["Payload"]["step"] for task in _tasks(states).values()} == set(_STEPS)
    assert handler.__module__ == "compiled_artifact.steps"


def test_whatever_fails_leads_to_the_end_of_the_host(states: States) -> None:
    for name, task in _tasks(states).items():
        (catch,) = task["Catch"]
        assert catch["ErrorEquals"] == ["States.ALL"]
        expected = {
            "StopFailedHost": ("NotifyFailure", "$.stop_failure"),
            "NotifyFailure": ("FailedUnannounced", "$.notify_failure"),
        }.get(name, ("StopFailedHost", "$.failure"))
        assert (catch["Next"], catch["ResultPath"]) == expected, name


def test_no_way_from_a_started_host_to_an_end_goes_past_stopping_it(states: States) -> None:
    ends = {name for name, state in states.items() if state["Type"] in {"Succeed", "Fail"} or state.get("End")}
    assert ends == {"Done", "Failed", "FailedUnannounced"}
    assert not _reached(states, "StartHost", without=frozenset(STOPS)) & ends
    # Each of the three is needed: without it there is a way past.
    for stop in STOPS - {"StopInterruptedHost"}:
        assert _reached(states, "StartHost", without=frozenset(STOPS - {stop})) & ends, stop


def test_a_new_host_is_started_only_when_the_one_before_is_stopped(states: States) -> None:
    """StartHost comes back to itself through StopInterruptedHost only."""
    reached: set[str] = set()
    for follower in _followers(states["StartHost"]):
        reached |= _reached(states, follower, without=frozenset({"StopInterruptedHost"}))
    assert "StartHost" not in reached


def test_nothing_goes_round_without_a_pause(states: States) -> None:
    """Without waits, and without the way to another host, the machine has no circles."""
    without = frozenset({name for name, state in states.items() if state["Type"] == "Wait"} | {"StopInterruptedHost"})
    for name in states:
        if name not in without:
            behind = [_reached(states, next_, without=without) for next_ in _followers(states[name])]
            assert not any(name in reached for reached in behind), name
    assert states["AgentPause"]["Seconds"] == 10
    assert states["JobPause"]["Seconds"] >= 20


def test_choices_ask_for_what_the_steps_answer(states: States) -> None:
    def choices(name: str) -> list[tuple[str, object, str]]:
        rows = states[name]["Choices"]
        return [(row["Variable"], row.get("StringEquals", row.get("BooleanEquals")), row["Next"]) for row in rows]

    assert choices("IsPublished") == [("$.published", True, "Register")]
    assert states["IsPublished"]["Default"] == "StartHost"
    assert states["StartHost"]["Next"] == "WasPublishedMeanwhile"
    assert choices("WasPublishedMeanwhile") == [("$.published", True, "Register")]
    assert states["WasPublishedMeanwhile"]["Default"] == "WaitForAgent"
    assert choices("IsAgentOnline") == [("$.agent", "online", "Run")]
    assert states["IsAgentOnline"]["Default"] == "AgentPause"
    assert choices("HasJobEnded") == [
        ("$.run", "succeeded", "Verify"),
        ("$.run", "interrupted", "StopInterruptedHost"),
    ]
    assert states["HasJobEnded"]["Default"] == "JobPause"


def test_errors_that_pass_are_tried_again(states: States) -> None:
    for name, task in _tasks(states).items():
        errors = {error: retry for retry in task["Retry"] for error in retry["ErrorEquals"]}
        assert {"TransientError", "Lambda.TooManyRequestsException", "Lambda.ServiceException"} <= set(errors)
        assert "States.ALL" not in errors
        assert ("CapacityError" in errors) == ("BusyError" in errors) == (name == "StartHost")
        # Those that the function may have done, although it did not answer: only where doing it twice does no harm.
        repeatable = name in {"WaitForAgent", "Run", "Follow", "Verify", "Register", *STOPS}
        for error in ("Lambda.Unknown", "Sandbox.Timedout", "States.Timeout"):
            assert (error in errors) == repeatable, (name, error)
    (capacity,) = [r for r in states["StartHost"]["Retry"] if "CapacityError" in r["ErrorEquals"]]
    waits = [
        capacity["IntervalSeconds"] * capacity["BackoffRate"] ** number for number in range(capacity["MaxAttempts"])
    ]
    assert waits[0] == 60
    assert 25 * 60 <= sum(waits) <= 35 * 60


def test_trouble_while_a_host_compiles_is_waited_out(states: States) -> None:
    (retry,) = states["Follow"]["Retry"]
    waits = [
        min(retry["MaxDelaySeconds"], retry["IntervalSeconds"] * retry["BackoffRate"] ** number)
        for number in range(retry["MaxAttempts"])
    ]
    assert waits[:3] == [2, 4, 8]
    assert max(waits) == 60
    assert 20 * 60 <= sum(waits) <= 40 * 60


def test_another_execution_of_the_same_artifact_is_waited_for(zone: Zone) -> None:
    retry = _states_of(zone)["StartHost"]["Retry"]
    errors = [each["ErrorEquals"] for each in retry]
    assert errors.index(["BusyError"]) < errors.index(["CapacityError"])
    (busy,) = [each for each in retry if each["ErrorEquals"] == ["BusyError"]]
    assert (busy["IntervalSeconds"], busy["BackoffRate"]) == (60, 1)
    assert busy["IntervalSeconds"] * busy["MaxAttempts"] == zone.plan.environment.compile.max_hours * 3600


def test_tasks_end_a_little_after_their_function(zone: Zone) -> None:
    (function,) = [
        r.properties
        for r in zone.resources("AWS::Lambda::Function")
        if r.properties["Handler"] == "compiled_artifact.steps.handler"
    ]
    for name, task in _tasks(_states_of(zone)).items():
        assert 5 <= task["TimeoutSeconds"] - function["Timeout"] <= 60, name


def test_the_history_of_the_longest_execution_fits(synthesise: Callable[[str], Zone]) -> None:
    """Step Functions ends an execution with 25,000 events, and then no step of it would end the host."""
    for name in ENVIRONMENTS:
        zone = synthesise(name)
        states, seconds = _states_of(zone), json.loads(text(_machine(zone)["DefinitionString"]))["TimeoutSeconds"]
        # Pause and choice are entered and left, the task is also scheduled, started and ended.
        following = seconds / states["JobPause"]["Seconds"] * (2 + 5 + 2)
        # Three hosts, each with as many looks for its agent as the function has (context.py).
        agents = 3 * 60 * (2 + 5 + 2)
        # A try that fails is scheduled, started and failed.
        tried_again = 3 * sum(retry["MaxAttempts"] for task in _tasks(states).values() for retry in task["Retry"])
        assert following + agents + tried_again < 25_000, name


def test_the_longest_history_fits_too() -> None:
    """For what an environment may ask for at most."""
    from zone_constructs.compile_states import _job_pause  # noqa: PLC0415

    for max_hours in range(1, 13):
        seconds = (2 * max_hours + 2) * 3600
        pause = int(_job_pause(Duration.seconds(seconds)).to_seconds())
        assert 20 <= pause <= 45
        # Waiting for another execution takes the time in which nothing is followed, and makes fewer events.
        assert seconds / pause * 9 <= 20_000


def test_errors_have_the_names_of_the_functions_classes() -> None:
    from compiled_artifact import errors  # noqa: PLC0415

    assert errors.CapacityError.__name__ == "CapacityError"
    assert errors.TransientError.__name__ == "TransientError"
    assert errors.BusyError.__name__ == "BusyError"


def test_it_ends_in_one_message(states: States) -> None:
    for name, path in (("Failed", "$.failure.message"), ("FailedUnannounced", "$.failure.Cause")):
        assert states[name] == {"Type": "Fail", "Error": "CompileFailed", "CausePath": path}
    assert states["Done"] == {"Type": "Succeed", "OutputPath": "$.output"}


def test_the_machine_is_bounded_logged_and_traced(zone: Zone) -> None:
    machine = _machine(zone)
    definition = json.loads(text(machine["DefinitionString"]))
    # For waiting for another execution of the same artifact, and for compiling.
    assert definition["TimeoutSeconds"] == (2 * zone.plan.environment.compile.max_hours + 2) * 3600
    assert machine["StateMachineName"] == f"modelzone-{zone.name}-compile"
    assert machine.get("StateMachineType", "STANDARD") == "STANDARD"
    assert machine["TracingConfiguration"] == {"Enabled": True}
    for each in zone.resources("AWS::StepFunctions::StateMachine"):
        logging = each.properties["LoggingConfiguration"]
        assert (logging["Level"], logging["IncludeExecutionData"]) == ("ALL", False)
        assert len(logging["Destinations"]) == 1


def test_the_function_is_told_where_everything_is(zone: Zone) -> None:
    """With the function's own reader."""
    from compiled_artifact.context import Settings  # noqa: PLC0415

    (function,) = [
        r
        for r in zone.resources("AWS::Lambda::Function")
        if r.properties["Handler"] == "compiled_artifact.steps.handler"
    ]
    variables = {name: text(value) for name, value in function.properties["Environment"]["Variables"].items()}
    settings = Settings.from_environment(variables)
    assert settings.environment == zone.name
    assert settings.orders_path == f"/modelzone/{zone.name}/compile/orders"
    assert settings.progress_path == f"/modelzone/{zone.name}/compile/progress"
    assert settings.artifacts_path == f"/modelzone/{zone.name}/artifacts"
    assert len(settings.subnets) == len(set(settings.subnets)) >= 2
    assert settings.state_machine_arn.endswith(f":stateMachine:modelzone-{zone.name}-compile")
    assert settings.topic_arn == f"<{zone.one('AWS::SNS::Topic').logical_id}>"
    assert settings.document == f"<{zone.one('AWS::SSM::Document').logical_id}>"
    if zone.plan.environment.network.egress == "nat" and zone.plan.environment.network.new_vpc:
        assert all("egressSubnet" in subnet for subnet in settings.subnets)


def test_hosts_are_started_from_the_templates_with_tags_only(zone: Zone) -> None:
    statements = [s for _, s in zone.statements() if "ec2:RunInstances" in s["Action"]]
    if zone.plan.environment.compile.purchase == "spot":
        # Starts nothing without the instance that the others allow.
        (request,) = [s for s in statements if "Condition" not in s]
        assert [text(arn).rsplit(":", 1)[-1] for arn in request["Resource"]] == ["spot-instances-request/*"]
        statements.remove(request)
    assert len(statements) == 3
    templates = {f"<{r.logical_id}>" for r in zone.resources("AWS::EC2::LaunchTemplate")}
    kinds: dict[str, Mapping[str, Any]] = {}
    for statement in statements:
        assert statement["Action"] == ["ec2:RunInstances"]
        named = {text(arn).rsplit("/", 1)[-1] for arn in statement["Condition"]["ArnLike"]["ec2:LaunchTemplate"]}
        assert named == templates
        for arn in statement["Resource"]:
            kinds[text(arn).split("/", 1)[0].rsplit(":", 1)[-1]] = statement["Condition"]
    assert set(kinds) == {
        "image", "instance", "launch-template", "network-interface", "security-group", "subnet", "volume",
    }  # fmt: skip
    tags = {"aws:RequestTag/modelzone:environment": zone.name, "aws:RequestTag/modelzone:role": "compile-host"}
    assert kinds["instance"]["StringEquals"] == kinds["volume"]["StringEquals"] == tags
    for kind in ("image", "security-group"):
        assert kinds[kind]["Bool"] == {"ec2:IsLaunchTemplateResource": "true"}
    named_subnets = [text(arn) for s in statements for arn in s["Resource"] if ":subnet/" in text(arn)]
    assert len(named_subnets) >= 2
    assert not [arn for arn in named_subnets if arn.endswith("/*")]


def test_only_hosts_of_this_environment_are_ended_or_given_commands(zone: Zone) -> None:
    def conditions(action: str, resource: str) -> list[Mapping[str, Any]]:
        return [
            s["Condition"]["StringEquals"]
            for _, s in zone.statements()
            if action in s["Action"] and any(text(arn).endswith(resource) for arn in s["Resource"])
        ]

    ended = {
        "aws:ResourceTag/modelzone:environment": zone.name,
        "aws:ResourceTag/modelzone:role": ["compile-host", "debug-host"],
    }
    # By the steps, and when the stack is deleted.
    assert conditions("ec2:TerminateInstances", ":instance/*") == [ended, ended]
    assert conditions("ssm:SendCommand", ":instance/*") == [
        {"ssm:resourceTag/modelzone:environment": zone.name, "ssm:resourceTag/modelzone:role": "compile-host"}
    ]
    assert conditions("ec2:CreateTags", "/*") == [{"ec2:CreateAction": "RunInstances"}]
    (document,) = [
        text(arn)
        for _, s in zone.statements()
        if "ssm:SendCommand" in s["Action"]
        for arn in s["Resource"]
        if ":document/" in text(arn)
    ]
    assert document.endswith(f":document/<{zone.one('AWS::SSM::Document').logical_id}>")


def test_roles_are_passed_to_hosts_only(zone: Zone) -> None:
    passed = [s for r, s in zone.statements() if "iam:PassRole" in s["Action"]]
    (statement,) = passed
    (host_role,) = {text(r.properties["Roles"][0]) for r in zone.resources("AWS::IAM::InstanceProfile")}
    assert [text(arn) for arn in statement["Resource"]] == [f"{host_role[:-1]}.Arn>"]
    assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}


def test_amis_are_looked_up_by_the_names_of_the_templates(zone: Zone) -> None:
    (statement,) = [s for _, s in zone.statements() if "ssm:GetParameters" in s["Action"]]
    images = {
        r.properties["LaunchTemplateData"]["ImageId"].removeprefix("resolve:ssm:")
        for r in zone.resources("AWS::EC2::LaunchTemplate")
    }
    # Public parameters belong to no account.
    assert {text(arn).split("::parameter", 1)[1] for arn in statement["Resource"]} == images


def test_spot_needs_its_role_and_nothing_else_makes_roles(zone: Zone) -> None:
    makers = [s for _, s in zone.statements() if any(a.startswith("iam:Create") for a in s["Action"])]
    assert len(makers) == (zone.plan.environment.compile.purchase == "spot")
    for statement in makers:
        assert statement["Condition"] == {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}}


def test_what_the_machine_leaves_behind_is_cleaned_up(dev: Zone) -> None:
    rules = {
        rule.properties.get("ScheduleExpression", "event"): rule.properties
        for rule in dev.resources("AWS::Events::Rule")
    }
    assert set(rules) == {"rate(30 minutes)", "event"}
    (machine,) = [
        f"<{r.logical_id}>"
        for r in dev.resources("AWS::StepFunctions::StateMachine")
        if "StateMachineName" in r.properties
    ]
    pattern = rules["event"]["EventPattern"]
    assert pattern["source"] == ["aws.states"]
    assert pattern["detail-type"] == ["Step Functions Execution Status Change"]
    assert sorted(pattern["detail"]["status"]) == ["ABORTED", "FAILED", "TIMED_OUT"]
    assert [text(arn) for arn in pattern["detail"]["stateMachineArn"]] == [machine]
    (function,) = [
        f"<{r.logical_id}.Arn>"
        for r in dev.resources("AWS::Lambda::Function")
        if r.properties["Handler"] == "compiled_artifact.steps.handler"
    ]
    for rule in rules.values():
        (target,) = rule["Targets"]
        assert text(target["Arn"]) == function
    (event,), (reap,) = rules["event"]["Targets"], rules["rate(30 minutes)"]["Targets"]
    assert not set(event) & {"Input", "InputPath", "InputTransformer"}, "the function reads the event as it is"
    assert json.loads(text(reap["Input"])) == {"step": "reap", "state_machine_arn": machine}


def test_nothing_is_deleted_before_what_compiles_is_ended(zone: Zone) -> None:
    """CloudFormation deletes a resource before what it depends on."""
    shutdown = zone.one("Custom::CompileShutdown", stack="CompileStack")
    (machine,) = [
        r.logical_id for r in zone.resources("AWS::StepFunctions::StateMachine") if "StateMachineName" in r.properties
    ]
    assert {k: v for k, v in shutdown.properties.items() if k != "ServiceToken"} == {
        "ServiceTimeout": "300",
        "StateMachineArn": {"Ref": machine},
        "Environment": zone.name,
    }
    needed = set(shutdown.body["DependsOn"])
    kinds = {
        "AWS::EC2::LaunchTemplate", "AWS::EC2::SecurityGroup", "AWS::Events::Rule", "AWS::IAM::InstanceProfile",
        "AWS::SSM::Document", "AWS::SNS::Topic",
    }  # fmt: skip
    resources = {r.logical_id: r for r in zone.resources(stack="CompileStack")}
    assert {name for name, r in resources.items() if r.type in kinds} <= needed
    functions = {r.properties["Handler"]: r for r in resources.values() if r.type == "AWS::Lambda::Function"}
    steps, function = (functions[f"compiled_artifact.{name}.handler"] for name in ("steps", "shutdown"))
    assert {machine, steps.logical_id} <= needed
    assert shutdown.properties["ServiceToken"] == {"Fn::GetAtt": [function.logical_id, "Arn"]}
    assert function.properties["Timeout"] < int(shutdown.properties["ServiceTimeout"])
    for each in (steps, function):
        role = each.properties["Role"]["Fn::GetAtt"][0]
        policies = [
            name
            for name, r in resources.items()
            if r.type == "AWS::IAM::Policy" and {"Ref": role} in r.properties["Roles"]
        ]
        assert policies
        assert {role, *policies} <= needed
    # Nothing of what it waits for waits for it.
    assert not [name for name, r in resources.items() if shutdown.logical_id in r.body.get("DependsOn", [])]


def test_the_shutdown_may_end_compilations_and_nothing_else(zone: Zone) -> None:
    found = {
        action: sorted(text(arn) for arn in statement["Resource"])
        for resource, statement in zone.statements()
        if resource.logical_id.startswith("ShutdownRole")
        for action in statement["Action"]
        if not action.startswith("logs:")
    }
    assert set(found) == {
        "ec2:DescribeInstances", "ec2:TerminateInstances", "states:ListExecutions", "states:StopExecution",
    }  # fmt: skip
    assert all(arn.endswith(f":execution:modelzone-{zone.name}-compile:*") for arn in found["states:StopExecution"])
    assert len(found["states:ListExecutions"]) == 1


def test_hosts_volumes_are_encrypted_through_ec2_only(zone: Zone) -> None:
    via = {"kms:ViaService": f"ec2.{zone.plan.environment.region}.amazonaws.com"}
    found = {
        action: statement["Condition"]
        for resource, statement in zone.statements()
        if resource.logical_id.startswith("PipelineStepsRole")
        for action in statement["Action"]
        if action.startswith("kms:") and statement.get("Condition", {}).get("StringEquals") == via
    }
    assert found == {
        "kms:CreateGrant": {"StringEquals": via, "Bool": {"kms:GrantIsForAWSResource": "true"}},
        "kms:Decrypt": {"StringEquals": via},
        "kms:DescribeKey": {"StringEquals": via},
        "kms:GenerateDataKeyWithoutPlaintext": {"StringEquals": via},
    }


def test_notices_are_encrypted_and_sent_over_tls_only(zone: Zone) -> None:
    topic = zone.one("AWS::SNS::Topic")
    assert "LogsKey" in text(topic.properties["KmsMasterKeyId"])
    (policy,) = zone.resources("AWS::SNS::TopicPolicy")
    statements = policy.properties["PolicyDocument"]["Statement"]
    (denied,) = [s for s in statements if s["Effect"] == "Deny"]
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    (allowed,) = [s for s in statements if s["Effect"] == "Allow"]
    assert allowed["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert list(allowed["Condition"]["StringEquals"]) == ["aws:SourceAccount"]


def test_addresses_of_the_environment_get_notices_and_failures_an_alarm(zone: Zone) -> None:
    addresses = [r.properties for r in zone.resources("AWS::SNS::Subscription")]
    assert [(s["Protocol"], s["Endpoint"]) for s in addresses] == [
        ("email", address) for address in zone.plan.environment.compile.notify
    ]
    alarms = list(zone.resources("AWS::CloudWatch::Alarm"))
    assert len(alarms) == bool(addresses)
    for alarm in alarms:
        assert alarm.properties["MetricName"] == "ExecutionsFailed"
        assert alarm.properties["AlarmActions"] == [{"Ref": zone.one("AWS::SNS::Topic").logical_id}]
        assert alarm.properties["TreatMissingData"] == "notBreaching"


def test_deployments_wait_through_the_provider_framework(zone: Zone) -> None:
    handlers = {
        r.properties["Handler"]: r.properties
        for r in zone.resources("AWS::Lambda::Function", stack="CompileStack")
        if r.properties["Handler"].startswith("compiled_artifact.waiting.")
    }
    assert set(handlers) == {"compiled_artifact.waiting.on_event", "compiled_artifact.waiting.is_complete"}
    for properties in handlers.values():
        assert properties["Environment"]["Variables"]["PROGRESS_PATH"] == f"/modelzone/{zone.name}/compile/progress"
    (waiter,) = [
        r.properties
        for r in zone.resources("AWS::StepFunctions::StateMachine")
        if "StateMachineName" not in r.properties
    ]
    definition = json.loads(text(waiter["DefinitionString"]))
    (retry,) = definition["States"]["framework-isComplete-task"]["Retry"]
    assert retry["IntervalSeconds"] == 30
    assert retry["IntervalSeconds"] * retry["MaxAttempts"] == 3600
    starts = [s for _, s in zone.statements() if "states:StartExecution" in s["Action"]]
    assert len(starts) == 2  # of the pipeline, and of the framework's own waiter
