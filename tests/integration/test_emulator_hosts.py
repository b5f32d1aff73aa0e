"""Hosts of the embedded AWS: EC2 instances on which Systems Manager runs scripts as processes."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError
from integration.test_emulator_support import IMAGE, REGION, RunningEmulator, running_emulator, wait_until

REGISTRY = IMAGE.partition("/")[0]
WORK = "/var/lib/modelzone/compile"
LOGIN = f"aws ecr get-login-password | docker login --username AWS --password-stdin {REGISTRY}\n"
MIXTRAL = "mistralai/Mixtral-8x7B-Instruct-v0.1"
REVISION = "41bd4c9e7e4fb318ca40e721131d4933966c2cc1"
EXPORT = (
    f"mkdir -p {WORK}/out {WORK}/model {WORK}/cache\n"
    "docker run --rm --init --name export --device=/dev/neuron0 --entrypoint optimum-cli"
    f" --mount type=bind,source={WORK}/model,target=/modelzone/weights"
    f" --mount type=bind,source={WORK}/out,target=/modelzone/output"
    f" --mount type=bind,source={WORK}/cache,target=/modelzone/cache"
    " --env NEURON_COMPILE_CACHE_URL=/modelzone/cache"
    f" {IMAGE} export neuron --model /modelzone/weights --task text-generation --batch_size 1"
    " --sequence_length 1024 --auto_cast_type fp16 --num_cores 8 /modelzone/output/artifact\n"
)
DOWNLOAD = (
    f"mkdir -p {WORK}/model\n"
    "printf '%s' \"$TOKEN\" | docker run --rm --interactive --name weights --entrypoint python3"
    f" --mount type=bind,source={WORK}/model,target=/modelzone/weights {IMAGE} -c '"
    "import sys; from huggingface_hub import hf_hub_download; "
    f'print(hf_hub_download("{MIXTRAL}", sys.argv[1], revision="{REVISION}", local_dir=sys.argv[2], '
    "token=sys.stdin.read() or False))' model.safetensors /modelzone/weights\n"
)


@dataclass(frozen=True, kw_only=True)
class Network:
    template: str
    subnets: tuple[str, ...]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    with running_emulator(tmp_path_factory.mktemp("hosts")) as running:
        yield running


@pytest.fixture(scope="module")
def network(emulator: RunningEmulator) -> Network:
    ec2 = emulator.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = tuple(
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"]
        for n, zone in enumerate(("us-east-1a", "us-east-1b"))
    )
    group = ec2.create_security_group(GroupName="hosts", Description="hosts", VpcId=vpc)["GroupId"]
    tags = [{"Key": "Name", "Value": "from the template"}, {"Key": "modelzone:environment", "Value": "dev"}]
    data = {
        "ImageId": "resolve:ssm:/aws/service/neuron/dlami/base/ubuntu-22.04/latest/image_id",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "SecurityGroupIds": [group],
        "IamInstanceProfile": {"Name": "compile-host"},
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 540}}],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
    }
    template = ec2.create_launch_template(LaunchTemplateName="hosts", LaunchTemplateData=data)["LaunchTemplate"]
    return Network(template=template["LaunchTemplateId"], subnets=subnets)


@pytest.fixture
def faults(emulator: RunningEmulator) -> Iterator[Callable[..., None]]:
    file = emulator.state_dir / "faults.json"
    yield lambda **given: file.write_text(json.dumps(given)) and None
    file.unlink(missing_ok=True)


@pytest.fixture
def launch(emulator: RunningEmulator, network: Network) -> Iterator[Callable[..., dict[str, Any]]]:
    ec2, started = emulator.client("ec2"), []

    def run(**request: Any) -> dict[str, Any]:
        (instance,) = ec2.run_instances(
            **{
                "LaunchTemplate": {"LaunchTemplateId": network.template, "Version": "1"},
                "InstanceType": "inf2.24xlarge",
                "SubnetId": network.subnets[0],
                "MinCount": 1,
                "MaxCount": 1,
                **request,
            }
        )["Instances"]
        started.append(instance["InstanceId"])
        found: dict[str, Any] = instance
        return found

    yield run
    if started:
        ec2.terminate_instances(InstanceIds=started)
    assert not any(host["processes"] for host in emulator.get("/_modelzone/hosts")["hosts"])


@pytest.fixture
def host(emulator: RunningEmulator, launch: Callable[..., dict[str, Any]]) -> str:
    instance_id = str(launch()["InstanceId"])
    wait_until(lambda: ping(emulator, instance_id) == "Online")
    return instance_id


def ping(emulator: RunningEmulator, instance_id: str) -> str | None:
    wanted = [{"Key": "InstanceIds", "Values": [instance_id]}]
    rows = emulator.client("ssm").describe_instance_information(Filters=wanted)["InstanceInformationList"]
    return rows[0]["PingStatus"] if rows else None


def send(emulator: RunningEmulator, instance_id: str, script: str, **request: Any) -> str:
    sent = emulator.client("ssm").send_command(
        DocumentName="AWS-RunShellScript",
        InstanceIds=[instance_id],
        Parameters={"commands": ["#!/bin/bash\nset -euo pipefail\n" + script], "executionTimeout": ["60"]},
        **request,
    )
    return str(sent["Command"]["CommandId"])


def invocation(emulator: RunningEmulator, command: str, instance_id: str) -> dict[str, Any]:
    found: dict[str, Any] = emulator.client("ssm").get_command_invocation(CommandId=command, InstanceId=instance_id)
    return found


def run(emulator: RunningEmulator, instance_id: str, script: str, *, status: str = "Success") -> dict[str, Any]:
    command = send(emulator, instance_id, script)
    finished = {"Success", "Failed", "TimedOut", "Cancelled"}
    wait_until(lambda: invocation(emulator, command, instance_id)["Status"] in finished, 60)
    found = invocation(emulator, command, instance_id)
    assert found["Status"] == status, found
    return found


def describe(emulator: RunningEmulator, instance_id: str) -> dict[str, Any]:
    ec2 = emulator.client("ec2")
    found: dict[str, Any] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    return found


def on_host(emulator: RunningEmulator, instance_id: str) -> dict[str, Any]:
    hosts = emulator.get("/_modelzone/hosts")["hosts"]
    found: dict[str, Any] = next(row for row in hosts if row["instance_id"] == instance_id)
    return found


def tags_of(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def test_a_host_is_its_template_and_the_request(
    emulator: RunningEmulator, launch: Callable[..., dict[str, Any]], network: Network
) -> None:
    own = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "own"}, {"Key": "run", "Value": "1"}]}]
    instance = launch(SubnetId=network.subnets[1], TagSpecifications=own, ClientToken="one")
    assert instance["ImageId"].startswith("ami-")
    assert instance["IamInstanceProfile"]["Arn"].endswith("instance-profile/compile-host")
    assert (instance["InstanceType"], instance["SubnetId"]) == ("inf2.24xlarge", network.subnets[1])
    assert instance["Placement"]["AvailabilityZone"] == "us-east-1b"
    tags = tags_of(instance)
    assert (tags["Name"], tags["run"], tags["modelzone:environment"]) == ("own", "1", "dev")
    assert tags["aws:ec2launchtemplate:version"] == "1"
    assert on_host(emulator, instance["InstanceId"])["tags"] == tags
    assert "InstanceLifecycle" not in instance
    volume = instance["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    (disk,) = emulator.client("ec2").describe_volumes(VolumeIds=[volume])["Volumes"]
    assert (disk["Size"], tags_of(disk)["Name"]) == (540, "from the template")
    again = launch(SubnetId=network.subnets[1], TagSpecifications=own, ClientToken="one")
    assert again["InstanceId"] == instance["InstanceId"]
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        launch(ClientToken="one")


def test_hosts_are_found_by_tag_and_state(emulator: RunningEmulator, launch: Callable[..., dict[str, Any]]) -> None:
    spec = [{"ResourceType": "instance", "Tags": [{"Key": "modelzone:execution", "Value": "mine"}]}]
    instance_id = launch(TagSpecifications=spec)["InstanceId"]
    ec2 = emulator.client("ec2")

    def found(*states: str) -> list[str]:
        wanted = [
            {"Name": "tag:modelzone:execution", "Values": ["mine"]},
            {"Name": "instance-state-name", "Values": list(states)},
        ]
        reservations = ec2.describe_instances(Filters=wanted)["Reservations"]
        return [row["InstanceId"] for reservation in reservations for row in reservation["Instances"]]

    assert found("pending", "running") == [instance_id]
    assert found("terminated") == []
    ec2.terminate_instances(InstanceIds=[instance_id])
    assert found("pending", "running") == []
    assert found("terminated") == [instance_id]
    assert describe(emulator, instance_id)["StateReason"]["Code"] == "Client.UserInitiatedShutdown"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"SubnetId": "subnet-0"}, "InvalidSubnetID.NotFound"),
        ({"LaunchTemplate": {"LaunchTemplateId": "lt-0", "Version": "1"}}, "InvalidLaunchTemplateId"),
        ({"LaunchTemplate": {"LaunchTemplateName": "hosts", "Version": "7"}}, "VersionNotFound"),
    ],
)
def test_what_does_not_exist_is_refused(
    launch: Callable[..., dict[str, Any]], request_: dict[str, Any], code: str
) -> None:
    with pytest.raises(ClientError, match=code):
        launch(**request_)


def test_a_zone_without_capacity(
    launch: Callable[..., dict[str, Any]], faults: Callable[..., None], network: Network
) -> None:
    faults(no_capacity=[{"subnet_id": network.subnets[0], "instance_type": None}])
    with pytest.raises(ClientError) as refused:
        launch()
    error = refused.value.response["Error"]
    assert error["Code"] == "InsufficientInstanceCapacity"
    assert "sufficient inf2.24xlarge capacity in the Availability Zone you requested (us-east-1a)" in error["Message"]
    assert launch(SubnetId=network.subnets[1])["State"]["Name"] == "running"


def test_a_host_has_its_own_world(emulator: RunningEmulator, host: str) -> None:
    script = f"""
mkdir -p {WORK}
cd {WORK}
python3 - <<'END'
import json, os, shutil, subprocess, sys, tempfile
print(json.dumps({{
    "free": shutil.disk_usage("{WORK}").free / 2**30,
    "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
    "devices": len(json.loads(subprocess.check_output(["neuron-ls", "--json-output"]))),
    "temporary": tempfile.gettempdir(), "home": os.path.expanduser("~"), "here": os.getcwd(),
    "leaked": sorted(name for name in os.environ if name.startswith(("MINISTACK", "GATEWAY"))),
}}))
END
aws sts get-caller-identity --query Account --output text
"""
    lines = run(emulator, host, script)["StandardOutputContent"].splitlines()
    seen = json.loads(lines[0])
    folder = on_host(emulator, host)["folder"]
    assert (seen["free"], seen["memory"], seen["devices"], seen["leaked"]) == (500, 384, 6, [])
    assert all(seen[name].startswith(folder) for name in ("temporary", "home", "here"))
    assert lines[1] == "000000000000"


def test_a_document_of_our_own(emulator: RunningEmulator, host: str) -> None:
    ssm, job = emulator.client("ssm"), {"work_dir": WORK, "facts": {}}
    content = {
        "schemaVersion": "2.2",
        "parameters": {
            "Job": {"type": "String", "allowedPattern": "^[A-Za-z0-9+/]+={0,2}$", "maxChars": 100},
            "KeepHost": {"type": "String", "allowedValues": ["no", "yes"], "default": "no"},
        },
        "mainSteps": [
            {
                "action": "aws:runShellScript",
                "name": "Compile",
                "inputs": {
                    "timeoutSeconds": "30",
                    "runCommand": ["#!/bin/bash", f"echo {WORK} '{{{{ KeepHost }}}}'", "echo {{Job}} | base64 -d",
                                   "for n in 1 2 3; do echo line $n; sleep 0.4; done; echo wrong >&2; exit 3"],
                },
            }
        ],
    }  # fmt: skip
    ssm.create_document(Name="compile", DocumentType="Command", Content=json.dumps(content))
    request = {
        "DocumentName": "compile",
        "InstanceIds": [host],
        "CloudWatchOutputConfig": {"CloudWatchOutputEnabled": True, "CloudWatchLogGroupName": "output"},
    }
    encoded = base64.b64encode(json.dumps(job).encode()).decode()
    for parameters, problem in (
        ({}, "Job is missing"),
        ({"Job": ["x; rm"]}, "allowed pattern"),
        ({"Job": [encoded], "KeepHost": ["maybe"]}, "invalid value"),
        ({"Job": [encoded], "Other": ["x"]}, "does not support parameters"),
        ({"Job": ["A" * 104]}, "104 characters"),
    ):
        with pytest.raises(ClientError, match=problem) as refused:
            ssm.send_command(**request, Parameters=parameters)
        assert refused.value.response["Error"]["Code"] == "InvalidParameters"
    with pytest.raises(ssm.exceptions.InvalidDocument):
        ssm.send_command(DocumentName="unknown", InstanceIds=[host])
    with pytest.raises(ssm.exceptions.InvalidInstanceId):
        ssm.send_command(DocumentName="compile", InstanceIds=["i-0123456789abcdef0"], Parameters={"Job": [encoded]})

    command = ssm.send_command(**request, Parameters={"Job": [encoded]})["Command"]
    assert (command["Status"], command["Parameters"]) == ("Pending", {"Job": [encoded]})
    wait_until(lambda: ssm.list_commands(CommandId=command["CommandId"])["Commands"][0]["Status"] == "Failed")
    found = invocation(emulator, command["CommandId"], host)
    assert (found["StatusDetails"], found["ResponseCode"]) == ("Failed", 3)
    folder = on_host(emulator, host)["folder"]
    lines = found["StandardOutputContent"].splitlines()
    assert lines[0] == f"{folder}{WORK} no"
    assert json.loads(lines[1].removesuffix("line 1"))["work_dir"] == folder + WORK
    assert found["StandardErrorContent"] == "wrong\n"
    (listed,) = ssm.list_command_invocations(CommandId=command["CommandId"], Details=True)["CommandInvocations"]
    assert listed["CommandPlugins"][0]["ResponseCode"] == 3
    stream = f"{command['CommandId']}/{host}/aws-runShellScript/stdout"
    events = emulator.client("logs").get_log_events(logGroupName="output", logStreamName=stream)["events"]
    assert [event["message"] for event in events][-2:] == ["line 2", "line 3"]


def test_a_script_that_takes_too_long_is_ended(emulator: RunningEmulator, host: str) -> None:
    sent = emulator.client("ssm").send_command(
        DocumentName="AWS-RunShellScript",
        InstanceIds=[host],
        Parameters={"commands": ["sleep 60"], "executionTimeout": ["1"]},
    )
    command = sent["Command"]["CommandId"]
    wait_until(lambda: invocation(emulator, command, host)["Status"] == "TimedOut")
    assert invocation(emulator, command, host)["StatusDetails"] == "ExecutionTimedOut"


def test_a_command_is_cancelled(emulator: RunningEmulator, host: str) -> None:
    command = send(emulator, host, "trap 'echo bye; exit 143' TERM; echo begun; sleep 60 & wait")
    wait_until(lambda: on_host(emulator, host)["processes"])
    time.sleep(0.5)
    emulator.client("ssm").cancel_command(CommandId=command)
    wait_until(lambda: invocation(emulator, command, host)["Status"] == "Cancelled")
    assert invocation(emulator, command, host)["StandardOutputContent"] == "begun\nbye\n"
    assert on_host(emulator, host)["processes"] == []


def test_termination_kills_everything_on_a_host(emulator: RunningEmulator, host: str) -> None:
    script = (
        LOGIN
        + f"docker pull -q {IMAGE}\nsetsid sleep 60 &\n"
        + (f"docker run --name sleeper --entrypoint python3 {IMAGE} -c 'import time; time.sleep(60)' & wait")
    )
    command = send(emulator, host, script)
    wait_until(lambda: any("time.sleep(60)" in row["command"] and "docker" not in row["command"]
                           for row in on_host(emulator, host)["processes"]), 30)  # fmt: skip
    pids = [row["pid"] for row in on_host(emulator, host)["processes"]]
    emulator.client("ec2").terminate_instances(InstanceIds=[host])
    assert on_host(emulator, host)["processes"] == []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    # Nobody is left to report what became of it.
    assert invocation(emulator, command, host)["Status"] == "InProgress"
    assert ping(emulator, host) is None
    with pytest.raises(ClientError, match="InvalidInstanceId"):
        send(emulator, host, "true")


def test_a_shutdown_ends_the_instance(emulator: RunningEmulator, host: str) -> None:
    run(emulator, host, "shutdown -P +1 'the job ended'")
    wait_until(lambda: describe(emulator, host)["State"]["Name"] == "terminated", 5)
    assert describe(emulator, host)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_an_agent_that_never_comes(
    emulator: RunningEmulator, launch: Callable[..., dict[str, Any]], faults: Callable[..., None]
) -> None:
    faults(agent="never")
    instance_id = launch()["InstanceId"]
    time.sleep(1)
    assert ping(emulator, instance_id) is None
    with pytest.raises(ClientError, match="not in a valid state"):
        send(emulator, instance_id, "true")


def test_an_agent_that_is_lost_reports_when_it_is_back(
    emulator: RunningEmulator, host: str, faults: Callable[..., None]
) -> None:
    command = send(emulator, host, "sleep 1; echo done")
    wait_until(lambda: invocation(emulator, command, host)["Status"] == "InProgress")
    faults(agent="lost")
    assert ping(emulator, host) == "ConnectionLost"
    time.sleep(1.5)
    assert invocation(emulator, command, host)["Status"] == "InProgress"
    faults()
    wait_until(lambda: invocation(emulator, command, host)["Status"] == "Success")


METADATA = """
token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' \
  "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/api/token")
ask() {
  curl -s -o - -w ' %{http_code}\\n' -H "X-aws-ec2-metadata-token: $token" \
    "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/meta-data/$1"
}
ask instance-id; ask spot/instance-action
curl -s -o /dev/null -w '%{http_code}\\n' "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/meta-data/instance-id"
"""


def test_a_spot_host_gets_notice(
    emulator: RunningEmulator, launch: Callable[..., dict[str, Any]], faults: Callable[..., None]
) -> None:
    instance = launch(InstanceMarketOptions={"MarketType": "spot"})
    instance_id = instance["InstanceId"]
    assert instance["InstanceLifecycle"] == "spot"
    wait_until(lambda: ping(emulator, instance_id) == "Online")
    quiet = run(emulator, instance_id, METADATA)["StandardOutputContent"].splitlines()
    assert quiet == [f"{instance_id} 200", " 404", "401"]
    faults(spot="notice")
    noticed = run(emulator, instance_id, METADATA)["StandardOutputContent"].splitlines()[1]
    assert noticed.endswith(" 200")
    assert json.loads(noticed.removesuffix(" 200"))["action"] == "terminate"


def test_images_need_a_login_and_exist(emulator: RunningEmulator, host: str, faults: Callable[..., None]) -> None:
    found = run(emulator, host, f"docker pull {IMAGE}", status="Failed")
    assert "no basic auth credentials" in found["StandardErrorContent"]
    wrong = run(
        emulator, host, f"echo wrong | docker login --username AWS --password-stdin {REGISTRY}", status="Failed"
    )
    assert "401" in wrong["StandardErrorContent"]
    wrong = run(emulator, host, f"{LOGIN} docker pull {IMAGE}x", status="Failed")
    assert "manifest unknown" in wrong["StandardErrorContent"]
    faults(ecr_pull="denied")
    denied = run(emulator, host, f"{LOGIN} docker pull {IMAGE}", status="Failed")
    assert "pull access denied" in denied["StandardErrorContent"]
    faults()
    name = IMAGE.rpartition(":")[0]
    script = f"""{LOGIN}
docker image inspect --format '{{{{.Id}}}}' {IMAGE} && exit 1
docker pull --quiet {IMAGE} > /dev/null
by_digest=$(docker image inspect --format '{{{{index .RepoDigests 0}}}}' {IMAGE})
docker pull --quiet "$by_digest"
docker run --rm --entrypoint python3 "$by_digest" -c 'print("inside")'
docker rm --force unknown || echo not there
"""
    lines = run(emulator, host, script)["StandardOutputContent"].splitlines()
    assert lines[-3].startswith(f"{name}@sha256:")
    assert lines[-2:] == ["inside", "not there"]


def test_a_container_is_a_world_of_its_own(emulator: RunningEmulator, host: str) -> None:
    script = f"""{LOGIN} docker pull -q {IMAGE}
mkdir -p {WORK}/in; echo given > {WORK}/in/file
docker run --rm --entrypoint python3 --mount type=bind,source={WORK}/in,target=/in --env PLACE=/in/file {IMAGE} -c '
import os, sys
print(open(sys.argv[1]).read(), open(os.environ["PLACE"]).read(), sys.argv[2])
print(sorted(name for name in os.environ if name.startswith("AWS_")))' /in/file --name=/in/file/x
docker run --rm --entrypoint made-up {IMAGE} || echo status $?
docker run --rm --device=/dev/neuron6 --entrypoint python3 {IMAGE} || echo status $?
docker run --rm --gpus all --entrypoint python3 {IMAGE} || echo status $?
docker run --rm --made-up {IMAGE} || echo status $?
docker run --rm --entrypoint python3 {IMAGE} -c 'import sys; sys.exit(7)' || echo status $?
"""
    found = run(emulator, host, script)
    text = found["StandardOutputContent"]
    folder = on_host(emulator, host)["folder"]
    assert f"given\n given\n --name={folder}{WORK}/in/file/x" in text
    assert "[]" in text
    assert text.splitlines()[-5:] == [f"status {status}" for status in (127, 125, 125, 125, 7)]
    assert 'custom device "/dev/neuron6": no such file or directory' in found["StandardErrorContent"]
    record = [json.loads(line) for line in Path(folder, "containers.jsonl").read_text().splitlines()]
    assert [row["argv"][1] for row in record][:2] == ["login", "pull"]
    assert sum(row["argv"][1] == "run" for row in record) == 6


def test_a_container_is_removed_by_force(emulator: RunningEmulator, host: str) -> None:
    script = f"""{LOGIN} docker pull -q {IMAGE}
docker run --rm --init --name one --entrypoint python3 {IMAGE} -c 'import subprocess; subprocess.run(["sleep", "60"])' &
until docker ps --format '{{{{.Names}}}}' | grep -q one; do sleep 0.1; done
docker run --name one --entrypoint python3 {IMAGE} -c '' || echo conflict
kill -KILL $!; sleep 0.2
docker ps -q
docker rm --force one
docker ps -q
"""
    lines = run(emulator, host, script)["StandardOutputContent"].splitlines()
    assert lines[-3:] == ["conflict", "one", "one"]
    assert on_host(emulator, host)["processes"] == []


def test_an_export_in_a_container(emulator: RunningEmulator, host: str) -> None:
    found = run(emulator, host, f"{LOGIN} docker pull -q {IMAGE}\n{EXPORT}{EXPORT}")
    assert "Using a cached neff" in found["StandardOutputContent"]
    artifact = Path(on_host(emulator, host)["folder"] + WORK, "out", "artifact")
    assert json.loads((artifact / "config.json").read_text())["neuron"]["num_cores"] == 8
    assert (artifact / "checkpoint" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("oom", "[F137] neuronx-cc was forcibly killed"),
        ("disk-full", "No space left on device"),
        ("fail", "neuronx-cc failed with 70"),
    ],
)
def test_an_export_that_fails(
    emulator: RunningEmulator, host: str, faults: Callable[..., None], fault: str, message: str
) -> None:
    faults(export=fault)
    found = run(emulator, host, f"{LOGIN} docker pull -q {IMAGE}\n{EXPORT}", status="Failed")
    assert message in found["StandardErrorContent"]
    assert found["ResponseCode"] == (137 if fault == "oom" else 1)


def test_the_hub(emulator: RunningEmulator, host: str, faults: Callable[..., None]) -> None:
    prepare = f"{LOGIN} docker pull -q {IMAGE}\n"
    run(emulator, host, prepare + "TOKEN=hf_planted\n" + DOWNLOAD)
    weights = Path(on_host(emulator, host)["folder"] + WORK, "model", "model.safetensors")
    whole = weights.read_bytes()
    for given, token, message in (
        ({}, "", "GatedRepoError"),
        ({"hub": "gated"}, "hf_planted", "not in the authorized list"),
        ({"hub": "bad-token"}, "hf_planted", "Invalid credentials"),
        ({}, "wrong", "Invalid credentials"),
    ):
        faults(**given)
        found = run(emulator, host, f"TOKEN={token}\nrm -r {WORK}/model\n{DOWNLOAD}", status="Failed")
        assert message in found["StandardErrorContent"], (given, token)
    faults(corrupt="weights")
    run(emulator, host, f"TOKEN=hf_planted\nrm -r {WORK}/model\n{DOWNLOAD}")
    assert len(weights.read_bytes()) == len(whole)
    assert weights.read_bytes() != whole
    log = (emulator.state_dir / "logs" / "hub.jsonl").read_text()
    assert "hf_planted" not in log
    assert MIXTRAL in log


def test_files_of_the_hub_come_in_ranges(emulator: RunningEmulator) -> None:
    url = f"{emulator.url}/_modelzone/hub/any/model/resolve/{REVISION}/model.safetensors"
    with urllib.request.urlopen(url) as answer:
        whole = answer.read()
        assert answer.headers["X-Repo-Commit"] == REVISION
        assert answer.headers["X-Linked-Size"] == str(len(whole))
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=100-"})) as answer:
        assert answer.status == 206
        assert answer.read() == whole[100:]


def test_disk_and_devices_that_a_fault_takes(emulator: RunningEmulator, host: str, faults: Callable[..., None]) -> None:
    faults(disk_free_gib=3, devices=0)
    script = "python3 -c 'import shutil; print(shutil.disk_usage(\"/\").free // 2**30)'; neuron-ls || echo none"
    assert run(emulator, host, script)["StandardOutputContent"].split() == ["3", "none"]


def test_an_endpoint_takes_the_image_by_its_digest(emulator: RunningEmulator) -> None:
    ecr = emulator.client("ecr")
    name, _, tag = IMAGE.partition("/")[2].partition(":")
    (details,) = ecr.describe_images(registryId=REGISTRY[:12], repositoryName=name, imageIds=[{"imageTag": tag}])[
        "imageDetails"
    ]
    sagemaker = emulator.client("sagemaker")
    image = f"{REGISTRY}/{name}@{details['imageDigest']}"
    role = "arn:aws:iam::000000000000:role/endpoint"
    sagemaker.create_model(ModelName="digest", ExecutionRoleArn=role, PrimaryContainer={"Image": image})
    variant = {"VariantName": "all", "ModelName": "digest", "InitialInstanceCount": 1, "InstanceType": "ml.inf2.xlarge"}
    sagemaker.create_endpoint_config(EndpointConfigName="digest", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="digest", EndpointConfigName="digest")
    wait_until(lambda: sagemaker.describe_endpoint(EndpointName="digest")["EndpointStatus"] != "Creating")
    assert sagemaker.describe_endpoint(EndpointName="digest")["EndpointStatus"] == "InService"
    assert REGION in image
    sagemaker.delete_endpoint(EndpointName="digest")


def test_the_emulator_takes_its_hosts_with_it(tmp_path: Path) -> None:
    with running_emulator(tmp_path) as running:
        (instance,) = running.client("ec2").run_instances(
            ImageId="ami-0123456789abcdef0", InstanceType="inf2.xlarge", MinCount=1, MaxCount=1
        )["Instances"]
        wait_until(lambda: ping(running, instance["InstanceId"]) == "Online")
        send(running, instance["InstanceId"], "setsid sleep 60 & sleep 60")
        wait_until(lambda: len(on_host(running, instance["InstanceId"])["processes"]) >= 3)
        pids = [row["pid"] for row in on_host(running, instance["InstanceId"])["processes"]]
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)
