"""A compile host for tests: real processes, a stub for docker that runs the container's programs here, a local S3."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from compile_job.__main__ import main
from compile_job.job import artifact_prefix

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_" + "x" * 30
BUCKET = "models-bucket"
COMMIT = "a" * 40
FACTS = {
    "engine": "tgi-neuronx",
    "engine_version": "0.0.25",
    "model_id": "acme/Tiny",
    "model_revision": COMMIT,
    "instance_family": "inf2",
    "tensor_parallel_degree": "8",
    "batch_size": "1",
    "sequence_length": "1024",
    "dtype": "fp16",
}
PREFIX = artifact_prefix(FACTS)
KEY = PREFIX.split("/")[-2]
MIRROR = f"weights/acme--tiny/{COMMIT}/"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:2.1.2-optimum0.0.25"
DIGEST = "sha256:" + "d" * 64
PARAMETER = f"/modelzone/dev/compile/progress/{KEY}"
CREDENTIALS = {"region_name": "us-east-1", "aws_access_key_id": "testing", "aws_secret_access_key": "testing"}

# The hub's client inside the image: what the container's program uses of it, in the way of huggingface_hub.
HUB_CLIENT = """
import hashlib, json, os, pathlib, time

FILES = pathlib.Path(os.environ["HUB_FILES"])
LOG = pathlib.Path(os.environ["HUB_LOG"])


class GatedRepoError(Exception):
    pass


class Sibling:
    def __init__(self, path):
        content = path.read_bytes()
        self.rfilename = path.relative_to(FILES).as_posix()
        self.size = len(content)
        self.blob_id = hashlib.sha1(b"blob %d\\0" % len(content) + content).hexdigest()
        large = self.rfilename.endswith((".safetensors", ".bin"))
        self.lfs = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} if large else None


class Info:
    sha = "a" * 40

    def __init__(self):
        self.siblings = [Sibling(path) for path in FILES.rglob("*") if path.is_file()]


class HfApi:
    def __init__(self, token=None):
        self.token = token

    def model_info(self, repository, revision, files_metadata):
        assert files_metadata
        with LOG.open("a") as log:
            log.write("list\\n")
        fails = os.environ.get("HUB_FAILS")
        if fails == "gated":
            raise GatedRepoError(f"403 Cannot access gated repo for url x; token was {self.token}")
        if fails == "bad-token":
            raise RuntimeError("401 Client Error. (Request ID: Root=1-65) Invalid credentials in Authorization header")
        return Info()


def hf_hub_download(repository, name, *, revision, local_dir, token):
    assert revision == Info.sha
    content = (FILES / name).read_bytes()
    if os.environ.get("HUB_CORRUPTS") == name:
        content = b"?" + content[1:]
    target = pathlib.Path(local_dir) / name
    part = pathlib.Path(local_dir) / ".cache" / "huggingface" / "download" / (name.replace("/", "-") + ".incomplete")
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        if os.environ.get("HUB_PAUSES") == name:
            pathlib.Path(os.environ["PAUSED"]).touch()
            time.sleep(60)
        file.write(content[len(content) // 2 :])
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)
    with LOG.open("a") as log:
        log.write(name + "\\n")
    print("got it with " + str(token))
"""

# Stands in for the compiler: optimum-neuron 0.0.25's layout.
EXPORT = """
import json, os, pathlib, shutil, struct, subprocess, sys, time
model, output, cache = map(pathlib.Path, sys.argv[1:4])
fails = os.environ.get("EXPORT_FAILS")
if fails:
    print(fails.partition("|")[2])
    sys.exit(int(fails.partition("|")[0]))
graph = cache / "graph.neff"
print("compiled before" if graph.exists() else "compiling", flush=True)
graph.write_bytes(b"neff" * 1000)
(cache / "graph.lock").touch()
if os.environ.get("EXPORT_PAUSES"):
    child = subprocess.Popen(["sleep", "60"])
    paused = pathlib.Path(os.environ["PAUSED"])
    paused.with_name("pid").write_text(str(child.pid))
    paused.touch()
    time.sleep(60)
(output / "compiled").mkdir(parents=True)
shutil.copy(graph, output / "compiled" / "graph.neff")
shutil.copytree(model, output / "checkpoint")
shutil.copy(model / "tokenizer.json", output)
(output / "config.json").write_text(json.dumps({"neuron": json.loads(os.environ["NEURON"])}))
if os.environ.get("EXPORT_TRUNCATES"):
    weights = output / "checkpoint" / "model-2.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
print("exported")
"""

DOCKER = """
import contextlib, json, os, pathlib, signal, subprocess, sys, time
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
    if os.environ.get("PULL_PAUSES"):
        pathlib.Path(os.environ["PAUSED"]).touch()
        time.sleep(60)
    if os.environ.get("PULL_FAILS"):
        sys.exit(os.environ["PULL_FAILS"])
    image.touch()
elif arguments[:2] == ["rm", "--force"]:
    pid = log.with_name(arguments[2] + ".pid")
    with contextlib.suppress(OSError):
        os.killpg(int(pid.read_text()), signal.SIGKILL)
        pid.unlink()
elif arguments[0] == "run":
    log.with_name(arguments[arguments.index("--name") + 1] + ".pid").write_text(str(os.getpgid(0)))
    mounts = dict(
        reversed([part.partition("=")[2] for part in word.split(",")[1:]])
        for flag, word in zip(arguments, arguments[1:]) if flag == "--mount"
    )
    def here(word):
        for target, source in mounts.items():
            word = word.replace(target, source)
        return word
    at = arguments.index(os.environ["IMAGE_RUN"])
    words = [here(word) for word in arguments[at + 1 :]]
    if arguments[arguments.index("--entrypoint") + 1] == "python3":
        environment = {**os.environ, "PYTHONPATH": os.environ["HUB_CLIENT"]}
        done = subprocess.run([sys.executable, "-S", *words], input=call["stdin"], text=True, env=environment)
        sys.exit(done.returncode)
    command = [sys.executable, "-S", os.environ["EXPORT"], words[-2], words[-1], mounts["/modelzone/cache"]]
    sys.exit(subprocess.run(command).returncode)
"""

NEURON_LS = """
import json, os
count = int(os.environ.get("DEVICES", "6"))
print(json.dumps([{"neuron_device": number, "nc_count": 2, "neuron_processes": []} for number in range(count)]))
"""


def safetensors(data: bytes) -> bytes:
    """A file with one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


class Host:
    """A compile host: a work folder, commands on the path, an S3 to publish to, a hub to download from."""

    def __init__(self, folder: Path, endpoint: str, secret_arn: str = "") -> None:
        self.folder = folder
        self.secret_arn = secret_arn
        self.log = folder / "docker.log"
        self.hub_log = folder / "hub.log"
        self.hub = folder / "hub"
        self.paused = folder / "paused"
        self.hub.mkdir()
        names = ("model-1.safetensors", "model-2.safetensors", "model-3.safetensors")
        for number, name in enumerate(names):
            (self.hub / name).write_bytes(safetensors(bytes([number]) * 5000))
        for name in ("config.json", "tokenizer.json"):
            (self.hub / name).write_text(json.dumps({"name": name}), encoding="utf-8")
        index = {"weight_map": {f"layer.{number}": name for number, name in enumerate(names)}}
        (self.hub / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        (self.hub / "README.md").write_text("not wanted", encoding="utf-8")
        client = folder / "client" / "huggingface_hub.py"
        client.parent.mkdir()
        client.write_text(HUB_CLIENT, encoding="utf-8")
        export = folder / "export.py"
        export.write_text(EXPORT, encoding="utf-8")
        self.commands = folder / "bin"
        self.commands.mkdir()
        self.command("docker", DOCKER)
        self.command("neuron-ls", NEURON_LS)
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
            "PATH": f"{self.commands}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            # Nothing listens there.
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9",
            "STUB_LOG": str(self.log),
            "HUB_LOG": str(self.hub_log),
            "HUB_FILES": str(self.hub),
            "HUB_CLIENT": str(client.parent),
            "EXPORT": str(export),
            "PAUSED": str(self.paused),
            "IMAGE_RUN": f"{IMAGE.rpartition(':')[0]}@{DIGEST}",
        }
        self.output = ""

    def command(self, name: str, text: str) -> None:
        path = self.commands / name
        path.write_text(f"#!{sys.executable} -S\n{text}", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)

    def job(self, **overrides: Any) -> dict[str, Any]:
        return {
            "facts": FACTS,
            "bucket": BUCKET,
            "prefix": PREFIX,
            "image": IMAGE,
            "image_digest": DIGEST,
            "accelerator": "neuron",
            "devices": 6,
            "layout": "neuron-config-key",
            "weights": {
                "source": "hub",
                "model_id": FACTS["model_id"],
                "revision": FACTS["model_revision"],
                "token_secret_arn": self.secret_arn,
            },
            "export_command": ["optimum-cli", "export", "neuron", "--model", "{model}", "{output}"],
            "work_dir": str(self.folder / "work"),
            "min_free_gib": 0,
            "region": "us-east-1",
            "progress_parameter": PARAMETER,
            **overrides,
        }

    def start(self, job: dict[str, Any]) -> subprocess.Popen[str]:
        """Start the program as it is started on a host."""
        self.paused.unlink(missing_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "compile_job", "--job", self._write(job)],
            env=self.environment(),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_paused(self, child: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 40
        while not self.paused.exists():
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline, "it did not get there"
            time.sleep(0.02)

    def run(self, job: dict[str, Any]) -> tuple[int, list[dict[str, Any]], str]:
        """Run the program in this process, which spares an interpreter and an import of boto3 each time."""
        output, errors = io.StringIO(), io.StringIO()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with (
                mock.patch.dict(os.environ, self.environment(), clear=True),
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(errors),
            ):
                status = main(["--job", self._write(job)])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self.ended(status, output.getvalue(), errors.getvalue())

    def run_process(self, job: dict[str, Any]) -> tuple[int, list[dict[str, Any]], str]:
        child = self.start(job)
        output, errors = child.communicate(timeout=60)
        return self.ended(child.returncode, output, errors)

    def ended(self, status: int, output: str, errors: str) -> tuple[int, list[dict[str, Any]], str]:
        self.output = output + errors
        return status, [json.loads(line) for line in output.splitlines() if line.startswith('{"time"')], errors

    def environment(self) -> dict[str, str]:
        return {**self._base, "NEURON": json.dumps(self.neuron), **self.variables}

    def docker_calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def downloads(self) -> list[str]:
        """What was asked of the hub, in order: "list", and files that were downloaded to their end."""
        return self.hub_log.read_text(encoding="utf-8").split() if self.hub_log.exists() else []

    def _write(self, job: dict[str, Any]) -> str:
        path = self.folder / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        return str(path)


def step_end(events: list[dict[str, Any]], step: str) -> dict[str, Any]:
    """The event of a step's end."""
    (found,) = (event for event in events if event.get("step") == step and event["event"] == "end")
    return found


def keys(s3: Any, prefix: str = PREFIX) -> set[str]:
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {item["Key"].removeprefix(prefix) for item in found}


def manifest_of(s3: Any, prefix: str = PREFIX) -> dict[str, Any]:
    """The manifest, after every object that it lists was compared with it."""
    found: dict[str, Any] = json.loads(s3.get_object(Bucket=BUCKET, Key=prefix + "manifest.json")["Body"].read())
    assert {item["path"] for item in found["objects"]} <= keys(s3, prefix) - {"manifest.json"}
    for item in found["objects"]:
        raw = s3.get_object(Bucket=BUCKET, Key=prefix + item["path"])["Body"].read()
        assert (item["size"], item["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
    return found
