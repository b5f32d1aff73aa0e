"""Compile hosts by their tags: found, described, terminated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from .aws import code_of
from .context import Context, moment
from .errors import one_line
from .log import emit

__all__ = [
    "ATTEMPT_TAG",
    "COMPILE_HOST",
    "DEBUG_HOST",
    "DEPLOYMENT_TAG",
    "ENVIRONMENT_TAG",
    "EXECUTION_TAG",
    "LIVE",
    "ROLE_TAG",
    "UNTIL_TAG",
    "describe",
    "end_of",
    "find",
    "is_live",
    "keep",
    "launched",
    "lost_to_capacity",
    "tags_of",
    "terminate",
]

ENVIRONMENT_TAG = "modelzone:environment"
ROLE_TAG = "modelzone:role"
EXECUTION_TAG = "modelzone:execution"
UNTIL_TAG = "modelzone:until"
ATTEMPT_TAG = "modelzone:attempt"
DEPLOYMENT_TAG = "modelzone:deployment"
COMPILE_HOST = "compile-host"
DEBUG_HOST = "debug-host"

LIVE = ("pending", "running")
# What costs money, or may again.
_NOT_ENDED = (*LIVE, "stopping", "stopped")
_TAKEN_AWAY = (
    "Server.SpotInstanceTermination",
    "Server.SpotInstanceShutdown",
    "Server.InsufficientInstanceCapacity",
)
_POLLS = 15
_POLL_SECONDS = 2.0


def find(
    context: Context, tags: Mapping[str, str | Sequence[str]], *, states: Sequence[str] = _NOT_ENDED
) -> list[dict[str, Any]]:
    """Return this environment's instances with all of these tags that are in one of the states, oldest first."""
    wanted = {ENVIRONMENT_TAG: context.settings.environment, **tags}
    filters: list[Any] = [
        {"Name": f"tag:{name}", "Values": [value] if isinstance(value, str) else list(value)}
        for name, value in wanted.items()
    ]
    filters.append({"Name": "instance-state-name", "Values": list(states)})
    pages = context.clients.ec2.get_paginator("describe_instances").paginate(Filters=filters)
    found = [
        dict(instance)
        for page in pages
        for reservation in page.get("Reservations", ())
        for instance in reservation.get("Instances", ())
    ]
    return sorted(found, key=lambda instance: (str(instance.get("LaunchTime", "")), instance["InstanceId"]))


def describe(context: Context, instance_id: str) -> dict[str, Any] | None:
    """Return one instance; None where EC2 knows none of that id (any more, or yet)."""
    try:
        answer = context.clients.ec2.describe_instances(InstanceIds=[instance_id])
    except ClientError as error:
        if code_of(error) == "InvalidInstanceID.NotFound":
            return None
        raise
    for reservation in answer.get("Reservations", ()):
        for instance in reservation.get("Instances", ()):
            return dict(instance)
    return None


def tags_of(instance: Mapping[str, Any]) -> dict[str, str]:
    """Return an instance's tags."""
    return {tag["Key"]: tag["Value"] for tag in instance.get("Tags", ())}


def is_live(instance: Mapping[str, Any] | None) -> bool:
    """Whether the instance runs, or is about to."""
    return bool(instance) and (instance or {}).get("State", {}).get("Name") in LIVE


def end_of(instance: Mapping[str, Any] | None) -> str:
    """Return why an instance ended, in EC2's words."""
    if instance is None:
        return "EC2 does not know it any more"
    reason = instance.get("StateReason", {})
    words = reason.get("Message") or instance.get("StateTransitionReason") or "EC2 gives no reason"
    return str(words).rstrip(". ")


def lost_to_capacity(instance: Mapping[str, Any] | None) -> bool:
    """Whether EC2 took the instance back, or could not really give it: another one may stay."""
    if instance is None:
        return False
    code = str(instance.get("StateReason", {}).get("Code", ""))
    return code in _TAKEN_AWAY or any(name in str(instance.get("StateTransitionReason", "")) for name in _TAKEN_AWAY)


def terminate(context: Context, instances: Iterable[Mapping[str, Any]]) -> list[str]:
    """Terminate instances, wait until they are on their way out, and return their ids. One that is gone is no error.

    Raises
    ------
    botocore.exceptions.ClientError
        EC2 refused one of them; the others were terminated all the same.
    """
    ids = [str(instance["InstanceId"]) for instance in instances]
    refused: ClientError | None = None
    ended: list[str] = []
    # One by one: a single id that EC2 does not like would keep all the others running.
    for instance_id in ids:
        try:
            context.clients.ec2.terminate_instances(InstanceIds=[instance_id])
        except ClientError as error:
            if code_of(error) != "InvalidInstanceID.NotFound":
                refused = refused or error
                emit("warning", what="terminate", host=instance_id, why=str(error))
                continue
        ended.append(instance_id)
    remaining = ended
    for poll in range(_POLLS):
        remaining = [
            name for name in remaining if (found := describe(context, name)) and found["State"]["Name"] in _NOT_ENDED
        ]
        if not remaining:
            break
        if poll < _POLLS - 1:
            context.sleep(_POLL_SECONDS)
    if refused is not None:
        raise refused
    if remaining:
        emit("warning", what="terminate", hosts=remaining, why="still not shutting down")
    return ended


def keep(context: Context, instance_id: str, found: Iterable[Mapping[str, Any]]) -> None:
    """Terminate all but one: a host that was started twice is paid for twice. What cannot be ended stays for later."""
    others = [instance for instance in found if instance["InstanceId"] != instance_id]
    if not others:
        return
    emit("twice", kept=instance_id, terminated=[instance["InstanceId"] for instance in others])
    try:
        terminate(context, others)
    except (BotoCoreError, ClientError) as error:
        emit("warning", what="terminate", why=one_line(error))


def launched(instance: Mapping[str, Any]) -> datetime | None:
    """When the instance was started."""
    return moment(instance.get("LaunchTime"))
