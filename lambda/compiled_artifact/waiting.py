"""Custom resources that wait for a compilation, behind the CDK's provider framework.

CloudFormation waits an hour for a custom resource at most, a compilation may take longer: a stack has several of these,
one after another. Each is a window of time in which the same execution is waited for. What is seen of it in the stack's
events is the physical id, so that says how far it is.

No window ever fails: how the wait ended is its attribute `Outcome`, which is given to the next window and to the final
check. That says what is wrong, once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from . import executions, outcomes
from .aws import Clients, code_of, is_transient, words_of
from .check import check_artifact
from .errors import CheckError, MissingArtifactError, one_line
from .facts import artifact_key
from .log import emit
from .order import Order, integer, text
from .progress import in_words, read_progress
from .response import shorten

__all__ = ["Window", "finished", "is_complete", "on_event", "open_window"]

_LONGEST_ID = 512


@dataclass(frozen=True, kw_only=True)
class Window:
    """The properties of one resource: what is waited for, where, and how long."""

    order: Order
    machine_arn: str
    number: int
    count: int
    seconds: int
    compiles: bool

    @classmethod
    def from_properties(cls, properties: Mapping[str, Any]) -> Window:
        """Read them.

        Raises
        ------
        CheckError
            For a missing property or a value that is not what it should be, named.
        """
        return cls(
            order=Order.from_properties(properties, scaled=False),
            machine_arn=text(properties, "StateMachineArn"),
            number=integer("Window", text(properties, "Window"), low=1),
            count=integer("Windows", text(properties, "Windows"), low=1),
            seconds=integer("WindowSeconds", text(properties, "WindowSeconds"), low=1),
            compiles=text(properties, "Compile") == "true",
        )

    @property
    def key(self) -> str:
        """The artifact that is waited for."""
        return artifact_key(self.order.facts)


def on_event(event: Mapping[str, Any], _context: object = None) -> dict[str, Any]:
    """Open the window: see that the artifact is there or is being made."""
    return open_window(event, clients=Clients.shared(), now=datetime.now(UTC))


def is_complete(event: Mapping[str, Any], _context: object = None) -> dict[str, Any]:
    """Look whether the wait is over, or at least this window."""
    return finished(
        event, clients=Clients.quick(), now=datetime.now(UTC), progress_path=os.environ.get("PROGRESS_PATH", "")
    )


def open_window(event: Mapping[str, Any], *, clients: Clients, now: datetime) -> dict[str, Any]:
    """`on_event` with its surroundings."""
    if event.get("RequestType") == "Delete":
        # Artifacts outlive deployments, and a compilation that was begun may serve another deploy.
        return {"PhysicalResourceId": event["PhysicalResourceId"]}
    properties = event.get("ResourceProperties", {})
    try:
        result = _open(event, properties, clients=clients, now=now)
    except Exception as error:
        why = _why(error)
        result = _done(properties, f"unknown: {why}", outcomes.unknown(why))
    emit("on_event", window=properties.get("Window"), how=result["PhysicalResourceId"])
    return result


def finished(event: Mapping[str, Any], *, clients: Clients, now: datetime, progress_path: str) -> dict[str, Any]:
    """`is_complete` with its surroundings."""
    if event.get("RequestType") == "Delete":
        return {"IsComplete": True}
    if done := event.get("Done"):
        return _complete(str(done))
    properties = event.get("ResourceProperties", {})
    try:
        return _look(event, properties, clients=clients, now=now, progress_path=progress_path)
    except Exception as error:
        why = _why(error)
        emit("is_complete", window=properties.get("Window"), why=why)
        return _complete(outcomes.unknown(why), _words(properties, f"unknown: {why}"))


def _open(
    event: Mapping[str, Any], properties: Mapping[str, Any], *, clients: Clients, now: datetime
) -> dict[str, Any]:
    previous = str(properties.get("Previous") or "")
    word, arn = outcomes.parse(previous)
    if word == "running" and arn:
        return _wait_for(properties, arn, f"waiting for {arn.rpartition(':')[2]}", now)
    if word:
        return _done(properties, f"{word}, as the window before", previous)
    try:
        Order.from_properties(properties, scaled=False).check_numbers()
    except CheckError as error:
        # The check of the artifact says the same to the one who deploys.
        emit("refused", why=str(error))
        return _done(properties, "refused", outcomes.REFUSED)
    window = Window.from_properties(properties)
    try:
        artifact = check_artifact(window.order, s3=clients.s3)
    except MissingArtifactError as error:
        emit("on_event", missing=str(error))
    else:
        return _done(properties, f"{artifact.s3_uri} is complete", outcomes.COMPLETE)
    if not window.compiles:
        return _done(properties, "refused", outcomes.REFUSED)
    return _wait_for(properties, *_compilation(window, event, clients.stepfunctions, now), now)


def _compilation(window: Window, event: Mapping[str, Any], client: Any, now: datetime) -> tuple[str, str]:
    """Return the execution that makes the artifact, and whether it was started for this: one may run already."""
    running = executions.find(client, window.machine_arn, window.key)
    if running is not None:
        return running.arn, f"waiting for {running.name}"
    arn = executions.start(
        client,
        window.machine_arn,
        deployment=window.order.deployment,
        key=window.key,
        facts=window.order.overrides,
        requested_by=f"deploy of {_stack_name(event)}",
        now=now,
    )
    return arn, f"started {arn.rpartition(':')[2]}"


def _wait_for(properties: Mapping[str, Any], arn: str, how: str, now: datetime) -> dict[str, Any]:
    seconds = integer("WindowSeconds", text(properties, "WindowSeconds"), low=1)
    return {
        "PhysicalResourceId": _words(properties, how),
        "Execution": arn,
        "Until": int(now.timestamp()) + seconds,
    }


def _look(
    event: Mapping[str, Any], properties: Mapping[str, Any], *, clients: Clients, now: datetime, progress_path: str
) -> dict[str, Any]:
    arn = str(event["Execution"])
    over = now.timestamp() >= float(event["Until"])
    try:
        execution = executions.describe(clients.stepfunctions, arn)
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, ClientError) and not (is_transient(error) or code_of(error) == "ExecutionDoesNotExist"):
            raise
        # The next look may reach it, or the next window; a deploy of hours must not end for this one.
        emit("warning", what="execution", why=one_line(error))
        name = arn.rpartition(":")[2]
        return _complete(outcomes.running(arn), _words(properties, name)) if over else {"IsComplete": False}
    took = _minutes((execution.stopped or now) - execution.started)
    if execution.status == "SUCCEEDED":
        return _complete(outcomes.COMPLETE, _words(properties, f"compiled in {took} ({execution.name})"))
    if not execution.running:
        emit("is_complete", failed=executions.cause_of(execution))
        return _complete(outcomes.failed(arn), _words(properties, f"failed after {took} ({execution.name})"))
    if not over:
        return {"IsComplete": False}
    key = artifact_key(Order.from_properties(properties, scaled=False).facts)
    progress = in_words(read_progress(clients.ssm, progress_path, key))
    standing = f"{progress}, {took} ({execution.name})"
    emit("is_complete", window=properties.get("Window"), standing=standing)
    return _complete(outcomes.running(arn), _words(properties, standing))


def _done(properties: Mapping[str, Any], how: str, outcome: str) -> dict[str, Any]:
    """The answer of a window that has nothing to wait for."""
    return {"PhysicalResourceId": _words(properties, how), "Done": outcome, "Data": {"Outcome": outcome}}


def _complete(outcome: str, physical_id: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {"IsComplete": True, "Data": {"Outcome": outcome}}
    return {**result, "PhysicalResourceId": physical_id} if physical_id else result


def _words(properties: Mapping[str, Any], how: str) -> str:
    """Return the physical id: which window this is, and how it stands."""
    return shorten(f"window {properties.get('Window', '?')} of {properties.get('Windows', '?')}: {how}", _LONGEST_ID)


def _why(error: Exception) -> str:
    """Return what happened in one line."""
    if isinstance(error, ClientError):
        return f"{error.operation_name} failed with {words_of(error)}; deploy the compile stack again, then this one"
    if isinstance(error, BotoCoreError):
        return one_line(f"AWS could not be reached: {error}; deploy again")
    return one_line(error) if isinstance(error, CheckError) else one_line(f"{type(error).__name__}: {error}")


def _stack_name(event: Mapping[str, Any]) -> str:
    parts = str(event.get("StackId", "")).split("/")
    return parts[1] if len(parts) > 1 else "a stack"


def _minutes(time: timedelta) -> str:
    return f"{max(0, round(time.total_seconds() / 60))} min"
