"""The proxy as it is shipped: its own `run.sh`, in a process of its own, over the source tree."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.gateway.world import CACHE_TABLE, ENVIRONMENT, GATEWAY_PATH, REGISTRY_PATH

__all__ = ["RunningProxy", "environment", "free_port", "running_process", "running_proxy", "wait_for_port"]

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lambda" / "invoke_proxy"
START_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class RunningProxy:
    """A proxy that answers."""

    url: str
    pid: int
    output: Path

    def logged(self) -> str:
        """Return what the process has written so far."""
        return self.output.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(aws_url: str) -> dict[str, str]:
    """Return the function's environment variables, with the fake in AWS's place."""
    return {
        "MODELZONE_REGISTRY_PATH": REGISTRY_PATH,
        "MODELZONE_GATEWAY_PATH": GATEWAY_PATH,
        "MODELZONE_ENVIRONMENT": ENVIRONMENT,
        "MODELZONE_CACHE_TABLE": CACHE_TABLE,
        "AWS_ENDPOINT_URL": aws_url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_SESSION_TOKEN": "testing-session",
    }


@contextlib.contextmanager
def running_proxy(aws_url: str, *, variables: Mapping[str, str] | None = None) -> Iterator[RunningProxy]:
    """Start the proxy, wait until it answers, and end it afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        # The layout of the function's package: the launcher beside the module.
        place = Path(folder)
        (place / "invoke_proxy").symlink_to(PACKAGE, target_is_directory=True)
        (place / "run.sh").write_bytes((PACKAGE / "run.sh").read_bytes())
        (place / "run.sh").chmod(0o755)
        port = free_port()
        settings = {**environment(aws_url), "AWS_LWA_PORT": str(port), **(variables or {})}
        output = place / "output"
        with running_process([str(place / "run.sh")], settings, output=output, port=port, health="/health") as pid:
            yield RunningProxy(url=f"http://127.0.0.1:{port}", pid=pid, output=output)


@contextlib.contextmanager
def running_process(
    command: list[str], variables: Mapping[str, str], *, output: Path, port: int, health: str
) -> Iterator[int]:
    """Run a server until the block ends and yield its process id; it must answer on `port` first.

    Raises
    ------
    RuntimeError
        With the end of its output, when it ends or does not answer within 30 seconds.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MODELZONE_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}"
    settings = {**inherited, "PATH": path, **variables}
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, env=settings, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        if not wait_for_port(port, health, alive=lambda: process.poll() is None):
            text = output.read_text(encoding="utf-8", errors="replace")[-3000:]
            raise RuntimeError(f"{command[0]} does not answer on {health}:\n{text}")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_port(port: int, path: str, *, alive: Callable[[], bool]) -> bool:
    """Ask until there is an answer, 30 seconds at most."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and alive():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", path)
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            time.sleep(0.02)
        else:
            return alive()
        finally:
            connection.close()
    return False
