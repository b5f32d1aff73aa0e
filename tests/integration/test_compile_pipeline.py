"""The compile pipeline for real: the state machine runs, Run Command runs the job as a process on an emulated host.

Only the container runtime, the compiler and the hub are stood in for. One environment is deployed for the whole file,
without its gateway and its endpoints.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from modelzone.artifacts import artifact_key, artifact_prefix
from modelzone.compiling.executions import Execution, Machine
from modelzone.local.drill import PLACES, Drill, spot_hosts
from modelzone.local.main_job import Embedded, MainJob
from modelzone.local.processes import STATE_VARIABLE, stop_everything
from modelzone.local.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
TOKEN = f"hf_planted{secrets.token_hex(12)}"
LONGEST_S = 120.0

pytestmark = pytest.mark.filterwarnings(
    # boto3's own use of datetime in some of its versions.
    "ignore:datetime.datetime.utcnow:DeprecationWarning"
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = Workspace(ROOT, tmp_path_factory.mktemp("pipeline"))
    try:
        yield workspace
    finally:
        stop_everything(workspace)


@pytest.fixture(scope="module")
def embedded(workspace: Workspace) -> Embedded:
    job = MainJob(workspace, environment="dev")
    embedded, cdk = job.prepare()
    cdk.deploy(["CompileStack"])
    job.store_token(embedded, TOKEN)
    return embedded


@pytest.fixture(autouse=True)
def no_faults(embedded: Embedded) -> Iterator[None]:
    embedded.set_faults({})
    yield
    embedded.set_faults({})


class Run:
    """One compilation of an artifact of its own, and what it left."""

    def __init__(self, embedded: Embedded, **given: Any) -> None:
        self.embedded = embedded
        (plan,) = embedded.plan.deployments
        changes = given.pop("facts", None) or {"model_revision": secrets.token_hex(20)}
        self.facts = {**plan.facts.as_dict(), **changes}
        self.key = artifact_key(self.facts)
        self.machine = Machine(embedded.client("stepfunctions"), embedded.outputs("compile")["StateMachineArn"])
        self.execution = self.machine.start(
            deployment=plan.name,
            key=self.key,
            facts=changes,
            weights_only=given.pop("weights_only", False),
            requested_by="test",
            now=datetime.now(UTC),
        )
        assert not given

    def end(self) -> Execution:
        deadline = time.monotonic() + LONGEST_S
        while (found := self.machine.describe(self.execution.arn)).running:
            assert time.monotonic() < deadline, f"{found.name} did not end"
            time.sleep(0.1)
        return found

    def failure(self) -> str:
        """The one message of a failure; nothing was published and no host is left."""
        ended = self.end()
        assert ended.status == "FAILED", ended
        assert ended.error == "CompileFailed"
        assert "\n" not in ended.cause
        assert ended.cause.startswith("step '")
        assert not self.objects("manifest.json")
        assert self.hosts("running") == []
        return ended.cause

    def objects(self, name: str = "") -> list[str]:
        bucket = self.embedded.outputs("model-store")["ModelBucketName"]
        prefix = artifact_prefix(self.facts) + name
        answer = self.embedded.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)
        return [entry["Key"] for entry in answer.get("Contents", [])]

    def hosts(self, *states: str) -> list[dict[str, Any]]:
        """Hosts of this compilation, oldest first; a termination takes a moment."""
        filters = [{"Name": "tag:modelzone:execution", "Values": [self.execution.name]}]
        deadline = time.monotonic() + 10
        while True:
            answer = self.embedded.client("ec2").describe_instances(Filters=filters)
            hosts = [host for reservation in answer["Reservations"] for host in reservation["Instances"]]
            found = [host for host in hosts if not states or host["State"]["Name"] in states]
            if "running" not in states or not found or time.monotonic() > deadline:
                return sorted(found, key=lambda host: host["LaunchTime"])
            time.sleep(0.2)


def test_a_compilation_publishes_registers_and_leaves_no_host(embedded: Embedded) -> None:
    run = Run(embedded)
    ended = run.end()
    assert ended.status == "SUCCEEDED", ended.cause
    assert ended.output["artifact"].endswith(artifact_prefix(run.facts))
    assert ended.output["already"] is False
    assert ended.output["host"]["instance_type"] == "inf2.24xlarge"
    assert {"image", "weights", "export", "verify", "publish"} <= set(ended.output["steps"])
    assert len(run.objects("manifest.json")) == 1
    assert run.hosts("running") == []
    (host,) = run.hosts()
    assert host["State"]["Name"] == "terminated"
    name = f"{embedded.plan.artifacts_path}/{run.key}"
    entry = json.loads(embedded.client("ssm").get_parameter(Name=name)["Parameter"]["Value"])
    assert entry["artifact"] == ended.output["artifact"]
    again = Run(embedded, facts={"model_revision": run.facts["model_revision"]})
    assert again.end().output["already"] is True
    assert again.hosts() == []


def test_the_manifest_says_what_made_it(embedded: Embedded) -> None:
    run = Run(embedded)
    assert run.end().status == "SUCCEEDED"
    bucket = embedded.outputs("model-store")["ModelBucketName"]
    (key,) = run.objects("manifest.json")
    manifest = json.loads(embedded.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
    assert manifest["facts"] == run.facts
    producer = manifest["producer"]
    assert producer["image"].endswith("optimum0.0.25-neuronx-py310-ubuntu22.04")
    assert producer["image_digest"].startswith("sha256:")
    assert producer["weights_revision"] == run.facts["model_revision"]
    assert all(item["sha256"] and item["s3_checksum"] for item in manifest["objects"])


def test_weights_alone_are_mirrored_by_the_smallest_host(embedded: Embedded) -> None:
    run = Run(embedded, weights_only=True)
    ended = run.end()
    assert ended.status == "SUCCEEDED", ended.cause
    assert ended.output["host"]["instance_type"] == "inf2.xlarge"
    assert run.objects() == []
    bucket = embedded.outputs("model-store")["ModelBucketName"]
    prefix = f"weights/{run.facts['model_id'].lower().replace('/', '--')}/{run.facts['model_revision']}/"
    answer = embedded.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)
    assert f"{prefix}manifest.json" in {entry["Key"] for entry in answer["Contents"]}


def test_where_a_zone_has_no_capacity_the_next_is_tried(embedded: Embedded) -> None:
    first, second = sorted_subnets(embedded)
    embedded.set_faults({"no_capacity": [{"subnet_id": first, "instance_type": None}]})
    run = Run(embedded)
    assert run.end().status == "SUCCEEDED"
    (host,) = run.hosts()
    assert (host["SubnetId"], host["InstanceType"]) == (second, "inf2.24xlarge")


def test_where_a_type_has_no_capacity_the_next_is_tried(embedded: Embedded) -> None:
    embedded.set_faults({"no_capacity": [{"subnet_id": None, "instance_type": "inf2.24xlarge"}]})
    run = Run(embedded)
    assert run.end().status == "SUCCEEDED"
    (host,) = run.hosts()
    assert host["InstanceType"] == "inf2.48xlarge"


def test_without_any_capacity_the_message_says_what_was_tried(embedded: Embedded) -> None:
    embedded.set_faults({"no_capacity": [{"subnet_id": None, "instance_type": None}]})
    run = Run(embedded)
    said = run.failure()
    assert said.startswith("step 'start-host' failed")
    for word in ("inf2.24xlarge", "inf2.48xlarge", "us-east-1a: no capacity"):
        assert word in said
    assert run.hosts() == []


FAULTS: dict[str, tuple[Mapping[str, Any], list[str]]] = {
    "pull denied": ({"ecr_pull": "denied"}, ["step 'image'", "may not pull"]),
    "gated": ({"hub": "gated"}, ["step 'weights'", "licence"]),
    "wrong token": ({"hub": "bad-token"}, ["step 'weights'", "token"]),
    "no room": ({"disk_free_gib": 3}, ["step 'resources'", "3 GiB free", "larger volume"]),
    "disk full": ({"export": "disk-full"}, ["step 'export'", "volume is full"]),
    "out of memory": ({"export": "oom"}, ["step 'export'", "memory"]),
    "device missing": ({"devices": 5}, ["step 'devices'", "5", "6"]),
    "checksum mismatch": ({"corrupt": "weights"}, ["step 'weights'", "sha256"]),
    "KMS denied": ({"kms": "denied"}, ["kms:GenerateDataKey"]),
    "agent never came": ({"agent": "never"}, ["step 'wait-for-agent'", "agent"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_own_message_and_leaves_no_host(embedded: Embedded, name: str) -> None:
    faults, words = FAULTS[name]
    embedded.set_faults(faults)
    said = Run(embedded).failure()
    for word in words:
        assert word in said
    log = "" if "wait-for-agent" in words[0] else embedded.outputs("compile")["LogGroupName"]
    assert f"Log: {log}" in said


def test_every_fault_has_another_message(embedded: Embedded) -> None:
    """The causes of the runs above, without what differs from run to run."""
    machine = Machine(embedded.client("stepfunctions"), embedded.outputs("compile")["StateMachineArn"])
    rows = embedded.client("stepfunctions").list_executions(stateMachineArn=machine.arn, statusFilter="FAILED")
    causes = [machine.describe(row["executionArn"]).cause.split(" Log: ")[0] for row in rows["executions"]]
    plain = [re.sub(r"\b(i-)?[0-9a-f]{8,64}\b|\d+", "#", cause) for cause in causes]
    assert len(set(plain)) == len(plain) >= len(FAULTS)


def test_an_agent_that_is_lost_ends_the_compilation(embedded: Embedded) -> None:
    """As on a host that hangs: no word from the agent, no progress of the job."""
    embedded.set_faults({"slow_seconds": 0.5})
    run = Run(embedded)
    wait_for(lambda: job_processes(embedded))
    embedded.set_faults({"agent": "lost"})
    for pid in job_processes(embedded):
        psutil.Process(pid).suspend()
    said = run.failure()
    assert "SSM agent lost" in said


def test_a_spot_interruption_goes_on_with_another_host(embedded: Embedded) -> None:
    embedded.set_faults({"slow_seconds": 0.7})
    with spot_hosts(embedded, "mixtral"):
        run = Run(embedded)
        wait_for(lambda: job_processes(embedded))
        embedded.set_faults({"spot": "notice"})
        wait_for(lambda: not job_processes(embedded))
        embedded.set_faults({})
        ended = run.end()
    assert ended.status == "SUCCEEDED", ended.cause
    assert [host["InstanceLifecycle"] for host in run.hosts()] == ["spot", "spot"]
    assert run.hosts("running") == []


def test_the_last_attempt_after_interruptions_is_on_demand(embedded: Embedded) -> None:
    embedded.set_faults({"slow_seconds": 0.7, "spot": "notice"})
    with spot_hosts(embedded, "mixtral"):
        run = Run(embedded)
        ended = run.end()
    assert ended.status == "SUCCEEDED", ended.cause
    assert [host.get("InstanceLifecycle") for host in run.hosts()] == ["spot", "spot", None]
    assert ended.output["host"]["purchase"] == "on-demand"


def test_cancelling_ends_the_host(embedded: Embedded) -> None:
    embedded.set_faults({"slow_seconds": 1.0})
    run = Run(embedded)
    wait_for(lambda: job_processes(embedded))
    run.machine.stop(run.execution, cause="test")
    assert run.end().status == "ABORTED"
    assert run.hosts("running") == []
    assert not run.objects("manifest.json")


def test_the_token_is_nowhere(embedded: Embedded, workspace: Workspace) -> None:
    """Planted in the secret before the first run: not in arguments, environments, logs, histories, parameters."""
    seen: set[str] = set()
    embedded.set_faults({"slow_seconds": 0.3, "hub": "slow"})
    run = Run(embedded)
    while run.machine.describe(run.execution.arn).running:
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                if environment.get(STATE_VARIABLE) == str(workspace.folder):
                    seen.update([" ".join(process.cmdline()), *environment.values()])
            except psutil.Error:
                continue
        time.sleep(0.05)
    assert run.end().status == "SUCCEEDED"
    assert any("hub_snapshot" in text for text in seen)
    assert not [text for text in seen if TOKEN in text]
    states, ssm, logs = (embedded.client(name) for name in ("stepfunctions", "ssm", "logs"))
    history = states.get_paginator("get_execution_history").paginate(executionArn=run.execution.arn)
    assert TOKEN not in json.dumps(list(history), default=str)
    assert TOKEN not in json.dumps(ssm.list_commands(), default=str)
    parameters = list(ssm.get_paginator("get_parameters_by_path").paginate(Path="/modelzone/", Recursive=True))
    assert run.key in json.dumps(parameters, default=str)
    assert TOKEN not in json.dumps(parameters, default=str)
    for group in logs.describe_log_groups()["logGroups"]:
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=group["logGroupName"]):
            assert TOKEN not in json.dumps(page["events"])
    files = [path for path in workspace.folder.rglob("*") if path.is_file()]
    assert any(path.name == "containers.jsonl" for path in files)
    # Where the embedded AWS keeps the secret itself, if it keeps it on the disk.
    found = [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert found == []


def test_kills_at_random_moments_leave_nothing_wrong(embedded: Embedded) -> None:
    """A few of them; `modelzone local drill --kills 100` does more."""
    told: list[str] = []
    report = Drill(embedded, deployment="mixtral", seed=20261121, slow_seconds=0.15).run(6, tell=told.append)
    assert report.violations == [], told
    assert len(report.kills) == 6
    assert len({kill.place for kill in report.kills} & set(PLACES)) >= 3, told
    assert report.artifacts >= 1


def sorted_subnets(embedded: Embedded) -> list[str]:
    """The compile hosts' subnets in the order in which they are tried."""
    functions = embedded.client("lambda").list_functions()["Functions"]
    (subnets,) = {f["Environment"]["Variables"]["SUBNET_IDS"] for f in functions if "SUBNET_IDS" in variables(f)}
    return str(subnets).split(",")


def variables(function: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = function.get("Environment", {}).get("Variables", {})
    return found


def job_processes(embedded: Embedded) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get(STATE_VARIABLE) == str(embedded.workspace.folder)
            if mine and "-m compile_job" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def wait_for(happened: Any) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)
