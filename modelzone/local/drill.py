"""The kill drill: compilations on the embedded AWS are killed at every step, and what they leave is looked at.

A campaign compiles one artifact, again and again, until it is published; while kills are left each attempt is killed
once, at a step that is aimed at or at a random moment. After each attempt these must hold:

- no manifest lies over an incomplete artifact, or over objects with other contents than it says;
- no host runs;
- nothing that was uploaded is uploaded again, and no file that is mirrored is downloaded from the hub again;
- a failure is one line that names its step.

A campaign ends with an attempt that nobody kills, which must succeed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import psutil
from botocore.exceptions import ClientError

from modelzone.artifacts import artifact_key, artifact_prefix, weights_prefix
from modelzone.compiling.executions import Execution, Machine
from modelzone.errors import ModelzoneError
from modelzone.hosts import EXECUTION_TAG
from modelzone.local.main_job import Embedded

__all__ = ["PLACES", "Drill", "DrillReport", "Kill", "spot_hosts"]

Kind = Literal["kill", "terminate", "spot", "host-gone", "cancel"]
# States of the machine and, while the job runs, the job's own steps: what kills aim at in turn.
# States of the machine and, while the job runs, the job's own steps. Each is aimed at until it was hit.
_IN_MACHINE = ("Look", "StartHost", "WaitForAgent", "Run", "Verify", "Register", "StopHost", "Notify")
# Not job:verify: on the small model it takes milliseconds, which only random moments hit.
_IN_STEPS = ("job:image", "job:weights", "job:export", "job:publish")
PLACES = (*_IN_STEPS, *_IN_MACHINE)
# What can be done to a job, and what to the machine around it.
_TO_JOB: tuple[Kind, ...] = ("kill", "terminate", "spot", "host-gone", "cancel")
_TO_MACHINE: tuple[Kind, ...] = ("cancel", "cancel", "host-gone")
_POLL_S = 0.02
_LONGEST_S = 180.0
_HOSTS_GONE_S = 20.0
_MESSAGE = re.compile(r"step '[a-z-]+' failed: [^\n]+")
_WHILE_JOB = {"Follow", "JobPause", "HasJobEnded"}


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill: how, and where it hit."""

    kind: Kind
    place: str
    outcome: str


@dataclass(kw_only=True)
class DrillReport:
    """What a drill did and found. ``violations`` are sentences; none is what everybody hopes for."""

    kills: list[Kill] = field(default_factory=list)
    attempts: int = 0
    artifacts: int = 0
    too_late: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "kills": len(self.kills),
            "by_kind": dict(Counter(kill.kind for kill in self.kills)),
            "by_place": dict(Counter(kill.place for kill in self.kills)),
            "by_outcome": dict(Counter(kill.outcome for kill in self.kills)),
            "attempts": self.attempts,
            "artifacts": self.artifacts,
            "too_late": self.too_late,
            "seconds": round(self.seconds, 1),
            "not_hit": self.not_hit,
            "violations": self.violations,
        }

    @property
    def not_hit(self) -> list[str]:
        """Places that no kill hit."""
        return [place for place in PLACES if place not in {kill.place for kill in self.kills}]


@contextlib.contextmanager
def spot_hosts(embedded: Embedded, deployment: str) -> Iterator[None]:
    """Have a deployment's hosts bought on the Spot market meanwhile: others are never interrupted."""
    ssm, name = embedded.client("ssm"), f"{embedded.plan.orders_path}/{deployment}"
    order = ssm.get_parameter(Name=name)["Parameter"]["Value"]
    changed = json.dumps({**json.loads(order), "purchase": "spot"}, separators=(",", ":"))
    ssm.put_parameter(Name=name, Value=changed, Type="String", Overwrite=True)
    try:
        yield
    finally:
        ssm.put_parameter(Name=name, Value=order, Type="String", Overwrite=True)


class Drill:
    """A drill on one deployment of a running embedded AWS.

    Parameters
    ----------
    seed
        Of the random moments; the same seed aims at the same ones.
    slow_seconds
        How much longer every stand-in takes, so that there is time to hit it.
    """

    def __init__(self, embedded: Embedded, *, deployment: str, seed: int, slow_seconds: float = 0.3) -> None:
        self._embedded = embedded
        self._plan = next(plan for plan in embedded.plan.deployments if plan.name == deployment)
        self._place_seen = ""
        self._random = random.Random(seed)  # noqa: S311 - moments, no secrets
        self._slow_seconds = slow_seconds
        self._machine = Machine(embedded.client("stepfunctions"), embedded.outputs("compile")["StateMachineArn"])
        self._s3 = embedded.client("s3")
        self._bucket = embedded.outputs("model-store")["ModelBucketName"]
        self._typical_s = 6.0

    def run(self, kills: int, *, tell: Callable[[str], None]) -> DrillReport:
        """Kill so often, and look each time.

        Raises
        ------
        ModelzoneError
            A campaign did not come to its end.
        """
        report, started = DrillReport(), time.monotonic()
        try:
            with spot_hosts(self._embedded, self._plan.name):
                while len(report.kills) < kills:
                    self._campaign(kills, report, tell)
        finally:
            self._embedded.set_faults({})
            report.seconds = time.monotonic() - started
        return report

    def _campaign(self, kills: int, report: DrillReport, tell: Callable[[str], None]) -> None:
        """Compile one artifact until it is there."""
        revision = f"{self._random.getrandbits(160):040x}"
        facts = {**self._plan.facts.as_dict(), "model_revision": revision}
        traces = _Traces(self, facts)
        for _ in range(60):
            report.attempts += 1
            execution = self._start(artifact_key(facts), revision)
            kind = None if len(report.kills) >= kills else self._attack(execution, report)
            ended = self._await_end(execution)
            self._embedded.set_faults({"slow_seconds": self._slow_seconds})
            found = traces.look(ended)
            report.violations += found
            if kind is not None:
                # A cancelled execution's history knows better where it was than whoever cancelled it.
                place = (self._last_state(ended) if ended.status == "ABORTED" else None) or self._place_seen
                report.kills.append(Kill(kind=kind, place=place, outcome=ended.status))
                hit = f"{kind} at {place}"
                tell(f"{len(report.kills):3}/{kills} {hit:<28} {ended.status:<9} {'; '.join(found) or 'ok'}")
            if ended.status == "SUCCEEDED":
                report.artifacts += 1
                report.violations += traces.final()
                traces.remove()
                return
            if kind is None:
                raise ModelzoneError(f"an attempt that nobody killed failed: {ended.failure}")
        raise ModelzoneError(f"artifact {artifact_key(facts)} was not published in 60 attempts")

    def _start(self, key: str, revision: str) -> Execution:
        # A name holds the second in which it was given.
        time.sleep(1.0 - time.time() % 1.0)
        self._embedded.set_faults({"slow_seconds": self._slow_seconds})
        return self._machine.start(
            deployment=self._plan.name,
            key=key,
            facts={"model_revision": revision},
            weights_only=False,
            requested_by="drill",
            now=datetime.now(UTC),
        )

    def _attack(self, execution: Execution, report: DrillReport) -> Kind | None:
        """Kill an attempt once; None when it ended before."""
        started = time.monotonic()
        left = report.not_hit
        if left and report.attempts % 3:
            # In turn, so that one that is hard to hit does not keep the others waiting.
            aimed = left[report.attempts % len(left)]
            reached = self._await_place(execution, aimed)
            if aimed in _IN_STEPS:
                time.sleep(self._random.uniform(0.0, self._slow_seconds))
        else:
            reached = True
            time.sleep(self._random.uniform(0.0, self._typical_s))
        place = self._place(execution) if reached else None
        if place is None:
            self._typical_s = 0.8 * self._typical_s + 0.2 * (time.monotonic() - started)
            report.too_late += 1
            return None
        self._place_seen = place
        at_job = place.startswith("job:") or place in _WHILE_JOB
        return self._kill(self._random.choice(_TO_JOB if at_job else _TO_MACHINE), execution)

    def _last_state(self, execution: Execution) -> str | None:
        entered = None
        for event in self._machine.events(execution):
            if event["type"].endswith("StateEntered"):
                entered = event["stateEnteredEventDetails"]["name"]
        return None if entered in _WHILE_JOB else entered

    def _kill(self, kind: Kind, execution: Execution) -> Kind:
        """Where there is no job yet, or no longer, the execution is cancelled instead."""
        host = self._host_of(execution)
        processes = self._job_processes(host) if host else []
        if kind in {"kill", "terminate"} and processes:
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
            return kind
        if kind == "spot" and processes:
            self._embedded.set_faults({"slow_seconds": self._slow_seconds, "spot": "notice"})
            time.sleep(1.0)
            return kind
        if kind == "host-gone" and host:
            self._embedded.client("ec2").terminate_instances(InstanceIds=[host])
            return kind
        with contextlib.suppress(ModelzoneError):
            self._machine.stop(execution, cause="drill")
        return "cancel"

    def _await_place(self, execution: Execution, place: str) -> bool:
        deadline = time.monotonic() + _LONGEST_S
        while time.monotonic() < deadline:
            now = self._place(execution)
            if now == place:
                return True
            if now is None:
                return False
            time.sleep(_POLL_S)
        raise ModelzoneError(f"execution {execution.name} did not end in {_LONGEST_S:.0f} s")

    def _place(self, execution: Execution) -> str | None:
        """The state of the machine, or the job's step; None when the execution has ended."""
        entered = None
        for event in self._machine.events(execution):
            if event["type"].startswith("Execution") and event["type"] != "ExecutionStarted":
                return None
            if event["type"].endswith("StateEntered"):
                entered = event["stateEnteredEventDetails"]["name"]
        if entered in _WHILE_JOB:
            step = self._job_step(execution.key)
            return f"job:{step}" if step else entered
        return entered or "Look"

    def _job_step(self, key: str) -> str | None:
        name = f"{self._embedded.plan.progress_path}/{key}"
        try:
            value = self._embedded.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
        except ClientError:
            return None
        progress = json.loads(value)
        return progress["step"] if progress["state"] == "running" else None

    def _await_end(self, execution: Execution) -> Execution:
        deadline = time.monotonic() + _LONGEST_S
        while time.monotonic() < deadline:
            found = self._machine.describe(execution.arn)
            if not found.running:
                return found
            time.sleep(_POLL_S)
        raise ModelzoneError(f"execution {execution.name} did not end in {_LONGEST_S:.0f} s")

    def _host_of(self, execution: Execution) -> str | None:
        return next(iter(self.running_hosts(execution.name)), None)

    def running_hosts(self, execution_name: str) -> list[str]:
        """Hosts of an execution that are not terminated."""
        answer = self._embedded.client("ec2").describe_instances(
            Filters=[
                {"Name": f"tag:{EXECUTION_TAG}", "Values": [execution_name]},
                {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
            ]
        )
        return [i["InstanceId"] for reservation in answer["Reservations"] for i in reservation["Instances"]]

    def _job_processes(self, host: str) -> list[psutil.Process]:
        with urllib.request.urlopen(f"{self._embedded.state.url}/_modelzone/hosts", timeout=10) as answer:  # noqa: S310
            hosts = json.load(answer)["hosts"]
        found = []
        for entry in hosts:
            if entry["instance_id"] == host:
                for process in entry["processes"]:
                    if " -m compile_job" in process["command"]:
                        with contextlib.suppress(psutil.Error):
                            found.append(psutil.Process(process["pid"]))
        return found

    def read_object(self, key: str) -> bytes | None:
        """An object of the model bucket; None when it does not exist."""
        try:
            content: bytes = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._s3.exceptions.NoSuchKey:
            return None
        return content

    def versions(self, prefix: str) -> list[tuple[str, str]]:
        """Key and entity tag of every version of every object."""
        pages = self._s3.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=prefix)
        return [(entry["Key"], entry["ETag"]) for page in pages for entry in page.get("Versions", [])]

    def remove(self, prefix: str) -> None:
        """Delete everything below a prefix, old versions too."""
        for page in self._s3.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=prefix):
            entries = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            objects = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
            if objects:
                self._s3.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})

    def forget(self, key: str) -> None:
        """Delete what the parameters say of an artifact."""
        plan = self._embedded.plan
        names = [f"{path}/{key}" for path in (plan.artifacts_path, plan.progress_path)]
        self._embedded.client("ssm").delete_parameters(Names=names)

    def downloads(self, revision: str) -> list[tuple[float, str]]:
        """Time and file of everything that the hub sent of a revision."""
        log = self._embedded.workspace.logs / "hub.jsonl"
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
        return [
            (row["time"], row["path"].rpartition(f"/resolve/{revision}/")[2])
            for row in rows
            if f"/resolve/{revision}/" in row["path"] and row["bytes"]
        ]


class _Traces:
    """What one artifact's attempts leave behind."""

    def __init__(self, drill: Drill, facts: dict[str, str]) -> None:
        self._drill, self._facts = drill, facts
        self._prefix = artifact_prefix(facts)
        self._mirror = weights_prefix(facts["model_id"], facts["model_revision"])
        # Files that lay in the mirror when an attempt had ended, and when that was.
        self._mirrored: dict[str, float] = {}

    def look(self, ended: Execution) -> list[str]:
        """What is wrong after an attempt."""
        wrong = [*self._manifest(self._prefix), *self._manifest(self._mirror), *self._repeated()]
        if ended.status == "FAILED" and not _MESSAGE.match(ended.cause):
            wrong.append(f"{ended.name} failed with {ended.cause[:300]!r}, which is no message of one line")
        deadline = time.monotonic() + _HOSTS_GONE_S
        while (left := self._drill.running_hosts(ended.name)) and time.monotonic() < deadline:
            time.sleep(0.2)
        if left:
            wrong.append(f"{ended.name} left {', '.join(left)} running")
        now = time.time()
        for key, _ in self._drill.versions(self._mirror):
            self._mirrored.setdefault(key.removeprefix(self._mirror), now)
        return wrong

    def final(self) -> list[str]:
        """What is wrong when the artifact is said to be published."""
        missing = [p for p in (self._prefix, self._mirror) if self._drill.read_object(f"{p}manifest.json") is None]
        return [f"{prefix} has no manifest, though its execution succeeded" for prefix in missing]

    def remove(self) -> None:
        """Take back what the campaign made: the drill leaves the store as it was."""
        for prefix in (self._prefix, self._mirror, f"cache/{artifact_key(self._facts)}/"):
            self._drill.remove(prefix)
        self._drill.forget(artifact_key(self._facts))

    def _manifest(self, prefix: str) -> list[str]:
        raw = self._drill.read_object(f"{prefix}manifest.json")
        if raw is None:
            return []
        wrong = []
        for item in json.loads(raw)["objects"]:
            content = self._drill.read_object(prefix + item["path"])
            if content is None:
                wrong.append(f"{prefix}{item['path']} is in the manifest and not in the bucket")
            elif (len(content), hashlib.sha256(content).hexdigest()) != (item["size"], item["sha256"]):
                wrong.append(f"{prefix}{item['path']} has other contents than its manifest says")
        return wrong

    def _repeated(self) -> list[str]:
        wrong = []
        for prefix in (self._prefix, self._mirror):
            counted = Counter(self._drill.versions(prefix))
            wrong += [
                f"{key} was uploaded {n} times" for (key, _), n in counted.items() if n > 1 and "manifest" not in key
            ]
        for when, name in self._drill.downloads(self._facts["model_revision"]):
            if when > self._mirrored.get(name, float("inf")):
                wrong.append(f"{name} was downloaded from the hub again, though it is mirrored")
        return wrong
