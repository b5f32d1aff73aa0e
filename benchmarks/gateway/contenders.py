"""The proxies that are compared, each as its makers start it, in one process, over the same fake endpoint."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from tests.gateway.api_gateway import CONTEXT_HEADER, request_context
from tests.gateway.places import PINS, made_environment
from tests.gateway.proxy import environment, free_port, running_process, running_proxy

__all__ = ["Contender", "Import", "Running", "contenders", "direct"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENDPOINT = "endpoint-vllm"
UPSTREAM_PATH = f"/endpoints/{ENDPOINT}/invocations"
CHAT_PATH = "/v1/chat/completions"
# Starlette imports it where it is installed. Tests have it installed; the function's package has it not.
_NOT_SHIPPED = "import sys; sys.modules.update(dict.fromkeys(('python_multipart', 'multipart')))"


@dataclass(frozen=True, kw_only=True)
class Import:
    """What a fresh process must import before it can serve."""

    python: Path
    program: str
    variables: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where it answers; `pid` is None for the endpoint itself."""

    url: str
    pid: int | None


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A proxy: how it is started, how it is asked, and what a cold start of it imports."""

    name: str
    start: Callable[[str], AbstractContextManager[Running]]
    headers: Mapping[str, str] = field(default_factory=dict)
    whole_path: str = CHAT_PATH
    stream_path: str = CHAT_PATH
    whole_model: str = "vllm"
    stream_model: str = "vllm"
    cold: Import | None = None


def _aws(url: str) -> dict[str, str]:
    return {name: value for name, value in environment(url).items() if name.startswith("AWS_")}


@contextlib.contextmanager
def _direct(aws_url: str) -> Iterator[Running]:
    yield Running(url=aws_url, pid=None)


def direct() -> Contender:
    """The endpoint without a proxy: what all the others are measured above."""
    return Contender(
        name="direct",
        start=_direct,
        headers={"authorization": "AWS4-HMAC-SHA256 Credential=benchmark"},
        whole_path=UPSTREAM_PATH,
        stream_path=f"{UPSTREAM_PATH}-response-stream",
    )


def relay(folder: Path) -> Contender:
    """A bare relay of bytes: the least that one more process in between costs on this machine."""

    @contextlib.contextmanager
    def start(aws_url: str) -> Iterator[Running]:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.gateway.relay", str(port), str(urlsplit(aws_url).port)]
        output = folder / "relay.log"
        with running_process(command, {"PYTHONPATH": str(ROOT)}, output=output, port=port, health="/health") as pid:
            yield Running(url=f"http://127.0.0.1:{port}", pid=pid)

    return replace(direct(), name="bare relay", start=start)


def ours() -> Contender:
    """The proxy of this repository, started with its own run.sh."""

    @contextlib.contextmanager
    def start(aws_url: str) -> Iterator[Running]:
        with running_proxy(aws_url) as proxy:
            yield Running(url=proxy.url, pid=proxy.pid)

    return Contender(
        name="modelzone",
        start=start,
        headers={CONTEXT_HEADER: request_context("default")},
        cold=Import(
            python=ROOT / ".venv" / "bin" / "python",
            program=f"{_NOT_SHIPPED}; import invoke_proxy.app, invoke_proxy.server, uvicorn",
            variables={**environment("http://127.0.0.1:9"), "PYTHONPATH": str(ROOT / "lambda")},
        ),
    )


def litellm(folder: Path) -> Contender:
    """LiteLLM's proxy with its provider for SageMaker endpoints that speak OpenAI's chat (`sagemaker_chat`).

    The provider takes one URL for an endpoint, whether it streams or not, so there are two models. No keys, no
    database, no callbacks: authentication is not part of ours either.
    """
    python = made_environment(PINS / "litellm.txt")

    @contextlib.contextmanager
    def start(aws_url: str) -> Iterator[Running]:
        config = folder / "litellm.yaml"
        config.write_text(_litellm_config(aws_url), encoding="utf-8")
        port = free_port()
        command = [str(python.with_name("litellm")), "--config", str(config), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--num_workers", "1"]
        variables = {**_aws(aws_url), **_LITELLM_VARIABLES}
        output = folder / "litellm.log"
        with running_process(command, variables, output=output, port=port, health="/health/liveliness") as pid:
            yield Running(url=f"http://127.0.0.1:{port}", pid=pid)

    return Contender(
        name="LiteLLM proxy",
        start=start,
        whole_model="whole",
        stream_model="streamed",
        cold=Import(
            python=python,
            program="import litellm.proxy.proxy_server, uvicorn",
            variables={**_aws("http://127.0.0.1:9"), **_LITELLM_VARIABLES},
        ),
    )


_LITELLM_VARIABLES = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "CRITICAL",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    # Without this it wants a key of every request; in front of ours, API Gateway's authorizer does that.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}


def _litellm_config(aws_url: str) -> str:
    models = "".join(
        f"  - model_name: {name}\n    litellm_params:\n      model: sagemaker_chat/{ENDPOINT}\n"
        f"      sagemaker_base_url: {aws_url}{path}\n      aws_region_name: us-east-1\n"
        for name, path in (("whole", UPSTREAM_PATH), ("streamed", f"{UPSTREAM_PATH}-response-stream"))
    )
    return f"model_list:\n{models}litellm_settings:\n  telemetry: false\n  num_retries: 0\n  request_timeout: 480\n"


def common(folder: Path) -> Contender:
    """The common shape, under the uvicorn that its makers would take."""
    python = made_environment(PINS / "fastapi-boto3.txt")
    place = {"PYTHONPATH": str(HERE), "BENCHMARK_ENDPOINT": ENDPOINT}

    @contextlib.contextmanager
    def start(aws_url: str) -> Iterator[Running]:
        port = free_port()
        command = [str(python), "-m", "uvicorn", "common_shape:app", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--log-level", "warning", "--no-access-log"]
        output = folder / "common.log"
        variables = {**_aws(aws_url), **place}
        with running_process(command, variables, output=output, port=port, health="/health") as pid:
            yield Running(url=f"http://127.0.0.1:{port}", pid=pid)

    return Contender(
        name="FastAPI + boto3",
        start=start,
        cold=Import(
            python=python,
            program="import common_shape, uvicorn, uvicorn.protocols.http.auto, uvloop",
            variables={**_aws("http://127.0.0.1:9"), **place, "PATH": os.environ.get("PATH", "")},
        ),
    )


def contenders(folder: Path) -> Sequence[Contender]:
    """All of them; `folder` takes their configurations and logs."""
    return (relay(folder), ours(), litellm(folder), common(folder))
