"""Whatever stands on the command line: a documented status, one message, no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode
from modelzone.errors import ModelzoneError

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "plan", "cost", "params", "models", "engines", "instances", "environments", "profile", "add", "doctor", "log",
    "preflight", "keys", "create", "list", "rotate", "revoke", "default", "abcdefghij", "90d", "prices", "show",
    "refresh", "local", "up", "status", "chat", "down", "dev", "prod", "mixtral",
    "mixtral-8x7b-instruct", "batch_size=2", "batch_size=", "scaling.max_instances=4", "scaling=4", "environment.A=b",
    "MaxInstanceCount=0", "ModelId=x/y", "ml.inf2.48xlarge", "ml.g5.48xlarge", "tgi-neuronx", "lmi-vllm", "0.0.25",
    "us-east-1", "fp16", "awq", "0", "1", "4", "-1", "32768", "99999999999999999999", "1e9", "nan", "tokens", "hour",
    "config.json", "broken.json", "snapshot", "missing/file", "/", "", "-", "--", "=", "a.b=c",
    "deployment.mixtral.x=1",
    "deployment.mixtral.batch_size=2", "deployment.mixtral.scaling={", "\x00", "\x1b[31m", "ü", "\ud800", "'", '"',
    "{}",
]  # fmt: skip
OPTIONS = [
    "--json", "--help", "-h", "--version", "--project", "--search", "--by", "--limit", "--engine", "--engine-version",
    "--instance", "--tensor-parallel-degree", "--batch-size", "--sequence-length", "--dtype", "--quantization",
    "--region", "-c", "--context", "--markdown", "--compare", "--adapters", "--synth", "--family", "--name", "--hub-id",
    "--revision", "--license", "--gated", "--no-gated", "--force", "--dry-run", "--environment", "--prompt", "--model",
    "--system", "--temperature", "--max-tokens", "--continue", "--base-url", "--key-file", "--label", "--expires",
    "--tenant", "--grace", "--profile", "--endpoint-url", "--local", "--show-completion", "--nothing", "-x", "--json=1",
]  # fmt: skip
WORD = st.one_of(st.sampled_from(WORDS), st.sampled_from(OPTIONS), st.text(max_size=8))


@pytest.fixture(scope="module", autouse=True)
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of its own, nothing that reaches AWS, starts processes or leaves files elsewhere."""
    project = tmp_path_factory.mktemp("project")
    for folder in ("environments", "models"):
        shutil.copytree(ROOT / folder, project / folder)
    for name in ("cdk.json", "config.json"):
        (project / name).write_text("{}")
    (project / "broken.json").write_text("{")

    def refuse(*_: Any, **__: Any) -> Any:
        raise ModelzoneError("not in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("MODELZONE_LOCAL_STATE", str(project / "state"))
        patch.setattr("modelzone.local.main_job.run_main_job", refuse)
        patch.setattr("modelzone.local.processes.stop_everything", refuse)
        patch.setattr("modelzone.local.processes.running_emulator", lambda _: None)
        patch.setattr("modelzone.prices.refresh.refresh", refuse)
        patch.setenv("MODELZONE_API_KEY", "mz_key")
        patch.setattr("modelzone.doctor.preflight.aws_clients", refuse)
        patch.setattr("modelzone.client.transport.Transport.send", refuse)
        patch.setattr("boto3.client", refuse)
        patch.setattr("boto3.Session", refuse)
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("faults")))
        yield project


def check(words: list[str]) -> None:
    done = CliRunner().invoke(app, words, input="a log\n")
    assert isinstance(done.exception, SystemExit | None), words
    assert done.exit_code in set(ExitCode) - {ExitCode.FAULT}, (words, done.stderr)
    assert "Traceback" not in done.output
    options = words[: words.index("--")] if "--" in words else words
    # Behind an option that takes a value it is that value.
    asked = any(
        word == "--json" and not before.startswith("-") for before, word in zip(["", *options], options, strict=False)
    )
    if asked and not {"--help", "-h", "--version", "--show-completion"} & set(options):
        assert isinstance(json.loads(done.stdout), dict), words


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(WORD, max_size=7))
def test_any_words(words: list[str]) -> None:
    check(words)


VERBS = [
    ["plan"], ["plan", "mixtral-8x7b-instruct"], ["cost", "dev"], ["params", "dev", "mixtral"], ["models"], ["engines"],
    ["instances"], ["environments"], ["profile", "add", "config.json"], ["doctor", "log"], ["doctor", "preflight"],
    ["prices", "show"], ["local", "chat"], ["chat"], ["chat", "--base-url", "http://127.0.0.1:9"],
    ["keys", "create", "default"], ["keys", "list"], ["keys", "rotate", "abcdefghij"], ["keys", "revoke"],
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(VERBS), st.lists(WORD, max_size=5))
def test_any_words_behind_a_verb(verb: list[str], words: list[str]) -> None:
    check([*verb, *words])
