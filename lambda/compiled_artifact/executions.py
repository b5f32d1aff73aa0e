"""Executions of the compile state machine: found by the artifact that they make, started, explained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from .aws import code_of
from .errors import one_line

__all__ = [
    "Described",
    "Older",
    "cause_of",
    "describe",
    "execution_name",
    "find",
    "is_running",
    "machine_of",
    "older",
    "running_of",
    "start",
]

_NAME = re.compile(r"(?P<deployment>.*)-(?P<key>[0-9a-f]{20})-(?P<time>[0-9]{14})")
_LONGEST_NAME = 80
_PAGE = 100
_RUNNING = {"RUNNING", "PENDING_REDRIVE"}
# No machine lets an execution run longer.
_LONGEST = timedelta(days=2)


@dataclass(frozen=True, kw_only=True)
class Described:
    """What Step Functions says of an execution."""

    arn: str
    name: str
    status: str
    started: datetime
    stopped: datetime | None
    given: Mapping[str, Any]
    error: str
    cause: str

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.status in _RUNNING


@dataclass(frozen=True, kw_only=True)
class Older:
    """What came before an execution for the same artifact.

    Attributes
    ----------
    running
        The name of the oldest one that still runs; empty for none.
    ended
        When the last one ended, if it ran beside this one.
    """

    running: str
    ended: datetime | None


def execution_name(deployment: str, key: str, now: datetime) -> str:
    """Return ``<deployment>-<key>-<time>``, at most 80 characters: that of the deployment is cut."""
    end = f"-{key}-{now:%Y%m%d%H%M%S}"
    return deployment[: _LONGEST_NAME - len(end)] + end


def find(client: Any, machine_arn: str, key: str) -> Described | None:
    """Return the oldest running execution that makes the artifact."""
    names = [row for row in _rows(client, machine_arn, "RUNNING") if _key(row) == key]
    for row in sorted(names, key=lambda row: (row["startDate"], row["name"])):
        found = describe(client, row["executionArn"])
        # One that only copies the weights has the same name.
        if found.running and not found.given.get("weights_only"):
            return found
    return None


def older(client: Any, arn: str, key: str, *, started: datetime) -> Older:
    """Look for executions of the same artifact that began before this one, or at the same moment under a lesser name.

    One that only copies weights counts: it writes the same progress, and what it copies is needed here.
    """
    rows = []
    for row in _rows(client, machine_of(arn), None):
        if row["startDate"] < started - _LONGEST:
            break
        if _key(row) == key:
            rows.append(row)
    own = next((row for row in rows if row["executionArn"] == arn), None)
    # Both sides of a comparison come from the listing: the machine's own words may be rounded otherwise.
    place = (own["startDate"] if own else started, arn.rpartition(":")[2])
    before = sorted((row for row in rows if (row["startDate"], row["name"]) < place), key=lambda row: row["startDate"])
    running = [row["name"] for row in before if row["status"] == "RUNNING"]
    ended = [row["stopDate"] for row in before if row.get("stopDate") and row["stopDate"] > place[0]]
    return Older(running=next(iter(running), ""), ended=max(ended, default=None))


def running_of(client: Any, machine_arn: str) -> list[str]:
    """Return the ARNs of all executions that run."""
    return [row["executionArn"] for row in _rows(client, machine_arn, "RUNNING")]


def is_running(client: Any, arn: str) -> tuple[bool, str]:
    """Return whether an execution runs, and its status; one that Step Functions does not tell of yet runs."""
    try:
        status = str(client.describe_execution(executionArn=arn)["status"])
    except ClientError as error:
        if code_of(error) != "ExecutionDoesNotExist":
            raise
        return True, "unknown"
    return status in _RUNNING, status


def machine_of(arn: str) -> str:
    """Return the ARN of an execution's machine."""
    return arn.rpartition(":")[0].replace(":execution:", ":stateMachine:", 1)


def start(
    client: Any,
    machine_arn: str,
    *,
    deployment: str,
    key: str,
    facts: Mapping[str, str],
    requested_by: str,
    now: datetime,
) -> str:
    """Start a compilation and return its ARN; one that was started under the same name is it, too."""
    name = execution_name(deployment, key, now)
    given: dict[str, Any] = {"deployment": deployment, "requested_by": requested_by}
    if facts:
        given["facts"] = dict(facts)
    try:
        return str(
            client.start_execution(stateMachineArn=machine_arn, name=name, input=json.dumps(given))["executionArn"]
        )
    except ClientError as error:
        if code_of(error) != "ExecutionAlreadyExists":
            raise
        return f"{machine_arn.replace(':stateMachine:', ':execution:', 1)}:{name}"


def describe(client: Any, arn: str) -> Described:
    """Return an execution with its input."""
    answer = client.describe_execution(executionArn=arn)
    try:
        given = json.loads(answer.get("input") or "{}")
    except ValueError:
        given = {}
    return Described(
        arn=answer["executionArn"],
        name=answer["name"],
        status=answer["status"],
        started=answer["startDate"],
        stopped=answer.get("stopDate"),
        given=given if isinstance(given, dict) else {},
        error=str(answer.get("error") or ""),
        cause=str(answer.get("cause") or ""),
    )


def cause_of(execution: Described) -> str:
    """Return why an execution did not succeed, in one line without a full stop."""
    said = one_line(execution.cause).rstrip(".")
    if execution.status == "TIMED_OUT":
        return f"compilation {execution.name} took longer than it may; raise compile.max_hours of the environment"
    if execution.status == "ABORTED":
        return f"compilation {execution.name} was cancelled" + (f": {said}" if said else "")
    return said or f"compilation {execution.name} failed without a message ({execution.error or 'no error'})"


def _rows(client: Any, machine_arn: str, status: str | None) -> Iterator[Mapping[str, Any]]:
    """Rows of the listing, youngest first."""
    asked: dict[str, Any] = {"stateMachineArn": machine_arn, "maxResults": _PAGE}
    if status:
        asked["statusFilter"] = status
    while True:
        answer = client.list_executions(**asked)
        yield from answer["executions"]
        if not (token := answer.get("nextToken")):
            return
        asked["nextToken"] = token


def _key(row: Mapping[str, Any]) -> str:
    match = _NAME.fullmatch(row["name"])
    return match["key"] if match else ""
