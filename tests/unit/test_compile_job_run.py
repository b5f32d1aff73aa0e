"""The whole program as it is started on a host, with a stub for docker and a local S3."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest
from moto.server import ThreadedMotoServer

from compile_job.__main__ import main
from compile_job.job import artifact_prefix
from compiled_artifact.check import Order, check_artifact

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_" + "x" * 30
BUCKET = "models-bucket"
FACTS = {
    "engine": "tgi-neuronx",
    "engine_version": "0.0.25",
    "model_id": "acme/Tiny",
    "model_revision": "a" * 40,
    "instance_family": "inf2",
    "tensor_parallel_degree": "8",
    "batch_size": "1",
    "sequence_length": "1024",
    "dtype": "fp16",
}
PREFIX = artifact_prefix(FACTS)
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:2.1.2-optimum0.0.25"

# Written by the stub and by the stand-in for the export: a model of one file of weights.
EXPORT = """
import json, os, pathlib, shutil, sys
model, output = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
neuron = json.loads(os.environ["NEURON"])
if os.environ.get("EXPORT_FAILS"):
    print("ERROR: [F137] neuronx-cc was forcibly killed")
    sys.exit(70)
(output / "compiled").mkdir(parents=True)
(output / "compiled" / "graph.neff").write_bytes(b"neff" * 1000)
shutil.copytree(model, output / "checkpoint")
shutil.copy(model / "tokenizer.json", output)
(output / "config.json").write_text(json.dumps({"neuron": neuron}))
print("exported")
"""

DOCKER = """
import json, os, pathlib, subprocess, sys
log = pathlib.Path(os.environ["STUB_LOG"])
arguments = sys.argv[1:]
reads = "--password-stdin" in arguments or arguments[:1] == ["run"]
call = {"arguments": arguments, "stdin": sys.stdin.read() if reads else "", "environment": dict(os.environ)}
with log.open("a") as file:
    file.write(json.dumps(call) + chr(10))
if arguments[0] == "--config":
    arguments = arguments[2:]
image = log.with_name("image")
if arguments[:2] == ["image", "inspect"]:
    if not image.exists():
        sys.exit("Error: No such image")
    print("registry/tgi@sha256:feed")
elif arguments[0] == "pull":
    if os.environ.get("PULL_FAILS"):
        sys.exit("Error response from daemon: pull access denied for tgi")
    image.touch()
elif arguments[0] == "run":
    mounts = dict(
        reversed([part.partition("=")[2] for part in word.split(",")[1:]])
        for flag, word in zip(arguments, arguments[1:]) if flag == "--mount"
    )
    program = arguments[arguments.index("--entrypoint") + 1]
    if program == "python3":
        if os.environ.get("HUB_FAILS"):
            sys.exit("huggingface_hub.errors.GatedRepoError: 403. token was " + call["stdin"])
        weights = pathlib.Path(mounts["/modelzone/weights"])
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (weights / name).write_text(name)
        print("downloaded with " + call["stdin"])
        print("a" * 40)
    else:
        model, output = arguments[-2:]
        folder = pathlib.Path(mounts["/modelzone/output"])
        program = [sys.executable, os.environ["EXPORT"], mounts[model], folder / pathlib.Path(output).name]
        sys.exit(subprocess.run(program).returncode)
"""


class Host:
    """A compile host: a work folder, commands on the path, an S3 to publish to."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.export = folder / "export.py"
        self.export.write_text(EXPORT, encoding="utf-8")
        self.log = folder / "docker.log"
        commands = folder / "bin"
        commands.mkdir()
        docker = commands / "docker"
        docker.write_text(f"#!{sys.executable}\n{DOCKER}", encoding="utf-8")
        docker.chmod(docker.stat().st_mode | stat.S_IEXEC)
        self.neuron: dict[str, Any] = {
            "task": "text-generation",
            "batch_size": 1,
            "num_cores": 8,
            "auto_cast_type": "fp16",
            "sequence_length": 1024,
            "compiler_type": "neuronx-cc",
            "compiler_version": "2.15.128",
        }
        self.variables: dict[str, str] = {}
        self._base = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "STUB_LOG": str(self.log),
            "EXPORT": str(self.export),
        }
        self.secret_arn = ""

    def job(self, **overrides: Any) -> dict[str, Any]:
        return {
            "facts": FACTS,
            "bucket": BUCKET,
            "prefix": PREFIX,
            "image": IMAGE,
            "runner": "docker",
            "weights": {
                "source": "hub",
                "model_id": FACTS["model_id"],
                "revision": FACTS["model_revision"],
                "token_secret_arn": self.secret_arn,
            },
            "devices": 0,
            "export_command": ["optimum-cli", "export", "neuron", "--model", "{model}", "{output}"],
            "work_dir": str(self.folder / "work"),
            "min_free_gib": 0,
            "region": "us-east-1",
            **overrides,
        }

    def process_job(self, **overrides: Any) -> dict[str, Any]:
        weights = self.folder / "weights"
        weights.mkdir(exist_ok=True)
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (weights / name).write_text(name, encoding="utf-8")
        return self.job(
            runner="process",
            image="none",
            weights={"source": "directory", "path": str(weights)},
            export_command=["{python}", str(self.export), "{model}", "{output}"],
            **overrides,
        )

    def start(self, job: dict[str, Any]) -> subprocess.Popen[str]:
        """Start the program as it is started on a host."""
        command = [sys.executable, "-m", "compile_job", "--job", self._write(job)]
        return subprocess.Popen(
            command,
            env=self._environment(),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, job: dict[str, Any]) -> tuple[int, list[dict[str, Any]], str]:
        """Run the program in this process, which spares an interpreter and an import of boto3 each time."""
        output, errors = io.StringIO(), io.StringIO()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with (
                mock.patch.dict(os.environ, self._environment(), clear=True),
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(errors),
            ):
                status = main(["--job", self._write(job)])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self._ended(status, output.getvalue(), errors.getvalue())

    def run_process(self, job: dict[str, Any]) -> tuple[int, list[dict[str, Any]], str]:
        child = self.start(job)
        output, errors = child.communicate(timeout=60)
        return self._ended(child.returncode, output, errors)

    def _write(self, job: dict[str, Any]) -> str:
        path = self.folder / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        return str(path)

    def _environment(self) -> dict[str, str]:
        return {**self._base, "NEURON": json.dumps(self.neuron), **self.variables}

    def _ended(self, status: int, output: str, errors: str) -> tuple[int, list[dict[str, Any]], str]:
        self.output = output + errors
        return status, [json.loads(line) for line in output.splitlines() if line.startswith('{"time"')], errors

    def docker_calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    yield client
    client.close()


@pytest.fixture
def host(tmp_path: Path, endpoint: str, s3: Any) -> Host:
    del s3
    host = Host(tmp_path, endpoint)
    secrets = boto3.client(
        "secretsmanager",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    host.secret_arn = secrets.create_secret(Name=f"hub-{tmp_path.name}", SecretString=TOKEN + "\n")["ARN"]
    secrets.close()
    return host


def published(s3: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(s3.get_object(Bucket=BUCKET, Key=PREFIX + "manifest.json")["Body"].read())
    return found


def keys(s3: Any) -> set[str]:
    return {item["Key"].removeprefix(PREFIX) for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])}


def test_docker_job_publishes_the_artifact(host: Host, s3: Any) -> None:
    status, events, errors = host.run_process(host.job())

    assert (status, errors) == (0, "")
    assert [event["step"] for event in events if event["event"] == "end"] == [
        "look",
        "resources",
        "image",
        "weights",
        "export",
        "verify",
        "publish",
    ]
    assert all(event["seconds"] >= 0 for event in events if event["event"] == "end")
    manifest = published(s3)
    assert (manifest["format"], manifest["facts"]) == (1, FACTS)
    assert manifest["producer"] == {
        "tool": "compile_job",
        "image": IMAGE,
        "image_digest": "sha256:feed",
        "weights_revision": "a" * 40,
        "compiler": "neuronx-cc 2.15.128",
    }
    assert {item["path"] for item in manifest["objects"]} == keys(s3) - {"manifest.json"}
    for item in manifest["objects"]:
        raw = s3.get_object(Bucket=BUCKET, Key=PREFIX + item["path"])["Body"].read()
        assert (item["size"], item["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())


def test_manifest_is_what_the_deployment_checks(host: Host, s3: Any) -> None:
    host.run(host.job())
    order = Order(
        bucket=BUCKET,
        deployment="tiny",
        facts=FACTS,
        values={},
        min_instances=1,
        max_instances=1,
        instance_type="ml.inf2.24xlarge",
        allowed_degrees={"ml.inf2.24xlarge": (8,)},
        max_sequence_length=1024,
        max_input_tokens=512,
        compile_hint="",
    )

    assert check_artifact(order, s3=s3).s3_uri == f"s3://{BUCKET}/{PREFIX}"


def test_token_and_password_go_by_standard_input_only(host: Host) -> None:
    host.run(host.job())

    calls = host.docker_calls()
    seen = [call for call in calls if TOKEN in call["stdin"]]
    assert len(seen) == 1
    assert "python3" in seen[0]["arguments"]
    login = next(call for call in calls if "login" in call["arguments"])
    password = login["stdin"]
    assert password
    for secret in (TOKEN, password):
        for call in calls:
            assert secret not in json.dumps(call["arguments"])
            assert secret not in json.dumps(call["environment"])
        assert secret not in host.output
    assert "downloaded with ***" in host.output
    assert not list(host.folder.rglob("config.json.lock"))
    for path in host.folder.rglob("*"):
        if path.is_file() and path != host.log:
            assert TOKEN.encode() not in path.read_bytes(), path


def test_login_does_not_stay_on_the_host(host: Host) -> None:
    host.run(host.job())

    login = next(call for call in host.docker_calls() if "login" in call["arguments"])
    assert login["arguments"][:1] == ["--config"]
    assert login["arguments"][-1] == "763104351884.dkr.ecr.us-east-1.amazonaws.com"
    assert not Path(login["arguments"][1]).exists()


def test_image_of_another_registry_needs_no_login(host: Host) -> None:
    status, _, _ = host.run(host.job(image="ghcr.io/huggingface/neuronx-tgi:0.0.25"))

    assert status == 0
    assert not [call for call in host.docker_calls() if "login" in call["arguments"]]


def test_export_runs_in_the_serving_image_on_the_snapshot(host: Host) -> None:
    host.run(host.job())

    runs = [call["arguments"] for call in host.docker_calls() if call["arguments"][0] == "run"]
    export = runs[-1]
    at = export.index(IMAGE)
    assert export[at + 1 :] == [
        "export",
        "neuron",
        "--model",
        "/modelzone/weights",
        "/modelzone/output/" + PREFIX[-21:-1],
    ]
    assert export[export.index("--entrypoint") + 1] == "optimum-cli"
    assert "--rm" in export
    assert [call["arguments"] for call in host.docker_calls()][-1] == [
        "rm",
        "--force",
        "modelzone-export-" + PREFIX[-21:-1],
    ]


def test_published_artifact_is_done_at_once(host: Host, s3: Any) -> None:
    host.run(host.job())
    before = published(s3)
    host.log.unlink()

    status, events, _ = host.run(host.job())

    assert status == 0
    assert events[-1]["already"] is True
    assert not host.log.exists(), "docker was used although nothing was to be done"
    assert published(s3) == before


@pytest.mark.parametrize("change", ["delete", "truncate"])
def test_damaged_artifact_is_made_whole_again(host: Host, s3: Any, change: str) -> None:
    host.run(host.job())
    key = PREFIX + "compiled/graph.neff"
    if change == "delete":
        s3.delete_object(Bucket=BUCKET, Key=key)
    else:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")

    status, events, _ = host.run(host.job())

    assert status == 0
    (publish,) = (event for event in events if event.get("step") == "publish" and event["event"] == "end")
    assert publish["sent"] == 1, "objects that were whole were sent again"
    assert publish["objects"] == 6
    assert s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == 4000


def test_weights_are_downloaded_once(host: Host, s3: Any) -> None:
    host.run(host.job())
    s3.delete_object(Bucket=BUCKET, Key=PREFIX + "manifest.json")

    _, events, _ = host.run(host.job())

    (weights,) = (event for event in events if event.get("step") == "weights" and event["event"] == "end")
    assert weights["downloaded"] is False


def test_process_job_publishes_a_stand_in(host: Host, s3: Any) -> None:
    host.neuron["compiler_type"] = "cpu-stand-in"

    status, _, errors = host.run_process(host.process_job())

    assert (status, errors) == (0, "")
    assert published(s3)["producer"]["image"] == "none"
    assert not host.log.exists()


@pytest.mark.parametrize(
    ("variables", "neuron", "words"),
    [
        (
            {"EXPORT_FAILS": "1"},
            {},
            "step 'export' failed: the export ended with status 70: the host has too little memory",
        ),
        ({"PULL_FAILS": "1"}, {}, "step 'image' failed: pulling 7631"),
        (
            {"HUB_FAILS": "1"},
            {},
            f"step 'weights' failed: download of acme/Tiny at {'a' * 40} failed: accept the model's licence",
        ),
        (
            {},
            {"batch_size": 4},
            "step 'verify' failed: config.json: neuron.batch_size is 4, the job orders batch_size 1",
        ),
    ],
)
def test_failure_is_one_line_and_nothing_counts_as_published(
    host: Host, s3: Any, variables: dict[str, str], neuron: dict[str, Any], words: str
) -> None:
    host.variables.update(variables)
    host.neuron.update(neuron)

    status, events, errors = host.run(host.job())

    assert status == 1
    assert errors.count("\n") == 1
    assert errors.startswith("compile_job: step '")
    assert words in errors
    assert events[-1]["event"] == "failed"
    assert "manifest.json" not in keys(s3)
    assert TOKEN not in host.output
    assert "Traceback" not in host.output


def test_wrong_job_is_one_line(host: Host) -> None:
    status, _, errors = host.run_process(host.job(runner="podman"))

    assert status == 2
    assert errors.startswith("compile_job: wrong job: ")
    assert "'podman'" in errors
    assert errors.count("\n") == 1


def test_forbidden_bucket_ends_before_anything_is_done(host: Host) -> None:
    status, _, errors = host.run(host.job(bucket="another-bucket"))

    assert status == 1
    assert "step 'look' failed" in errors
    assert not host.log.exists()


def test_placeholder_in_the_secret_is_recognised(host: Host, endpoint: str) -> None:
    secrets = boto3.client(
        "secretsmanager",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    secrets.put_secret_value(SecretId=host.secret_arn, SecretString="generated-password")
    secrets.close()

    status, _, errors = host.run(host.job())

    assert status == 1
    assert "holds no token of the hub" in errors
    assert "generated-password" not in host.output


def test_too_small_a_host_is_refused(host: Host) -> None:
    disk = host.run(host.process_job(min_free_gib=10**6))[2]
    memory = host.run(host.process_job(min_memory_gib=10**6))[2]

    assert "needed are 1000000 GiB: give the host a larger volume" in disk
    assert "needed are 1000000 GiB: use a larger instance" in memory


def test_no_docker(host: Host) -> None:
    host.variables["PATH"] = str(host.folder / "nothing")

    assert "docker is not installed on this host" in host.run(host.job())[2]


SLOW = """
import pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[2]).parents[2]
child = subprocess.Popen(["sleep", "60"])
(folder / "pids").write_text(f"{child.pid}")
print("compiling", flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see whether processes are gone")
def test_sigterm_stops_everything_and_publishes_nothing(host: Host, s3: Any) -> None:
    host.export.write_text(SLOW, encoding="utf-8")
    child = host.start(host.process_job())
    pids = host.folder / "pids"
    deadline = time.monotonic() + 20
    while not (pids.exists() and pids.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, "the export did not start"
        time.sleep(0.05)

    child.send_signal(signal.SIGTERM)
    started = time.monotonic()
    output, errors = child.communicate(timeout=30)

    assert child.returncode == 143
    assert time.monotonic() - started < 5
    assert "stopped by a signal; nothing was published" in errors
    assert "Traceback" not in errors
    assert json.loads(output.splitlines()[-1])["event"] == "stopped"
    assert not is_running(int(pids.read_text(encoding="utf-8"))), "a compiler was left running"
    assert keys(s3) == set()


def python_3_10() -> str | None:
    """An interpreter of that version: on the path, or installed by pyenv, whose shims hide it."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = ["python3.10", *map(str, pyenv.glob("versions/3.10.*/bin/python3.10"))]
    for candidate in candidates:
        with contextlib.suppress(OSError):
            if not subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode:
                return candidate
    return None


def test_code_runs_on_python_3_10() -> None:
    """The hosts run Ubuntu 22.04."""
    interpreter = python_3_10()
    if interpreter is None:
        pytest.skip("no Python 3.10 on this machine")
    modules = (
        "import compile_job.job, compile_job.processes, compile_job.signatures, compile_job.container.hub_snapshot"
    )
    program = f"{modules}; from compile_job.events import emit; emit('x'); import compile_job.__main__ as m"

    done = subprocess.run(
        [interpreter, "-B", "-c", f"{program}; sys_exit = m.main(['--job', 'absent'])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    syntax = subprocess.run(
        [interpreter, "-c", "import ast, sys; [ast.parse(open(name).read()) for name in sys.argv[1:]]"]
        + [str(path) for path in (ROOT / "compile_job").rglob("*.py")],
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["event"] == "x"
    assert "wrong job: absent: cannot be read" in done.stderr
    assert syntax.returncode == 0
