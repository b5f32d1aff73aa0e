"""Custom resources that wait for a compilation, behind the CDK's provider framework.

CloudFormation waits an hour for a custom resource at most, a compilation may take longer: a stack has several of these,
one after another. Each is a window of time in which the same execution is waited for. What is seen of it in the stack's
events is the physical id, so that says how far it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from . import executions
from .aws import Clients, is_transient, words_of
from .check import check_artifact
from .errors import CheckError, MissingArtifactError, sentence
from .executions import Described
from .facts import artifact_key
from .log import emit
from .order import Order, integer, text
from .progress import in_words, read_progress
from .response import MAX_REASON_BYTES, shorten

__all__ = ["Window", "finished", "is_complete", "on_event", "open_window"]

# An execution that ended so shortly before the next window opened is the one that the deploy waits for.
_JUST_ENDED = timedelta(minutes=15)
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
            order=Order.from_properties(properties),
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

    def words(self, how: str) -> str:
        """Return the physical id: which window this is, and how it stands."""
        return f"window {self.number} of {self.count}: {how}"[:_LONGEST_ID]


def on_event(event: Mapping[str, Any], _context: object = None) -> dict[str, Any]:
    """Open the window: see that the artifact is there or is being made.

    Raises
    ------
    CheckError
        The deployment cannot go on, with what to do.
    """
    return open_window(event, clients=Clients.shared(), now=datetime.now(UTC))


def is_complete(event: Mapping[str, Any], _context: object = None) -> dict[str, Any]:
    """Look whether the wait is over, or at least this window.

    Raises
    ------
    CheckError
        The compilation failed, or the last window is over.
    """
    return finished(
        event, clients=Clients.shared(), now=datetime.now(UTC), progress_path=os.environ.get("PROGRESS_PATH", "")
    )


def open_window(event: Mapping[str, Any], *, clients: Clients, now: datetime) -> dict[str, Any]:
    """`on_event` with its surroundings.

    Raises
    ------
    CheckError
        See `on_event`.
    """
    if event.get("RequestType") == "Delete":
        # Artifacts outlive deployments, and a compilation that was begun may serve another deploy.
        return {"PhysicalResourceId": event["PhysicalResourceId"]}
    with _Readable():
        window = Window.from_properties(event.get("ResourceProperties", {}))
        try:
            artifact = check_artifact(window.order, s3=clients.s3)
        except MissingArtifactError as error:
            return _wait_for(window, event, error, clients=clients, now=now)
        emit("on_event", window=window.number, complete=artifact.s3_uri)
        return {"PhysicalResourceId": window.words(f"{artifact.s3_uri} is complete"), "Done": True}


def finished(event: Mapping[str, Any], *, clients: Clients, now: datetime, progress_path: str) -> dict[str, Any]:
    """`is_complete` with its surroundings.

    Raises
    ------
    CheckError
        See `is_complete`.
    """
    if event.get("RequestType") == "Delete" or event.get("Done"):
        return {"IsComplete": True}
    with _Readable():
        window = Window.from_properties(event.get("ResourceProperties", {}))
        over = now.timestamp() >= float(event.get("Until", 0))
        try:
            execution = executions.describe(clients.stepfunctions, str(event["Execution"]))
        except (BotoCoreError, ClientError) as error:
            if (isinstance(error, ClientError) and not is_transient(error)) or over:
                raise
            # The next look may reach it; a deploy of hours must not fail for this one.
            emit("warning", what="execution", why=str(error))
            return {"IsComplete": False}
        if execution.status == "SUCCEEDED":
            took = _minutes((execution.stopped or now) - execution.started)
            return {
                "IsComplete": True,
                "PhysicalResourceId": window.words(f"compiled in {took} ({execution.name})"),
            }
        if not execution.running:
            raise _failed(window, execution, progress_path)
        if not over:
            return {"IsComplete": False}
        progress = in_words(read_progress(clients.ssm, progress_path, window.key))
        standing = f"{progress}, {_minutes(now - execution.started)} ({execution.name})"
        emit("is_complete", window=window.number, standing=standing)
        if window.number < window.count:
            return {"IsComplete": True, "PhysicalResourceId": window.words(standing)}
        raise _too_long(window, standing, progress_path)


def _wait_for(
    window: Window, event: Mapping[str, Any], missing: MissingArtifactError, *, clients: Clients, now: datetime
) -> dict[str, Any]:
    """Attach to the execution that makes the artifact, or start one."""
    if not window.compiles:
        raise missing
    client, order = clients.stepfunctions, window.order
    running = executions.find(client, window.machine_arn, window.key)
    if running is not None:
        arn, how = running.arn, f"waiting for {running.name}"
    else:
        if window.number > 1:
            _check_just_ended(window, client, now)
        arn = executions.start(
            client,
            window.machine_arn,
            deployment=order.deployment,
            key=window.key,
            facts=order.overrides,
            requested_by=f"deploy of {_stack_name(event)}",
            now=now,
        )
        how = f"started {arn.rpartition(':')[2]}"
    emit("on_event", window=window.number, missing=str(missing), how=how)
    return {
        "PhysicalResourceId": window.words(how),
        "Execution": arn,
        "Until": int(now.timestamp()) + window.seconds,
    }


def _check_just_ended(window: Window, client: Any, now: datetime) -> None:
    """A compilation that failed between two windows has failed this deploy: it is not tried all over again."""
    last = executions.latest(client, window.machine_arn, window.key)
    if last is None or last.running or last.status == "SUCCEEDED" or last.stopped is None:
        return
    if now - last.stopped <= _JUST_ENDED:
        raise _failed(window, last, "")


def _failed(window: Window, execution: Described, progress_path: str) -> CheckError:
    deployment = window.order.deployment
    begin = f"Compiling deployment '{deployment}' failed: "
    end = f" More: modelzone compile logs {deployment}{_environment_option(progress_path)}."
    # Of a long cause the beginning says most; how to see the rest is never cut off.
    room = MAX_REASON_BYTES - len(json.dumps(begin + end))
    return CheckError(begin + shorten(sentence(executions.cause_of(execution)), room) + end)


def _too_long(window: Window, standing: str, progress_path: str) -> CheckError:
    name, option = window.order.deployment, _environment_option(progress_path)
    message = (
        f"Deployment '{name}' is still being compiled: {standing}. CloudFormation waits no longer, the compilation "
        f"goes on. Follow it with modelzone compile {name}{option} --follow, and deploy again when it is done: the "
        "artifact is found then."
    )
    return CheckError(shorten(message))


class _Readable:
    """Turns errors of AWS into texts that a deploy may end with."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, CheckError):
            if shorten(str(error)) != str(error):
                raise CheckError(shorten(str(error))) from error
        elif isinstance(error, ClientError):
            message = (
                f"The compilation could not be started or followed: {error.operation_name} failed with "
                f"{words_of(error)}. Deploy the compile stack again, then this one."
            )
            raise CheckError(shorten(message)) from error
        elif isinstance(error, BotoCoreError):
            message = f"The compilation could not be started or followed: {error}. Deploy again."
            raise CheckError(shorten(message)) from error


def _stack_name(event: Mapping[str, Any]) -> str:
    parts = str(event.get("StackId", "")).split("/")
    return parts[1] if len(parts) > 1 else "a stack"


def _environment_option(progress_path: str) -> str:
    """The environment, out of ``/modelzone/<environment>/compile/progress``."""
    parts = progress_path.split("/")
    return f" -e {parts[2]}" if len(parts) > 2 else ""  # noqa: PLR2004


def _minutes(time: timedelta) -> str:
    return f"{max(0, round(time.total_seconds() / 60))} min"
