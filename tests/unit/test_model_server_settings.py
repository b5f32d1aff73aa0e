"""What the server refuses to start with, and what it takes from the environment."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelzone.errors import ModelzoneError
from modelzone.local.model_server.export import export
from modelzone.local.model_server.settings import read_settings

REQUIRED = {"HF_MODEL_ID": "/opt/ml/model", "MAX_BATCH_SIZE": "2"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    export(
        model="mistralai/Mixtral-8x7B-Instruct-v0.1",
        batch_size=2,
        sequence_length=128,
        auto_cast_type="fp16",
        num_cores=8,
        output=folder,
    )
    return folder


def refusal(environment: dict[str, str], folder: Path) -> str:
    with pytest.raises(ModelzoneError) as caught:
        read_settings(environment, folder)
    return str(caught.value)


def test_values_come_from_the_artifact_unless_the_environment_has_them(artifact: Path) -> None:
    settings = read_settings(REQUIRED, artifact)
    assert (settings.max_batch_size, settings.max_total_tokens, settings.max_input_tokens) == (2, 128, 64)
    assert settings.max_batch_prefill_tokens == 128
    assert (settings.max_concurrent_requests, settings.messages_api_enabled, settings.token_delay) == (128, False, 0)
    settings = read_settings(
        {
            **REQUIRED,
            "MAX_TOTAL_TOKENS": "128",
            "MAX_INPUT_TOKENS": "100",
            "MAX_BATCH_PREFILL_TOKENS": "100",
            "HF_NUM_CORES": "8",
            "HF_AUTO_CAST_TYPE": "fp16",
            "MAX_CONCURRENT_REQUESTS": "3",
            "MESSAGES_API_ENABLED": "true",
            "MODELZONE_LOCAL_TOKEN_DELAY_MS": "20",
        },
        artifact,
    )
    assert (settings.max_input_tokens, settings.max_batch_prefill_tokens) == (100, 100)
    assert (settings.max_concurrent_requests, settings.messages_api_enabled, settings.token_delay) == (3, True, 0.02)


@pytest.mark.parametrize("name", ["MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH"])
def test_both_names_of_the_input_limit_work_alone(artifact: Path, name: str) -> None:
    assert read_settings({**REQUIRED, name: "50"}, artifact).max_input_tokens == 50


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"MAX_BATCH_SIZE": "2"}, "HF_MODEL_ID must be set"),
        ({"HF_MODEL_ID": "", "MAX_BATCH_SIZE": "2"}, "HF_MODEL_ID must be set"),
        ({"HF_MODEL_ID": "/opt/ml/model"}, "MAX_BATCH_SIZE must be set to the model static batch size"),
        (
            {**REQUIRED, "MAX_INPUT_TOKENS": "100", "MAX_INPUT_LENGTH": "90"},
            (
                'Error: ArgumentValidation("Both `max_input_tokens` (100) and `max_input_length` (90) are set. '
                'Please define only `max_input_tokens` as `max_input_length is deprecated for naming consistency.")'
            ),
        ),
        (
            {**REQUIRED, "MAX_INPUT_TOKENS": "128"},
            'Error: ArgumentValidation("`max_input_tokens must be < `max_total_tokens`")',
        ),
        (
            {**REQUIRED, "MAX_INPUT_TOKENS": "100", "MAX_BATCH_PREFILL_TOKENS": "99"},
            'Error: ArgumentValidation("`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: 99 and 100")',
        ),
    ],
)
def test_the_containers_own_message_refuses_a_wrong_environment(
    artifact: Path, environment: dict[str, str], message: str
) -> None:
    assert refusal(environment, artifact) == message


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("MAX_BATCH_SIZE", "4", "MAX_BATCH_SIZE is 4 but the model was compiled with batch_size 2"),
        ("MAX_TOTAL_TOKENS", "256", "MAX_TOTAL_TOKENS is 256 but the model was compiled with sequence_length 128"),
        ("HF_AUTO_CAST_TYPE", "bf16", "HF_AUTO_CAST_TYPE is bf16 but the model was compiled with auto_cast_type fp16"),
        ("HF_NUM_CORES", "24", "HF_NUM_CORES is 24 but the model was compiled with num_cores 8"),
    ],
)
def test_a_value_that_differs_from_the_compiled_one_is_refused(
    artifact: Path, variable: str, value: str, problem: str
) -> None:
    message = refusal({**REQUIRED, variable: value}, artifact)
    assert message.startswith("Invalid neuron config and env. Config {'task': 'text-generation', 'batch_size': 2")
    assert message.splitlines()[1:] == [problem]


def test_a_hub_id_is_refused(artifact: Path) -> None:
    assert "would download it" in refusal({**REQUIRED, "HF_MODEL_ID": "mistralai/Mixtral-8x7B-v0.1"}, artifact)


def test_a_number_that_is_none_is_named(artifact: Path) -> None:
    message = refusal({**REQUIRED, "MAX_INPUT_TOKENS": "many"}, artifact)
    assert "invalid value 'many' for '--max-input-tokens <MAX_INPUT_TOKENS>'" in message


def test_an_artifact_without_weights_is_refused(artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(artifact, folder, ignore=shutil.ignore_patterns("checkpoint"))
    assert refusal(REQUIRED, folder) == "Unable to fetch the neuron model weights files."


def test_a_model_that_is_not_exported_is_refused(artifact: Path, tmp_path: Path) -> None:
    config = json.loads((artifact / "config.json").read_text())
    del config["neuron"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "no complete `neuron` key" in refusal(REQUIRED, tmp_path)
    assert "cannot be read" in refusal(REQUIRED, tmp_path / "nowhere")


def test_the_process_prints_the_message_and_ends_with_1(artifact: Path) -> None:
    command = [sys.executable, "-m", "modelzone.local.model_server", "--model-dir", str(artifact), "--port", "1"]
    done = subprocess.run(
        command, env={"HF_MODEL_ID": "/opt/ml/model"}, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr == "MAX_BATCH_SIZE must be set to the model static batch size\n"
    assert done.stdout == ""
