"""``python3 app.py`` as the CDK CLI runs it: offline, without credentials, strict, and readable when it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from infrastructure.support import CONTEXT, ROOT

PROXY = "http://127.0.0.1:9"  # the discard port: nothing listens


@cache
def _network_namespace() -> tuple[str, ...]:
    """A prefix that takes the network away, where the kernel lets a user do that."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    prefix = (unshare, "--user", "--map-root-user", "--net")
    probe = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    return prefix if probe.returncode == 0 else ()


def _run(
    folder: Path, *, context: dict[str, str] | None = None, validation: bool = False
) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "CDK_")) and "proxy" not in name.lower()
    }
    environment |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "HTTP_PROXY": PROXY,
        "HTTPS_PROXY": PROXY,
        "CDK_CONTEXT_JSON": json.dumps({**CONTEXT, **(context or {})}),
        "CDK_OUTDIR": str(folder),
    }
    if not validation:
        environment["CDK_VALIDATION"] = "false"
    return subprocess.run(
        [*_network_namespace(), sys.executable, "app.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    """Staged beforehand, as ``make`` does, so that synth needs no package index."""
    from zone_constructs import lambda_package  # noqa: PLC0415

    for name in lambda_package.PACKAGES:
        lambda_package.stage(name)


def test_synth_needs_no_network_and_no_credentials_and_passes_strict_validation(tmp_path: Path) -> None:
    assert CONTEXT["@aws-cdk/core:validateAgainstDefaultRules"] is True
    done = _run(tmp_path, validation=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "validation-report.json").read_text(encoding="utf-8"))
    assert [plugin for plugin in report["pluginReports"] if plugin["violations"]] == []
    assert (tmp_path / "InferentiaMixtralStack.template.json").is_file()
    assert "missing" not in json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))


def test_strict_validation_does_refuse(tmp_path: Path) -> None:
    """The engine runs: a template with an impossible property does not pass."""
    program = (
        "from aws_cdk import App, Stack, CfnResource\n"
        "app = App()\n"
        "CfnResource(Stack(app, 'S'), 'Q', type='AWS::SQS::Queue', properties={'VisibilityTimeout': 'x', 'No': 1})\n"
        "app.synth()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("CDK_")},
            "CDK_CONTEXT_JSON": json.dumps(CONTEXT),
            "CDK_OUTDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode != 0
    assert "VisibilityTimeout" in done.stderr + done.stdout


def test_the_environment_is_chosen_by_context(tmp_path: Path) -> None:
    done = _run(tmp_path, context={"environment": "prod"})
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["artifacts"]["NetworkStack"]["properties"]["stackName"] == "modelzone-prod-network"


def test_an_override_reaches_the_template(tmp_path: Path) -> None:
    done = _run(tmp_path, context={"deployment.mixtral.scaling.max_instances": "7"})
    assert done.returncode == 0, done.stderr
    template = json.loads((tmp_path / "InferentiaMixtralStack.template.json").read_text(encoding="utf-8"))
    (check,) = [r for r in template["Resources"].values() if r["Type"] == "Custom::CompiledArtifact"]
    assert check["Properties"]["Planned"]["MaxInstanceCount"] == "7"


def _override(**fields: str) -> dict[str, str]:
    return {f"deployment.mixtral.{name.replace('__', '.')}": value for name, value in fields.items()}


_GPU = {"engine": "lmi-vllm", "engine_version": "0.38.0", "instance_type": "ml.g6.12xlarge", "dtype": "bf16"}


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (
            _override(tensor_parallel_degree="4"),
            ["weights 21.75", "27.19 GiB of 16.00 GiB a NeuronCore", "ml.inf2.24xlarge with degree 8 ($7.79/h"],
        ),
        (
            _override(profile="llama-2-70b-chat", instance_type="ml.inf2.48xlarge", tensor_parallel_degree="8"),
            ["does not fit", "weights 16.0", "ml.inf2.48xlarge with degree 24"],
        ),
        (
            _override(profile="mistral-7b-instruct", engine_version="3.3.6"),
            ["'3.3.6' of tgi-neuronx cannot serve models of type mistral", "tgi-neuronx 0.0.25, 0.0.28"],
        ),
        (
            _override(profile="mistral-7b-instruct", **_GPU, tensor_parallel_degree="4", volume_size_gib="100"),
            ["100 cannot be set: SageMaker refuses a volume size for g6", "leave it out"],
        ),
        (
            _override(tensor_parallel_degree="12"),
            ["12 is not possible on ml.inf2.24xlarge", "1, 2, 4, 8 are possible here; use 8"],
        ),
        (
            _override(profile="mistral-7b-instruct", **_GPU, tensor_parallel_degree="12"),
            ["12 is not possible on ml.g6.12xlarge, which has 4 GPUs", "1, 2, 4"],
        ),
        (
            _override(
                profile="mistral-7b-instruct",
                instance_type="ml.inf2.xlarge",
                tensor_parallel_degree="2",
                sequence_length="32768",
                batch_size="32",
            ),
            ["KV cache 64.00", "use batch size 2 with this sequence length here"],
        ),
        (
            _override(environment__MAX_BATCH_SIZE="4"),
            ["environment.MAX_BATCH_SIZE", "'4'", "batch_size"],
        ),
        ({"environment": "prd"}, ["prd", "did you mean prod?"]),
        ({"deployment.mixtral.batch_size": "0"}, ["batch_size", "0", "at least 1"]),
        ({"deployment.mixtral.tensor_parallel_degree": "16"}, ["16", "1, 2, 4, 8 are possible here; use 8"]),
        ({"deployment.mixtral.instance_typ": "x"}, ["instance_typ", "did you mean instance_type?"]),
        ({"deployment.mistral.batch_size": "1"}, ["no deployment 'mistral'", "mixtral"]),
        ({"deploymnet.mixtral.batch_size": "1"}, ["is not an override", "deployment.<name>"]),
    ],
)
def test_a_refusal_is_one_message_and_nothing_is_written(
    tmp_path: Path, context: dict[str, str], words: list[str]
) -> None:
    done = _run(tmp_path, context=context)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert "fix: " in done.stderr
    assert len(done.stderr.splitlines()) <= 3
    for word in words:
        assert word in done.stderr
    assert not list(tmp_path.glob("*.template.json"))
