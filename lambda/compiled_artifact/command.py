"""The steps that run the job on the host and follow it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from botocore.exceptions import ClientError

from . import hosts
from .agent import interrupted, is_online, ping_of
from .aws import code_of, is_refused, words_of
from .context import Context, State, iso, moment
from .errors import CompileError, TransientError, one_line
from .log import emit
from .progress import read_progress
from .telemetry import Telemetry

__all__ = ["follow", "run_command"]

_RUN, _FOLLOW = "run", "follow"
_DELIVERY_SECONDS = 600
# SSM knows a command soon after it took it, and gives up its delivery after the time above.
_UNKNOWN_FOR = timedelta(minutes=12)
# The job writes its progress every quarter of a minute, however long a step takes.
_SILENT_FOR = timedelta(minutes=30)
_LONGEST_COMMENT = 100
# A host that shuts itself down this near to the end of its lifetime did so for that reason.
_LIFETIME_MARGIN = timedelta(minutes=5)
_WRONG_JOB, _INTERRUPTED, _KILLED, _STOPPED = 2, 75, 137, 143
_LAST_WORDS = re.compile(r"^compile_job: (?P<text>.+)$", re.MULTILINE)
_STEP_FAILED = re.compile(r"step '(?P<step>[\w-]+)' failed: (?P<why>.+)")
_AGAIN = "Start the compilation again: it goes on from what is complete"
_RUNNING = {"Pending", "InProgress", "Delayed", "Cancelling"}


def run_command(context: Context, state: State) -> State:
    """Send the job to the host, once: a command that was sent before a crash of this step is taken over.

    Raises
    ------
    CompileError
        SSM refused.
    """
    if state.get("run") == "interrupted":
        return state
    host = state["host"]
    command_id = state.get("command_id") or _sent_before(context, host["instance_id"])
    if not command_id:
        command_id = _send(context, state)
    return {
        **state,
        "command_id": command_id,
        "sent": iso(context.now()),
        "known": False,
        "run": "running",
        "polls": 0,
        "lost_polls": 0,
        "metered": [],
    }


def follow(context: Context, state: State) -> State:
    """Look once at the command, the host and the job's progress. The machine comes back until it has ended.

    Raises
    ------
    CompileError
        The job failed, in its own words, or the command or the host did.
    """
    if state.get("run") == "interrupted":
        return state
    host = state["host"]
    state = {**state, "polls": int(state.get("polls", 0)) + 1}
    invocation = _invocation(context, state["command_id"], host["instance_id"])
    status = str(invocation.get("Status", "Pending"))
    progress = _progress(context, state)
    state = _meter(context, state, progress)
    if status == "Success":
        return {**state, "run": "succeeded"}
    if status not in _RUNNING:
        return _ended(context, state, invocation, progress)
    instance = hosts.describe(context, host["instance_id"])
    if not hosts.is_live(instance):
        if (progress or {}).get("state") == "done":
            # It said so before it shut down; whether that is true is verified anyway.
            return {**state, "run": "succeeded"}
        return _host_gone(context, state, instance, progress)
    known = bool(invocation) or bool(state.get("known"))
    sent = moment(state.get("sent"))
    if not known and sent is not None and context.now() - sent > _UNKNOWN_FOR:
        why = f"SSM knows nothing of command {state['command_id']} on host {host['instance_id']} since {iso(sent)}"
        raise CompileError(_FOLLOW, why, f"Check the SSM agent of the AMI. {_AGAIN}")
    return _watch_job(context, {**state, "known": known}, progress)


def _sent_before(context: Context, instance_id: str) -> str:
    commands = context.clients.ssm.list_commands(InstanceId=instance_id).get("Commands", ())
    document = context.settings.document.rpartition("/")[2]
    for command in commands:
        if str(command.get("DocumentName", "")).rpartition("/")[2] == document:
            emit(_RUN, taken_over=command["CommandId"])
            return str(command["CommandId"])
    return ""


def _send(context: Context, state: State) -> str:
    instance_id, document = state["host"]["instance_id"], context.settings.document
    # Base64: nothing of the job can be a command of the host's shell.
    job = base64.b64encode(json.dumps(state["job"]).encode()).decode()
    try:
        answer = context.clients.ssm_once.send_command(
            InstanceIds=[instance_id],
            DocumentName=document,
            Parameters={"Job": [job]},
            Comment=context.execution.name[:_LONGEST_COMMENT],
            TimeoutSeconds=_DELIVERY_SECONDS,
            CloudWatchOutputConfig={
                "CloudWatchLogGroupName": context.settings.log_group,
                "CloudWatchOutputEnabled": True,
            },
        )
    except ClientError as error:
        code = code_of(error)
        if code == "InvalidInstanceId":
            why = f"host {instance_id} takes no commands yet ({words_of(error)})"
            raise TransientError(_RUN, why, "Check the host's role and its way to SSM") from error
        if code.startswith("InvalidDocument") or code == "InvalidParameters":
            why = f"SSM does not take the job with document {document} ({words_of(error)})"
            raise CompileError(_RUN, why, "Deploy the compile stack again") from error
        if is_refused(error):
            why = f"the command may not be sent to host {instance_id} ({words_of(error)})"
            remedy = f"Allow the role of the compile steps ssm:SendCommand with document {document} on compile hosts"
            raise CompileError(_RUN, why, remedy) from error
        raise
    return str(answer["Command"]["CommandId"])


def _invocation(context: Context, command_id: str, instance_id: str) -> Mapping[str, Any]:
    try:
        return context.clients.ssm.get_command_invocation(CommandId=command_id, InstanceId=instance_id)
    except ClientError as error:
        if code_of(error) == "InvocationDoesNotExist":
            return {}
        raise


def _progress(context: Context, state: State) -> dict[str, Any] | None:
    """What the job of this very host says; an earlier one of the same artifact may have left its own words."""
    progress = read_progress(context.clients.ssm, context.settings.progress_path, state["key"])
    updated = moment((progress or {}).get("updated"))
    launched = moment(state["host"]["launched"])
    if updated is None or launched is None or updated < launched:
        return None
    return progress


def _meter(context: Context, state: State, progress: Mapping[str, Any] | None) -> State:
    """Turn the job's finished steps into metrics and events, each once."""
    finished = (progress or {}).get("steps")
    if not isinstance(finished, dict):
        return state
    sent = list(state.get("metered", ()))
    telemetry = Telemetry(context, deployment=state["deployment"], key=state["key"])
    for step, seconds in finished.items():
        if step not in sent and isinstance(seconds, int | float):
            # The machine has a look and a verify of its own.
            telemetry.seconds("StepSeconds", float(seconds), step=f"job:{step}")
            telemetry.step(f"job:{step}", "succeeded")
            sent.append(step)
    return {**state, "metered": sent, "steps": {**state.get("steps", {}), **finished}}


def _ended(context: Context, state: State, invocation: Mapping[str, Any], progress: Mapping[str, Any] | None) -> State:
    """The command has ended, and not well."""
    status = str(invocation["Status"])
    details = str(invocation.get("StatusDetails") or status).replace(" ", "")
    instance_id, hours = state["host"]["instance_id"], state["order"]["max_hours"]
    instance = hosts.describe(context, instance_id)
    exited = int(invocation.get("ResponseCode", -1)) >= 0
    if not hosts.is_live(instance) and (_taken_away(instance, progress) or not exited):
        return _host_gone(context, state, instance, progress)
    if details == "DeliveryTimedOut" or (status == details == "TimedOut" and not progress):
        why = f"the agent of host {instance_id} did not take the command within {_DELIVERY_SECONDS // 60} minutes"
        raise CompileError(_FOLLOW, why, "Check the host's way to the ssmmessages endpoint; " + _AGAIN)
    if status == "TimedOut":
        why = f"the job on host {instance_id} took longer than the document allows (compile.max_hours is {hours})"
        raise CompileError(_FOLLOW, why, f"Raise compile.max_hours of the environment. {_AGAIN}")
    if status == "Cancelled":
        raise CompileError(_FOLLOW, f"the command on host {instance_id} was cancelled", _AGAIN)
    if details in {"Undeliverable", "Terminated", "InvalidPlatform"}:
        why = f"the command could not be delivered to host {instance_id} ({details})"
        raise CompileError(_FOLLOW, why, _AGAIN)
    if details == "AccessDenied":
        why = f"SSM may not run the command on host {instance_id} (AccessDenied)"
        raise CompileError(_FOLLOW, why, "Deploy the compile stack again")
    return _exited(context, state, invocation, progress, instance)


def _exited(
    context: Context,
    state: State,
    invocation: Mapping[str, Any],
    progress: Mapping[str, Any] | None,
    instance: Mapping[str, Any] | None,
) -> State:
    """The job has ended with a status of its own."""
    code = int(invocation.get("ResponseCode", -1))
    if code == _INTERRUPTED:
        return interrupted(state, _FOLLOW, f"a Spot interruption notice for host {state['host']['instance_id']}")
    errors = str(invocation.get("StandardErrorContent", ""))
    said = [match["text"] for match in _LAST_WORDS.finditer(errors)]
    # SSM keeps the beginning of a long output only; the job says the same in its parameter.
    words = said[-1] if said else one_line((progress or {}).get("message") or "")
    words = words.removeprefix("compile_job: ")
    if code == _STOPPED:
        if not hosts.is_live(instance) or _stopped_by_spot(progress):
            return _host_gone(context, state, instance, progress)
        why = "the job was stopped by a signal" + (f": {words}" if words else "")
        if _lifetime_over(context, state):
            raise _lifetime_failure(state)
        raise CompileError(_FOLLOW, why, _AGAIN)
    if code == _WRONG_JOB and not _STEP_FAILED.fullmatch(words):
        raise CompileError(_RUN, words or "the job is wrong (exit status 2)", "Deploy the compile stack again")
    if words:
        raise _in_its_words(words)
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    why = f"the command on the host ended with exit status {code}"
    if code == _KILLED:
        raise CompileError(_FOLLOW, f"{why}: killed, most likely for lack of memory", "Use a host with more memory")
    raise CompileError(_FOLLOW, why + (f": {lines[-1]}" if lines else ""), "The log says more")


def _in_its_words(words: str) -> CompileError:
    match = _STEP_FAILED.fullmatch(words)
    return CompileError(match["step"], match["why"]) if match else CompileError(_FOLLOW, words)


def _host_gone(
    context: Context, state: State, instance: Mapping[str, Any] | None, progress: Mapping[str, Any] | None
) -> State:
    """Go on with another host only where EC2 took this one: whatever else ended it would end the next one, too."""
    host = state["host"]
    if (progress or {}).get("state") == "failed":
        words = one_line((progress or {}).get("message") or "") or "the job failed without a message"
        raise _in_its_words(words.removeprefix("compile_job: "))
    if _taken_away(instance, progress):
        return interrupted(state, _FOLLOW, f"EC2 took host {host['instance_id']} back ({hosts.end_of(instance)})")
    if _lifetime_over(context, state):
        raise _lifetime_failure(state)
    why = f"host {host['instance_id']} ({host['instance_type']}) ended before its job: {hosts.end_of(instance)}"
    raise CompileError(_FOLLOW, why, f"See that nobody ends it while it works. {_AGAIN}")


def _taken_away(instance: Mapping[str, Any] | None, progress: Mapping[str, Any] | None) -> bool:
    return hosts.lost_to_capacity(instance) or _stopped_by_spot(progress)


def _stopped_by_spot(progress: Mapping[str, Any] | None) -> bool:
    told = progress or {}
    return told.get("state") == "stopped" and "spot" in str(told.get("message", "")).lower()


def _lifetime_over(context: Context, state: State) -> bool:
    launched = moment(state["host"]["launched"])
    hours = timedelta(hours=state["order"]["max_hours"])
    return launched is not None and context.now() - launched >= hours - _LIFETIME_MARGIN


def _lifetime_failure(state: State) -> CompileError:
    hours = state["order"]["max_hours"]
    why = f"the lifetime of host {state['host']['instance_id']} is over (compile.max_hours is {hours})"
    return CompileError(_FOLLOW, why, f"Raise compile.max_hours of the environment. {_AGAIN}")


def _watch_job(context: Context, state: State, progress: Mapping[str, Any] | None) -> State:
    """Nobody learns how a job ends that is gone without a word, or whose host's agent is lost.

    While it reports itself it may go on, whatever becomes of the agent.
    """
    instance_id, now = state["host"]["instance_id"], context.now()
    last = str(state.get("heard", ""))
    # Progress that cannot be read for a moment is not new.
    heard = str((progress or {}).get("updated") or last)
    heard_at = now if heard != last else moment(state.get("heard_at")) or now
    ping, lost = ping_of(context, instance_id), 0
    if not is_online(ping) and heard == last:
        lost = int(state.get("lost_polls", 0)) + 1
    step = (progress or {}).get("step") or "an unknown step"
    if lost >= context.settings.lost_polls:
        why = (
            f"SSM agent lost: the agent of host {instance_id} reports {ping or 'nothing'}, and the job has "
            f"written no progress since {heard or iso(now)} ({step})"
        )
        remedy = f"The host may be out of memory, or its way to SSM was cut. {_AGAIN}"
        raise CompileError(_FOLLOW, why, remedy)
    if heard and now - heard_at >= _SILENT_FOR:
        why = (
            f"the job on host {instance_id} has written no progress since {heard} ({step}); the agent reports "
            f"{ping or 'nothing'}"
        )
        raise CompileError(_FOLLOW, why, f"The job is dead, or the host out of memory. {_AGAIN}")
    return {**state, "run": "running", "lost_polls": lost, "heard": heard, "heard_at": iso(heard_at)}
