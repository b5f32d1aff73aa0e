"""The step that waits until a host's SSM agent can be given a command."""

from __future__ import annotations

from typing import Any

from . import hosts
from .context import MAX_ATTEMPTS, Context, State, moment
from .errors import CompileError
from .log import emit
from .telemetry import Telemetry

__all__ = ["interrupted", "is_online", "ping_of", "wait_for_agent"]

_STEP = "wait-for-agent"
# EC2 tells of a new instance with a delay.
_POLLS_UNTIL_KNOWN = 6
_REMEDIES = {
    "Client.InternalError": "Most often the account may not use the volume's key: check the key's policy",
    "Client.InvalidSnapshot.NotFound": "Choose another AMI parameter in modelzone/hardware/data",
    "Client.VolumeLimitExceeded": "Ask Service Quotas (Amazon EBS) for more gp3 storage, or delete volumes",
}


def wait_for_agent(context: Context, state: State) -> State:
    """Ask once. The machine comes back until the agent is there.

    Raises
    ------
    CompileError
        The host has ended, or its agent never came.
    """
    host = state["host"]
    instance_id, polls = host["instance_id"], int(state.get("polls", 0)) + 1
    tags = {hosts.EXECUTION_TAG: context.execution.name, hosts.ATTEMPT_TAG: str(host["attempt"])}
    hosts.keep(context, instance_id, hosts.find(context, tags, states=hosts.LIVE))
    if is_online(ping_of(context, instance_id)):
        launched = moment(host["launched"])
        if launched is not None:
            waited = max(0.0, (context.now() - launched).total_seconds())
            Telemetry(context, deployment=state["deployment"]).seconds("StepSeconds", waited, step=_STEP)
        return {**state, "agent": "online", "polls": 0}
    instance = hosts.describe(context, instance_id)
    if not hosts.is_live(instance) and (instance is not None or polls > _POLLS_UNTIL_KNOWN):
        what = f"host {instance_id} ({host['instance_type']}) ended before its SSM agent reported"
        why = f"{what}: {hosts.end_of(instance)}"
        if hosts.lost_to_capacity(instance):
            return {**interrupted(state, _STEP, why), "agent": "online", "polls": 0}
        code = str((instance or {}).get("StateReason", {}).get("Code", ""))
        remedy = _REMEDIES.get(code, "Look at the instance in the EC2 console, and start the compilation again")
        raise CompileError(_STEP, why, remedy)
    if polls >= context.settings.agent_polls:
        why = f"the SSM agent of host {instance_id} ({host['instance_type']}) did not report in {polls} tries"
        remedy = (
            "Check that the AMI has the SSM agent, and that the compile subnets have a way to the endpoints ssm, "
            "ssmmessages and ec2messages (NAT or VPC endpoints)"
        )
        raise CompileError(_STEP, why, remedy)
    return {**state, "agent": "pending", "polls": polls}


def ping_of(context: Context, instance_id: str) -> str:
    """Return what SSM says of the host's agent; empty while it knows none."""
    filters: list[Any] = [{"Key": "InstanceIds", "Values": [instance_id]}]
    rows = context.clients.ssm.describe_instance_information(Filters=filters).get("InstanceInformationList", ())
    return next((str(row.get("PingStatus", "")) for row in rows if row.get("InstanceId") == instance_id), "")


def is_online(ping: str) -> bool:
    """Whether an agent with this status takes commands."""
    return ping == "Online"


def interrupted(state: State, step: str, why: str) -> State:
    """Return the state in which the machine goes on with another host.

    Raises
    ------
    CompileError
        This was the last one.
    """
    attempt = state["host"]["attempt"]
    if attempt >= MAX_ATTEMPTS:
        remedy = "Start the compilation again: it goes on from what is complete"
        raise CompileError(step, f"{attempt} hosts were taken away one after another; the last: {why}", remedy)
    emit(step, interrupted=why, attempt=attempt)
    return {**state, "run": "interrupted"}
