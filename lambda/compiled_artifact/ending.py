"""Hosts end: after a job, after an execution that was cut short, and when nobody ended them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from botocore.exceptions import ClientError

from . import hosts
from .aws import code_of, is_refused, words_of
from .context import Context, State, iso, moment
from .errors import CompileError, one_line
from .log import emit
from .telemetry import Telemetry

__all__ = ["clean_up", "reap", "stop_host"]

_STEP = "stop-host"
# The execution exists before its hosts; this is for clocks, and for answers of EC2 that come late.
_YOUNG = timedelta(minutes=5)
# No environment lets a host live longer than this; one without a legible end is ended then.
_LONGEST_LIFE = timedelta(hours=14)
_NOTICED = "CompileFailed"


def stop_host(context: Context, state: State) -> State:
    """Terminate every host of the execution, also one whose id was never recorded.

    Raises
    ------
    CompileError
        EC2 refused; the message says how to end the hosts by hand.
    """
    instances = _hosts_of(context, context.execution.name)
    known, used = state.get("host") or {}, list(instances)
    if known and known["instance_id"] not in {instance["InstanceId"] for instance in instances}:
        # EC2 finds a new instance by its id before it finds it by its tags.
        instance = hosts.describe(context, known["instance_id"])
        if instance is not None and hosts.is_live(instance):
            instances.append(instance)
        if state.get("stopped_host") != known["instance_id"]:
            # Paid for, whether it has ended by itself or ends here.
            used.append({"InstanceId": known["instance_id"], "LaunchTime": known["launched"]})
    _terminate(context, instances)
    _meter(context, used, str(state.get("deployment", "")))
    return {**state, "stopped_at": iso(context.now()), "stopped_host": known.get("instance_id", "")}


def clean_up(context: Context, detail: Mapping[str, Any]) -> dict[str, Any]:
    """Terminate the hosts of an execution that has ended otherwise than by its own steps, and tell of it.

    Parameters
    ----------
    detail
        Of the event "Step Functions Execution Status Change".

    Raises
    ------
    CompileError
        EC2 refused.
    """
    name, status = context.execution.name, str(detail.get("status", ""))
    deployment = _deployment_of(detail)
    instances = _hosts_of(context, name)
    ended = _terminate(context, instances)
    _meter(context, instances, deployment)
    # An execution that failed by its own steps has told so.
    if not (status == "FAILED" and detail.get("error") == _NOTICED):
        _tell(context, deployment, status, detail)
    return {"terminated": ended}


def reap(context: Context, machine_arn: str) -> dict[str, Any]:
    """Terminate what should not run any more: hosts past their end, and hosts of executions that do not run.

    Raises
    ------
    CompileError
        EC2 refused.
    """
    found = hosts.find(context, {hosts.ROLE_TAG: (hosts.COMPILE_HOST, hosts.DEBUG_HOST)})
    reasons: dict[str, str] = {}
    unknown: ClientError | None = None
    for instance in found:
        try:
            why = _why_end(context, instance, machine_arn)
        except ClientError as error:
            # It stays for now; this must not keep the others running.
            unknown = unknown or error
        else:
            if why:
                reasons[instance["InstanceId"]] = why
    forgotten = [instance for instance in found if instance["InstanceId"] in reasons]
    ended = _terminate(context, forgotten)
    for instance in forgotten:
        _meter(context, [instance], hosts.tags_of(instance).get(hosts.DEPLOYMENT_TAG, ""))
    if ended:
        lines = [f"{name}: {reasons[name]}" for name in ended]
        emit("reap", terminated=lines)
        Telemetry(context, deployment="").notice(
            f"Modelzone {context.settings.environment}: {len(ended)} forgotten hosts terminated",
            "These hosts were still running and were terminated:\n" + "\n".join(lines) + "\n",
        )
    if unknown is not None:
        raise unknown
    return {"terminated": ended}


def _hosts_of(context: Context, execution: str) -> list[dict[str, Any]]:
    if not execution:
        return []
    return hosts.find(context, {hosts.ROLE_TAG: hosts.COMPILE_HOST, hosts.EXECUTION_TAG: execution})


def _terminate(context: Context, instances: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = list(instances)
    try:
        return hosts.terminate(context, rows)
    except ClientError as error:
        if not is_refused(error):
            raise
        ids = " ".join(str(row["InstanceId"]) for row in rows)
        remedy = (
            f"Terminate what still runs: aws ec2 terminate-instances --instance-ids {ids}; then allow the role of the "
            "compile steps ec2:TerminateInstances on hosts of this environment"
        )
        raise CompileError(_STEP, f"hosts may not be terminated ({words_of(error)})", remedy) from error


def _meter(context: Context, instances: Iterable[Mapping[str, Any]], deployment: str) -> None:
    telemetry = Telemetry(context, deployment=deployment)
    for instance in instances:
        launched = hosts.launched(instance)
        if launched is not None:
            telemetry.seconds("HostSeconds", max(0.0, (context.now() - launched).total_seconds()))


def _deployment_of(detail: Mapping[str, Any]) -> str:
    try:
        given = json.loads(detail.get("input") or "{}")
    except (ValueError, TypeError):
        return ""
    return str(given.get("deployment", "")) if isinstance(given, dict) else ""


def _tell(context: Context, deployment: str, status: str, detail: Mapping[str, Any]) -> None:
    environment, name = context.settings.environment, context.execution.name
    said = one_line(detail.get("cause") or "")
    words = {
        "ABORTED": f"compilation {name} was cancelled" + (f": {said}" if said else ""),
        "TIMED_OUT": f"compilation {name} took longer than it may. Raise compile.max_hours of the environment "
        "and start it again: it goes on from what is complete",
    }.get(status, f"compilation {name} failed outside of its steps: {said or detail.get('error') or 'no cause'}")
    telemetry = Telemetry(context, deployment=deployment)
    if status != "ABORTED":
        telemetry.count("Failures")
    telemetry.step("cleanup", "failed", words)
    telemetry.notice(
        f"Modelzone {environment}: compiling {deployment or name} ended ({status.lower().replace('_', ' ')})",
        f"{words[0].upper()}{words[1:]}.\nIts hosts are terminated.\n\nExecution: {context.execution.id}\n",
    )


def _why_end(context: Context, instance: Mapping[str, Any], machine_arn: str) -> str:
    """Return why a host should not run any more; empty for one that may."""
    tags, launched = hosts.tags_of(instance), hosts.launched(instance)
    age = context.now() - launched if launched else timedelta()
    until = moment(tags.get(hosts.UNTIL_TAG))
    if until is None and age > _LONGEST_LIFE:
        return f"it has no legible tag {hosts.UNTIL_TAG} and ran for {age.total_seconds() / 3600:.0f} hours"
    if until is not None and context.now() >= until:
        return f"its time was over at {iso(until)}"
    if tags.get(hosts.ROLE_TAG) != hosts.COMPILE_HOST or age < _YOUNG or not machine_arn:
        return ""
    execution = tags.get(hosts.EXECUTION_TAG, "")
    if not execution:
        return "it belongs to no execution"
    status = _status_of(context, machine_arn, execution)
    return "" if status in {"RUNNING", "PENDING_REDRIVE"} else f"execution {execution} is {status}"


def _status_of(context: Context, machine_arn: str, execution: str) -> str:
    arn = f"{machine_arn.replace(':stateMachine:', ':execution:', 1)}:{execution}"
    try:
        return str(context.clients.stepfunctions.describe_execution(executionArn=arn)["status"])
    except ClientError as error:
        if code_of(error) == "ExecutionDoesNotExist":
            return "unknown"
        raise
