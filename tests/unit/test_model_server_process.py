"""The server as a process of its own: export, start, HTTP clients, limits, disconnections, stop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

PROMPT = "[INST] What is deep learning? [/INST]"
OTHER_PROMPT = "[INST] What is Modelzone? [/INST]"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts for batches of 1 and 2, made with the export's command line."""
    folder = tmp_path_factory.mktemp("artifacts")
    for batch_size in ("1", "2"):
        command = [sys.executable, "-m", "modelzone.local.model_server.export", "--model", "a/b"]
        command += ["--batch_size", batch_size, "--sequence_length", "1024", "--auto_cast_type", "fp16"]
        subprocess.run([*command, "--num_cores", "8", str(folder / batch_size)], check=True, timeout=30)
    return folder


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path

    def metric(self, name: str) -> float:
        lines = dict(line.rsplit(" ", 1) for line in self.client.get("/metrics").text.splitlines() if line[0] != "#")
        return float(lines.get(name, 0))

    @contextmanager
    def stream(self, **parameters: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """Ask for a stream; the events that can be read from it. Leaving the block closes the connection."""
        body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 200, **parameters}}
        with self.client.stream("POST", "/generate_stream", json=body) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            yield (json.loads(line.removeprefix("data:")) for line in lines if line)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s; log:\n{self.log.read_text()}"
            time.sleep(0.02)


@contextmanager
def serve(folder: Path, log: Path, **environment: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "modelzone.local.model_server", "--model-dir", str(folder), "--port", str(port)]
    given = {"HF_MODEL_ID": "/opt/ml/model", "MAX_BATCH_SIZE": folder.name, **environment}
    with log.open("wb") as output, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        process = subprocess.Popen(command, env={**os.environ, **given}, stdout=output, stderr=output)
        server = Server(process, client, log)

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return client.get("/ping").status_code == 200
            except httpx.TransportError:
                return False

        try:
            server.wait_for(answers)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=15)


@pytest.fixture(scope="module")
def server(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server at full speed."""
    with serve(artifacts / "1", tmp_path_factory.mktemp("server") / "log") as server:
        yield server


def test_an_exported_artifact_is_served(server: Server) -> None:
    body = {"inputs": PROMPT, "parameters": {"return_full_text": False, "details": True}}
    (answer,) = server.client.post("/invocations", json=body).json()
    assert answer["generated_text"].startswith(" Deep learning is a part of machine learning")
    assert answer["details"]["finish_reason"] == "eos_token"


def test_the_openai_client_works(server: Server) -> None:
    openai = pytest.importorskip("openai")
    messages = [{"role": "user", "content": "What is Modelzone?"}]
    with openai.OpenAI(base_url=f"{server.client.base_url}/v1", api_key="-", max_retries=0) as client:
        answer = client.chat.completions.create(model="tgi", messages=messages, temperature=0)
        assert answer.choices[0].message.content.startswith(" Modelzone is one AWS CDK application")
        chunks = list(client.chat.completions.create(model="tgi", messages=messages, temperature=0, stream=True))
        assert "".join(chunk.choices[0].delta.content for chunk in chunks) + "</s>" == answer.choices[0].message.content
        assert chunks[-1].choices[0].finish_reason == "eos_token"
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.chat.completions.create(model="tgi", messages=messages, temperature=-1)
        assert caught.value.response.json()["error_type"] == "validation"


def test_the_hugging_face_client_works(server: Server) -> None:
    hub = pytest.importorskip("huggingface_hub")
    client = hub.InferenceClient(base_url=str(server.client.base_url))
    answer = client.text_generation(OTHER_PROMPT, max_new_tokens=60, details=True, return_full_text=False)
    assert answer.generated_text.startswith(" Modelzone is one AWS CDK application")
    streamed = list(client.text_generation(OTHER_PROMPT, max_new_tokens=60, details=True, stream=True))
    assert "".join(event.token.text for event in streamed) == answer.generated_text
    assert streamed[-1].details.finish_reason == "eos_token"


def test_no_prompt_and_no_answer_reach_the_log(server: Server) -> None:
    server.client.post("/generate", json={"inputs": PROMPT})
    server.client.post("/generate", json={"inputs": PROMPT, "parameters": {"top_p": 2}})
    server.client.post("/generate", json={"inputs": PROMPT, "parameters": {"stop": PROMPT}})
    log = server.log.read_text()
    assert "Success" in log
    assert "`top_p` must be" in log
    assert "deep learning" not in log.lower()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from /proc")
def test_the_server_is_small(server: Server) -> None:
    server.client.post("/generate", json={"inputs": "x" * 500})
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    assert peak < 120 * 1024


def test_tokens_flow_as_they_are_made(artifacts: Path, tmp_path: Path) -> None:
    with (
        serve(artifacts / "1", tmp_path / "log", MODELZONE_LOCAL_TOKEN_DELAY_MS="50") as server,
        server.stream(max_new_tokens=12) as events,
    ):
        arrivals = [time.monotonic() for _ in events]
    assert len(arrivals) == 12
    assert arrivals[-1] - arrivals[0] > 10 * 0.05


@pytest.fixture
def slow(artifacts: Path, tmp_path: Path) -> Iterator[Server]:
    """A server with one slot and room for two requests, whose answers take 20 seconds and more."""
    environment = {"MODELZONE_LOCAL_TOKEN_DELAY_MS": "500", "MAX_CONCURRENT_REQUESTS": "2"}
    with serve(artifacts / "1", tmp_path / "log", **environment) as server:
        yield server


def test_a_reader_who_leaves_a_stream_frees_the_slot(slow: Server) -> None:
    with slow.stream() as events:
        assert next(events)["index"] == 1
        assert slow.metric("tgi_batch_current_size") == 1
    slow.wait_for(lambda: slow.metric("tgi_batch_current_size") == 0, seconds=3)
    assert slow.metric('tgi_request_failure{err="dropped"}') == 1


def test_a_caller_who_leaves_frees_the_slot(slow: Server) -> None:
    with pytest.raises(httpx.ReadTimeout):
        slow.client.post("/generate", json={"inputs": PROMPT}, timeout=1)
    slow.wait_for(lambda: slow.metric("tgi_batch_current_size") == 0, seconds=3)
    assert slow.metric('tgi_request_failure{err="dropped"}') == 1


def test_more_requests_than_slots_wait_and_more_than_that_are_refused(slow: Server) -> None:
    overloaded = {"error": "Model is overloaded", "error_type": "overloaded"}
    with slow.stream() as running:
        assert next(running)["index"] == 1
        with slow.stream():
            slow.wait_for(lambda: slow.metric("tgi_queue_size") == 1)
            assert slow.metric("tgi_batch_current_size") == 1
            refused = slow.client.post("/generate", json={"inputs": PROMPT})
            assert (refused.status_code, refused.json()) == (429, overloaded)
            with slow.stream() as refused_stream:
                assert list(refused_stream) == [overloaded]
        # The waiting reader has left: its place is free again, the running answer goes on.
        slow.wait_for(lambda: slow.metric("tgi_queue_size") == 0, seconds=3)
        with slow.stream():
            slow.wait_for(lambda: slow.metric("tgi_queue_size") == 1)
        assert slow.metric("tgi_batch_current_size") == 1


def test_a_batch_of_two_runs_two_at_once(artifacts: Path, tmp_path: Path) -> None:
    with (
        serve(artifacts / "2", tmp_path / "log", MODELZONE_LOCAL_TOKEN_DELAY_MS="200") as server,
        server.stream() as one,
        server.stream() as other,
    ):
        assert next(one)["index"] == next(other)["index"] == 1
        assert server.metric("tgi_batch_current_size") == 2
        assert server.metric("tgi_queue_size") == 0


def test_sigterm_stops_the_server_even_while_it_answers(slow: Server) -> None:
    with slow.stream() as events:
        assert next(events)["index"] == 1
        begun = time.monotonic()
        slow.process.terminate()
        assert slow.process.wait(timeout=10) == 0
        assert time.monotonic() - begun < 8
