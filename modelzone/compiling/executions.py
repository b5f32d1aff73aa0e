"""Executions of the compile state machine: started, found, described, stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from modelzone.artifacts.key import artifact_key
from modelzone.compiling.aws import aws_errors, code_of
from modelzone.errors import ModelzoneError

__all__ = ["Execution", "Machine", "execution_name"]

_NAME = re.compile(r"(?P<deployment>.+)-(?P<key>[0-9a-f]{20})-(?P<time>\d{14})")
_LONGEST_NAME = 80
# Without the hyphens, the key and the time.
_LONGEST_DEPLOYMENT = _LONGEST_NAME - 36
_RUNNING = {"RUNNING", "PENDING_REDRIVE"}
_WORDS = {"ABORTED": "cancelled"}


def execution_name(deployment: str, key: str, now: datetime) -> str:
    """``<deployment>-<key>-<time>``, at most 80 characters: that of the deployment is cut."""
    end = f"-{key}-{now.astimezone(UTC):%Y%m%d%H%M%S}"
    return deployment[: _LONGEST_NAME - len(end)] + end


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One compilation.

    Attributes
    ----------
    deployment, key
        From the name; empty where somebody chose another.
    status
        Step Functions' own: ``RUNNING``, ``SUCCEEDED``, ``FAILED``, ``TIMED_OUT``, ``ABORTED``.
    given, output
        Input and result, when it was described.
    error, cause
        Of one that failed.
    """

    arn: str
    name: str
    status: str
    started: datetime
    stopped: datetime | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    cause: str = ""

    @property
    def deployment(self) -> str:
        """The deployment that it compiles."""
        match = _NAME.fullmatch(self.name)
        return match["deployment"] if match else str(self.given.get("deployment", ""))

    @property
    def key(self) -> str:
        """The artifact that it makes."""
        match = _NAME.fullmatch(self.name)
        return match["key"] if match else ""

    def is_of(self, deployment: str) -> bool:
        """Whether it compiles this deployment; of a long name the execution's has the beginning."""
        return self.deployment == deployment or (bool(self.key) and self.deployment == deployment[:_LONGEST_DEPLOYMENT])

    def seconds(self, now: datetime) -> float:
        """How long it has run."""
        return ((self.stopped or now) - self.started).total_seconds()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.status in _RUNNING

    @property
    def weights_only(self) -> bool:
        """Whether it only mirrors the weights, when it was described."""
        return self.given.get("weights_only") is True

    @property
    def word(self) -> str:
        """`status` as this program calls it: running, succeeded, failed, timed out, cancelled."""
        return _WORDS.get(self.status, self.status.lower().replace("_", " "))

    @property
    def failure(self) -> str:
        """Why it did not succeed, in one message; empty while it runs and when it succeeded."""
        if self.running or self.status == "SUCCEEDED":
            return ""
        if self.status == "TIMED_OUT":
            return f"compilation {self.name} took longer than it may; raise compile.max_hours of the environment"
        said = " ".join(self.cause.split()) or self.error or "without a message"
        return f"compilation {self.name} was cancelled: {said}" if self.status == "ABORTED" else said


class Machine:
    """The compile state machine of one environment.

    Parameters
    ----------
    client
        A client of Step Functions.
    """

    def __init__(self, client: Any, arn: str) -> None:
        self._client = client
        self.arn = arn

    def start(
        self,
        *,
        deployment: str,
        key: str,
        facts: Mapping[str, str],
        weights_only: bool,
        requested_by: str,
        now: datetime,
    ) -> Execution:
        """Start a compilation; `facts` are what differs from the order."""
        given: dict[str, Any] = {"deployment": deployment, "requested_by": requested_by}
        if facts:
            given["facts"] = dict(facts)
        if weights_only:
            given["weights_only"] = True
        name = execution_name(deployment, key, now)
        with aws_errors(f"starting compilation {name}"):
            try:
                answer = self._client.start_execution(stateMachineArn=self.arn, name=name, input=json.dumps(given))
            except ClientError as error:
                if code_of(error) != "ExecutionAlreadyExists":
                    raise
                # Somebody started the same within this second, or its weights alone.
                same = self.named(name)
                if same.weights_only == weights_only:
                    return same
                later = now + timedelta(seconds=1)
                return self.start(
                    deployment=deployment,
                    key=key,
                    facts=facts,
                    weights_only=weights_only,
                    requested_by=requested_by,
                    now=later,
                )
        return Execution(
            arn=answer["executionArn"], name=name, status="RUNNING", started=answer["startDate"], given=given
        )

    def running(self) -> list[Execution]:
        """All that run, youngest first."""
        return list(self._list("RUNNING"))

    def find(self, key: str, *, weights_only: bool) -> tuple[Execution | None, Execution | None]:
        """The oldest one that runs and makes an artifact, and the oldest that only mirrors its weights.

        Both have the same name; with `weights_only` the first will do if there is none of the second.
        """
        full = mirror = None
        for row in sorted((row for row in self.running() if row.key == key), key=lambda row: (row.started, row.name)):
            found = self.describe(row.arn)
            if found.running and found.weights_only:
                mirror = mirror or found
            elif found.running:
                full = full or found
        return (mirror or full if weights_only else full), mirror

    def all(self, deployment: str | None = None) -> list[Execution]:
        """All that Step Functions still knows, youngest first."""
        return [execution for execution in self._list() if deployment is None or execution.is_of(deployment)]

    def latest(self, deployment: str) -> Execution | None:
        """The one of a deployment that runs, or else its last one."""
        found = None
        for execution in self._list():
            if execution.is_of(deployment):
                if execution.running:
                    return execution
                found = found or execution
        return found

    def latest_of_each(self) -> list[Execution]:
        """All that run and, for each deployment, the last one; youngest first."""
        seen: set[str] = set()
        found = []
        for execution in self._list():
            if execution.running or execution.deployment not in seen:
                found.append(execution)
            seen.add(execution.deployment)
        return found

    def named(self, name: str) -> Execution:
        """One by its name.

        Raises
        ------
        ModelzoneError
            There is none.
        """
        arn = f"{self.arn.replace(':stateMachine:', ':execution:', 1)}:{name}"
        try:
            return self.describe(arn)
        except ModelzoneError as error:
            if "ExecutionDoesNotExist" not in str(error):
                raise
            raise ModelzoneError(
                f"there is no compilation {name!r}\n  fix: modelzone compile status --all lists them"
            ) from None

    def describe(self, arn: str) -> Execution:
        """One with its input and its result."""
        with aws_errors(f"reading compilation {arn.rpartition(':')[2]}"):
            answer = self._client.describe_execution(executionArn=arn)
        return Execution(
            arn=answer["executionArn"],
            name=answer["name"],
            status=answer["status"],
            started=answer["startDate"],
            stopped=answer.get("stopDate"),
            given=_object(answer.get("input")),
            output=_object(answer.get("output")),
            error=answer.get("error", ""),
            cause=answer.get("cause", ""),
        )

    def stop(self, execution: Execution, *, cause: str) -> None:
        """Stop one; the environment's clean-up ends its host."""
        with aws_errors(f"cancelling compilation {execution.name}"):
            try:
                self._client.stop_execution(executionArn=execution.arn, error="Cancelled", cause=cause)
            except ClientError:
                # It ended since it was found.
                if self.describe(execution.arn).running:
                    raise

    def first_events(self, execution: Execution) -> list[dict[str, Any]]:
        """The oldest events of an execution with what was passed, those of its first host among them."""
        with aws_errors(f"reading the history of compilation {execution.name}"):
            answer = self._client.get_execution_history(
                executionArn=execution.arn, maxResults=200, includeExecutionData=True
            )
        return list(answer["events"])

    def event(self, execution: Execution, number: int) -> dict[str, Any]:
        """One of the last events with all that it says; empty when it is not among them."""
        with aws_errors(f"reading the history of compilation {execution.name}"):
            answer = self._client.get_execution_history(
                executionArn=execution.arn, reverseOrder=True, maxResults=20, includeExecutionData=True
            )
        return next((event for event in answer["events"] if event["id"] == number), {})

    def events(self, execution: Execution, *, after: int = 0, data: bool = False) -> list[dict[str, Any]]:
        """Events of an execution that are younger than event `after`, oldest first."""
        found: dict[int, dict[str, Any]] = {}
        asked: dict[str, Any] = {}
        with aws_errors(f"reading the history of compilation {execution.name}"):
            while True:
                answer = self._client.get_execution_history(
                    executionArn=execution.arn, reverseOrder=True, maxResults=200, includeExecutionData=data, **asked
                )
                ids = [event["id"] for event in answer["events"]]
                found.update(zip(ids, answer["events"], strict=True))
                if not (token := answer.get("nextToken")) or (ids and min(ids) <= after):
                    break
                asked = {"nextToken": token}
        return [found[number] for number in sorted(found) if number > after]

    def key_by_input(self, execution: Execution, facts: Callable[[str], dict[str, str] | None]) -> str:
        """The artifact of an execution whose name does not tell it.

        Raises
        ------
        ModelzoneError
            Its input does not tell it either.
        """
        given = self.describe(execution.arn).given
        planned = facts(str(given.get("deployment", "")))
        changes = given.get("facts", {})
        if planned is None or not isinstance(changes, dict):
            raise ModelzoneError(
                f"execution {execution.name} runs, and nobody knows for which artifact\n"
                "  fix: wait until it has ended, or stop it"
            )
        return artifact_key({**planned, **{name: str(value) for name, value in changes.items()}})

    def _list(self, status: str | None = None) -> Iterator[Execution]:
        asked: dict[str, Any] = {"statusFilter": status} if status else {}
        with aws_errors("listing compilations"):
            while True:
                answer = self._client.list_executions(stateMachineArn=self.arn, maxResults=200, **asked)
                for row in answer["executions"]:
                    yield Execution(
                        arn=row["executionArn"],
                        name=row["name"],
                        status=row["status"],
                        started=row["startDate"],
                        stopped=row.get("stopDate"),
                    )
                if not (token := answer.get("nextToken")):
                    return
                asked["nextToken"] = token


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
