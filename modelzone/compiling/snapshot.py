"""How far a compilation is, put together from Step Functions, the job's progress parameter and EC2."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelzone.compiling.aws import UnreachableError, aws_errors
from modelzone.compiling.executions import Execution, Machine
from modelzone.compiling.hosts import Host, hosts_of_execution, usd_so_far
from modelzone.prices import instance_price

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ssm import SSMClient

__all__ = ["STEPS", "JobProgress", "Snapshot", "StepTime", "Watch", "follow", "host_seconds", "step_times"]

# Of the state machine, in its order.
STEPS = ("look", "start-host", "wait-for-agent", "run", "follow", "verify", "register", "stop-host", "notify")
_PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """One step. `seconds` is what it has taken so far; `state` is done, running or failed."""

    name: str
    seconds: float
    state: str
    on_host: bool = False


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """What the job on the host last said of itself."""

    step: str
    state: str
    percent: float | None
    bytes: int
    total_bytes: int | None
    bytes_per_second: float | None
    seconds_left: float | None
    steps: Mapping[str, float]
    message: str
    updated: datetime


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A compilation at one moment.

    Attributes
    ----------
    steps
        Those that began, of the state machine and of the job.
    hosts
        All of its hosts that EC2 still knows; the last one is the present one.
    usd
        Cost of its hosts until now at on-demand prices; None when there was none, or its price is unknown.
    unpriced
        Type of its host, where its price is unknown.
    roughly
        Whether the times of the machine were counted: EC2 forgets hosts that ended.
    waiting
        Why the step is tried again; empty where it is not.
    """

    execution: Execution
    now: datetime
    steps: tuple[StepTime, ...]
    job: JobProgress | None
    hosts: tuple[Host, ...]
    usd: float | None
    unpriced: str = ""
    roughly: bool = False
    waiting: str = ""

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return self.execution.seconds(self.now)

    @property
    def step(self) -> str:
        """What is being done; empty when it has ended."""
        running = [step.name for step in self.steps if step.state == "running"]
        return running[-1] if running and self.execution.running else ""

    @property
    def host(self) -> Host | None:
        """The host that works on it, or did last."""
        return self.hosts[-1] if self.hosts else None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        execution, job, host = self.execution, self.job, self.host
        return {
            "execution": execution.name,
            "deployment": execution.deployment,
            "key": execution.key,
            "status": execution.word.replace(" ", "_"),
            "step": self.step or None,
            "waiting": self.waiting or None,
            "started": _iso(execution.started),
            "stopped": _iso(execution.stopped) if execution.stopped else None,
            "seconds": round(self.seconds, 1),
            "steps": [
                {"name": step.name, "seconds": round(step.seconds, 1), "state": step.state, "on_host": step.on_host}
                for step in self.steps
            ],
            "progress": {
                "percent": job.percent,
                "bytes": job.bytes,
                "total_bytes": job.total_bytes,
                "seconds_left": job.seconds_left,
                "bytes_per_second": job.bytes_per_second,
                "message": job.message,
                "updated": _iso(job.updated),
            }
            if job
            else None,
            "host": {
                "instance_id": host.instance_id,
                "instance_type": host.instance_type,
                "zone": host.zone,
                "purchase": host.purchase,
                "state": host.state,
                "until": host.until or None,
            }
            if host
            else None,
            "usd": round(self.usd, 4) if self.usd is not None else None,
            "artifact": execution.output.get("artifact"),
            "failure": execution.failure or None,
        }


class Watch:
    """Looks at one compilation again and again, and asks only for what is new."""

    def __init__(
        self,
        execution: Execution,
        *,
        machine: Machine,
        ec2: EC2Client,
        ssm: SSMClient,
        environment: str,
        region: str,
    ) -> None:
        self._execution, self._machine, self._ec2, self._ssm = execution, machine, ec2, ssm
        self._parameter = f"/modelzone/{environment}/compile/progress/{execution.key}" if execution.key else ""
        self._region = region
        self._events: list[tuple[datetime, str]] = []
        self._exits: list[tuple[datetime, str]] = []
        self._refused: Mapping[str, Any] = {}
        self._type: str | None = None
        self._last_event = 0

    def look(self, now: datetime | None = None) -> Snapshot:
        """How far it is now."""
        execution = self._machine.describe(self._execution.arn)
        for event in self._machine.events(execution, after=self._last_event):
            self._note(event)
        now = now or datetime.now(UTC)
        hosts = hosts_of_execution(self._ec2, execution.name)
        job = read_progress(self._ssm, self._parameter, since=execution.started) if self._parameter else None
        usd, unpriced, roughly = self._cost(execution, hosts, now)
        return Snapshot(
            execution=execution,
            now=now,
            steps=step_times(self._events, job, ended=execution.stopped, failed=bool(execution.failure), now=now),
            job=job,
            hosts=tuple(hosts),
            usd=usd,
            unpriced=unpriced,
            roughly=roughly,
            waiting=self._why(execution),
        )

    def _note(self, event: Mapping[str, Any]) -> None:
        self._last_event = max(self._last_event, event["id"])
        entered, left = event.get("stateEnteredEventDetails"), event.get("stateExitedEventDetails")
        if entered:
            self._events.append((event["timestamp"], entered["name"]))
        if left:
            self._exits.append((event["timestamp"], left["name"]))
        if entered or left:
            self._refused = {}
        elif _failure_of(event) is not None:
            self._refused = event

    def _why(self, execution: Execution) -> str:
        """What the step's last try said, while the machine waits for the next."""
        if not (self._refused and execution.running):
            return ""
        said = _words(self._refused)
        if not said:
            # Listed without what was passed, which this may count as.
            self._refused = self._machine.event(execution, self._refused["id"]) or self._refused
            said = _words(self._refused)
        return said or "the last try failed"

    def _cost(self, execution: Execution, hosts: Sequence[Host], now: datetime) -> tuple[float | None, str, bool]:
        """Dollars, the type that has no price, and whether the machine's times were counted."""
        usd = usd_so_far(hosts, region=self._region, now=now)
        if usd is not None:
            return usd, "", False
        seconds = host_seconds(self._exits, ended=execution.stopped or now)
        name = hosts[-1].instance_type if hosts else ""
        if not name and seconds:
            name = self._type = self._type_of(execution) if self._type is None else self._type
        if not name:
            return None, "", False
        price = instance_price(name, region=self._region)
        return (price.usd * seconds / 3600, "", True) if price else (None, name, False)

    def _type_of(self, execution: Execution) -> str:
        """The type of a host that EC2 has forgotten, from the result or from what the machine passed on."""
        host = execution.output.get("host")
        if isinstance(host, dict):
            return str(host.get("instance_type") or "")
        for event in self._machine.first_events(execution):
            details = event.get("stateExitedEventDetails", {})
            if _step(details.get("name", "")) == "start-host":
                try:
                    host = json.loads(details.get("output", "")).get("host") or {}
                    return str(host.get("instance_type") or "")
                except (ValueError, AttributeError):
                    return ""
        return ""


def host_seconds(left: Sequence[tuple[datetime, str]], *, ended: datetime) -> float:
    """How long there was a host, by when the state machine left which state."""
    total, since = 0.0, None
    for when, name in left:
        step = _step(name)
        if step == "start-host":
            since = since or when
        elif step == "stop-host" and since:
            total, since = total + (when - since).total_seconds(), None
    return total + (max(0.0, (ended - since).total_seconds()) if since else 0.0)


def _failure_of(event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if event.get("type") not in {"TaskFailed", "LambdaFunctionFailed"}:
        return None
    return event.get("taskFailedEventDetails") or event.get("lambdaFunctionFailedEventDetails") or {}


def _words(event: Mapping[str, Any]) -> str:
    """What a function said when it failed: Lambda has it as JSON."""
    details = _failure_of(event) or {}
    cause = str(details.get("cause") or "")
    try:
        found = json.loads(cause)
    except ValueError:
        found = None
    said = found.get("errorMessage") if isinstance(found, dict) else cause
    return " ".join(str(said or details.get("error") or "").split())


def step_times(
    entered: Sequence[tuple[datetime, str]],
    job: JobProgress | None,
    *,
    ended: datetime | None,
    failed: bool,
    now: datetime,
) -> tuple[StepTime, ...]:
    """Durations of the steps that began, from when the state machine entered which state.

    States that are no steps (waits, choices) belong to the step before them; a step that is entered again, as after a
    Spot interruption, adds up.
    """
    seconds: dict[str, float] = {}
    current, since = "", now
    end = ended or now
    for when, name in entered:
        step = _step(name)
        if step and step != current:
            if current:
                seconds[current] += (when - since).total_seconds()
            current, since = step, when
            seconds.setdefault(step, 0.0)
    if current:
        seconds[current] += max(0.0, (end - since).total_seconds())
    found: list[StepTime] = []
    for name, spent in seconds.items():
        running = name == current and ended is None
        found.append(StepTime(name=name, seconds=spent, state="running" if running else "done"))
        if name == "follow" and job:
            found += _of_job(job, spent, running=running)
    return _with_failure(found, job) if failed else tuple(found)


def _of_job(job: JobProgress, spent: float, *, running: bool) -> list[StepTime]:
    steps = [StepTime(name=name, seconds=took, state="done", on_host=True) for name, took in job.steps.items()]
    if job.step and job.step not in job.steps and job.state != "done":
        rest = max(0.0, spent - sum(job.steps.values()))
        state = "failed" if job.state == "failed" else "running" if running else "done"
        steps.append(StepTime(name=job.step, seconds=rest, state=state, on_host=True))
    return steps


def _with_failure(steps: Sequence[StepTime], job: JobProgress | None) -> tuple[StepTime, ...]:
    """What comes after a failure only cleans up: the last step before that failed."""
    if job and job.state == "failed":
        return tuple(steps)
    cleaning = {"stop-host", "notify"}
    last = next((step for step in reversed(steps) if step.name not in cleaning), None)
    return tuple(
        StepTime(name=step.name, seconds=step.seconds, state="failed", on_host=step.on_host) if step is last else step
        for step in steps
    )


def _step(state: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", state).lower()).strip("-")
    if words.startswith("stop-") and words.endswith("-host"):
        # Why it is stopped stands between.
        return "stop-host"
    return next((step for step in STEPS if words == step or words.startswith(f"{step}-")), "")


def read_progress(ssm: SSMClient, name: str, *, since: datetime) -> JobProgress | None:
    """What the job says of itself; None before it has said anything in this compilation."""
    with aws_errors(f"reading parameter {name}"):
        try:
            value = ssm.get_parameter(Name=name)["Parameter"].get("Value", "")
        except ssm.exceptions.ParameterNotFound:
            return None
    return parse_progress(value, since=since)


def parse_progress(value: str, *, since: datetime) -> JobProgress | None:
    """The parameter's value; None when it is older than the compilation, or cannot be read: it is shown, not needed."""
    try:
        data = json.loads(value)
        updated = datetime.fromisoformat(data["updated"])
        updated = updated if updated.tzinfo else updated.replace(tzinfo=UTC)
        # Times of Step Functions have parts of a second, the job's may not.
        if (updated - since).total_seconds() < -1:
            return None
        percent, total, left = data.get("percent"), data.get("total_bytes"), data.get("seconds_left")
        rate = data.get("rate")
        return JobProgress(
            step=str(data.get("step") or ""),
            state=str(data.get("state") or "running"),
            percent=None if percent is None else min(100.0, max(0.0, float(percent))),
            bytes=int(data.get("bytes") or 0),
            total_bytes=None if total is None else int(total),
            bytes_per_second=float(rate) if rate else None,
            seconds_left=None if left is None else float(left),
            steps={str(name): float(took) for name, took in (data.get("steps") or {}).items()},
            message=str(data.get("message") or ""),
            updated=updated,
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def follow(
    look: Callable[[], Snapshot],
    show: Callable[[Snapshot], None],
    *,
    interval: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Snapshot:
    """Look and show until the compilation has ended; a connection that is lost may come back within ten minutes."""
    answered = clock()
    while True:
        try:
            snapshot = look()
        except UnreachableError:
            if clock() - answered > _PATIENCE_SECONDS:
                raise
        else:
            answered = clock()
            show(snapshot)
            if not snapshot.execution.running:
                return snapshot
        sleep(interval)


def _iso(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
