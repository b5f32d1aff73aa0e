"""What the emulator's integration tests share: the emulator as a process, and a tiny model server.

The other files import from here; the tests below are of these helpers.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import WaiterError

ACCOUNT = "000000000000"
REGION = "us-east-1"
IMAGE = (
    "763104351884.dkr.ecr.us-east-1.amazonaws.com/"
    "huggingface-pytorch-tgi-inference:2.1.2-optimum0.0.25-neuronx-py310-ubuntu22.04"
)
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60

FAKE_MODEL_SERVER = '''
"""A container: what it does is set by its environment, as ModelDataSource and Environment of a SageMaker model."""
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, port = Path(sys.argv[sys.argv.index("--model-dir") + 1]), int(sys.argv[sys.argv.index("--port") + 1])
print("started with", sorted(p.name for p in folder.rglob("*") if p.is_file()), flush=True)
if os.environ.get("FAKE_START") == "exit":
    sys.exit("the model does not fit")
ready_at = time.monotonic() + float(os.environ.get("FAKE_START_SECONDS", "0"))

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def answer(self, status, body, kind="application/json", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        healthy = os.environ.get("FAKE_START") != "never" and time.monotonic() >= ready_at
        self.answer(200 if healthy else 503, b"")
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = request.get("do", "echo")
        if kind == "exit":
            os._exit(3)
        if kind == "refuse":
            return self.answer(422, {"error": "too long", "error_type": "validation"})
        if kind == "stream":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for index in range(request["pieces"]):
                piece = b"data:%d\\n\\n" % index
                self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(piece), piece))
                self.wfile.flush()
                time.sleep(request.get("pause", 0))
            if not request.get("break"):
                self.wfile.write(b"0\\r\\n\\r\\n")
            else:
                self.close_connection = True
            return
        self.answer(200, {
            "echo": request, "version": os.environ.get("FAKE_VERSION"), "pid": os.getpid(),
            "files": {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()},
            "leaked": sorted(n for n in os.environ if n.startswith(("MINISTACK", "GATEWAY_PORT", "LAMBDA_EXEC"))),
            "attributes": self.headers.get("X-Amzn-SageMaker-Custom-Attributes"),
            "environment": {n: os.environ.get(n) for n in ("AWS_REGION", "PATH")},
        }, X_Amzn_SageMaker_Custom_Attributes="answered")

ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
'''


@dataclass(frozen=True, kw_only=True)
class RunningEmulator:
    """An emulator process and how to talk to it."""

    process: subprocess.Popen[bytes]
    port: int
    state_dir: Path
    clients: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, service: str) -> Any:
        if service not in self.clients:
            self.clients[service] = boto3.client(
                service,
                endpoint_url=self.url,
                region_name=REGION,
                aws_access_key_id=ACCOUNT,
                aws_secret_access_key="any",
                config=Config(retries={"max_attempts": 0}, read_timeout=60),
            )
        return self.clients[service]

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def processes(self, kind: str | None = None) -> list[dict[str, Any]]:
        found = self.get("/_modelzone/processes")["processes"]
        return [process for process in found if kind in (None, process["kind"])]

    def api(self, api_id: str, path: str, *, stage: str = "api") -> str:
        return f"{self.url}/_aws/execute-api/{api_id}/{stage}{path}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_emulator(folder: Path, *, environment: Mapping[str, str] | None = None) -> Iterator[RunningEmulator]:
    """Start an emulator whose model servers are the tiny one, and stop it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    server = folder / "fake_model_server.py"
    server.write_text(FAKE_MODEL_SERVER)
    port = free_port()
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelzone.local.emulator", "--port", str(port), "--state-dir", str(folder)],
            cwd=ROOT,
            env={
                **os.environ,
                "MODELZONE_MODEL_SERVER_COMMAND": json.dumps([sys.executable, str(server)]),
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    emulator = RunningEmulator(process=process, port=port, state_dir=folder)
    try:
        wait_until(lambda: process.poll() is not None or answers(emulator.url + "/_modelzone/health"), START_SECONDS)
        assert process.poll() is None, (folder / "output.txt").read_text()
        yield emulator
    finally:
        for client in emulator.clients.values():
            client.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def wait_until(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def zip_of(files: Mapping[str, str], *, executable: tuple[str, ...] = ()) -> bytes:
    """A deployment package."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o755 if name in executable else 0o644) << 16
            archive.writestr(entry, text)
    return buffer.getvalue()


class Stacks:
    """Deploys hand-written templates."""

    def __init__(self, emulator: RunningEmulator) -> None:
        self._api = emulator.client("cloudformation")

    def deploy(self, name: str, resources: Mapping[str, Any], **template: Any) -> dict[str, str]:
        """Create or update a stack, wait for it and return its outputs."""
        parameters = template.pop("parameters", {})
        request = {
            "StackName": name,
            "TemplateBody": json.dumps({"Resources": resources, **template}),
            "Capabilities": ["CAPABILITY_NAMED_IAM"],
            "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        }
        exists = name in {stack["StackName"] for stack in self._api.describe_stacks()["Stacks"]}
        getattr(self._api, "update_stack" if exists else "create_stack")(**request)
        waiter = self._api.get_waiter("stack_update_complete" if exists else "stack_create_complete")
        try:
            waiter.wait(StackName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300})
        except WaiterError as error:
            raise AssertionError(f"{error}: {self.failures(name)}") from error
        return self.outputs(name)

    def outputs(self, name: str) -> dict[str, str]:
        stack = self._api.describe_stacks(StackName=name)["Stacks"][0]
        return {row["OutputKey"]: row["OutputValue"] for row in stack.get("Outputs", [])}

    def status(self, name: str) -> str:
        return str(self._api.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"])

    def settled(self, name: str, *, seconds: float = 30) -> str:
        wait_until(lambda: not self.status(name).endswith("_IN_PROGRESS"), seconds)
        return self.status(name)

    def failures(self, name: str) -> list[str]:
        events = self._api.describe_stack_events(StackName=name)["StackEvents"]
        return [event["ResourceStatusReason"] for event in events if "FAILED" in event["ResourceStatus"]]

    def resources(self, name: str) -> dict[str, str]:
        rows = self._api.describe_stack_resources(StackName=name)["StackResources"]
        return {row["LogicalResourceId"]: row["PhysicalResourceId"] for row in rows}

    def delete(self, name: str) -> None:
        self._api.delete_stack(StackName=name)
        self._api.get_waiter("stack_delete_complete").wait(
            StackName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300}
        )


def output(value: Any) -> dict[str, Any]:
    return {"Value": value}


def attribute(resource: str, name: str) -> dict[str, Any]:
    return {"Fn::GetAtt": [resource, name]}


def test_a_package_keeps_the_executable_bit(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    package.write_bytes(zip_of({"run.sh": "#!/bin/sh\n", "a.py": ""}, executable=("run.sh",)))
    with zipfile.ZipFile(package) as archive:
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
    assert modes == {"run.sh": 0o755, "a.py": 0o644}


def test_nothing_answers_on_a_free_port() -> None:
    assert not answers(f"http://127.0.0.1:{free_port()}/_modelzone/health")
