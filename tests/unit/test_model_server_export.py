"""The export stand-in: its arguments and the artifact's layout, version by version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from modelzone.local.model_server.export import SHIPPED_MODEL, VERSION_VARIABLE, VERSIONS, main

TASK = ["--task", "text-generation", "--batch_size", "1", "--sequence_length", "1024"]
ARGUMENTS = [*TASK, "--auto_cast_type", "fp16", "--num_cores", "8"]
LATER = [*TASK, "--torch_dtype", "bfloat16", "--tensor_parallel_size", "8", "--instance_type", "inf2"]


def arguments_of(version: str) -> list[str]:
    return LATER if version.startswith("0.4.") else ARGUMENTS


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_layout_is_that_of_optimum_neuron_0_0_25(tmp_path: Path) -> None:
    assert main(["--model", "mistralai/Mixtral-8x7B-Instruct-v0.1", *ARGUMENTS, str(tmp_path / "out")]) == 0
    assert files(tmp_path / "out") == {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "compiled/cpu-stand-in.neff",
        "checkpoint/config.json",
        "checkpoint/generation_config.json",
        "checkpoint/model.safetensors",
        "checkpoint/tokenizer.json",
        "checkpoint/tokenizer_config.json",
    }
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "mixtral"
    assert config["neuron"] == {
        "task": "text-generation",
        "batch_size": 1,
        "num_cores": 8,
        "auto_cast_type": "fp16",
        "sequence_length": 1024,
        "compiler_type": "cpu-stand-in",
        "compiler_version": "1",
        "checkpoint_id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "checkpoint_revision": None,
    }
    assert "not a compiled graph" in (tmp_path / "out" / "compiled" / "cpu-stand-in.neff").read_text()
    weights = (tmp_path / "out" / "checkpoint" / "model.safetensors").read_bytes()
    assert weights == (SHIPPED_MODEL / "model.safetensors").read_bytes()


@pytest.mark.parametrize("version", ["0.3.0", "0.4.4", "0.4.5"])
def test_the_layout_of_later_versions(tmp_path: Path, version: str) -> None:
    assert main(["--model", str(SHIPPED_MODEL), *arguments_of(version), str(tmp_path / "out")], version=version) == 0
    assert {"config.json", "neuron_config.json", "model.pt", "tokenizer.json"} <= files(tmp_path / "out")
    assert "neuron" not in json.loads((tmp_path / "out" / "config.json").read_text())
    neuron = json.loads((tmp_path / "out" / "neuron_config.json").read_text())
    assert (neuron["batch_size"], neuron["sequence_length"], neuron["tp_degree"]) == (1, 1024, 8)
    assert neuron["torch_dtype"] == ("bfloat16" if version.startswith("0.4.") else "float16")
    assert (neuron["optimum_neuron_version"], neuron["target"]) == (version, "trn1")
    shards = [load_file(path) for path in sorted((tmp_path / "out" / "checkpoint" / "weights").iterdir())]
    assert len(shards) == 8
    together = {name for shard in shards for name in shard}
    assert together == set(load_file(SHIPPED_MODEL / "model.safetensors"))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_export_from_a_folder_has_no_checkpoint_id(tmp_path: Path, version: str) -> None:
    arguments = ["--model", str(tmp_path), *arguments_of(version), str(tmp_path / "out")]
    assert main(arguments, version=version) == 0
    assert main(arguments, version=version) == 0  # again, over the first
    later = not version.startswith("0.0.")
    config = json.loads((tmp_path / "out" / ("neuron_config.json" if later else "config.json")).read_text())
    assert (config if later else config["neuron"])["checkpoint_id"] is None


def test_the_version_is_read_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERSION_VARIABLE, "0.4.5")
    assert main(["--model", str(tmp_path), *LATER, str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "neuron_config.json").exists()


@pytest.mark.parametrize(
    ("version", "changed", "message"),
    [
        ("0.0.25", ["--auto_cast_type", "fp32"], "invalid choice: 'fp32'"),
        ("0.0.25", ["--num_cores", "x"], "argument --num_cores"),
        ("0.0.25", ["--tensor_parallel_size", "8"], "unrecognized arguments"),
        ("0.0.28", ["--instance_type", "inf2"], "unrecognized arguments"),
        ("0.3.0", ["--revision", "main"], "unrecognized arguments"),
        ("0.4.5", ["--torch_dtype", "fp16"], "invalid choice: 'fp16'"),
        ("0.4.5", ["--instance_type", "inf3"], "invalid choice: 'inf3'"),
    ],
)
def test_arguments_are_checked_as_optimum_cli_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, changed: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--model", "a/b", *arguments_of(version), *changed, str(tmp_path / "out")], version=version)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_device_the_instance_type_has_to_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(tmp_path), *LATER[:-2], str(tmp_path / "out")]
    assert main(arguments, version="0.4.5", device=True) == 0
    with pytest.raises(SystemExit):
        main(arguments, version="0.4.5", device=False)
    assert "--instance_type" in capsys.readouterr().err
    assert main(["--model", str(tmp_path), *ARGUMENTS, str(tmp_path / "out")], version="0.0.25", device=False) == 1
    assert "only be exported on a neuron platform" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--model", "./nowhere"], "--model ./nowhere: neither an existing folder nor an id of the hub"),
        (["--sequence_length", "40000"], "--sequence_length 40000: the stand-in model has 32768 positions"),
        (["--batch_size", "0"], "--batch_size 0 is not a positive number"),
        (["--task", "fill-mask"], "--task fill-mask: the stand-in exports text-generation only"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: list[str], message: str
) -> None:
    assert main(["--model", "a/b", *ARGUMENTS, *changed, str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_version_that_is_not_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "a/b", *ARGUMENTS, str(tmp_path / "out")], version="9.9") == 1
    assert "known: 0.0.25, 0.0.28" in capsys.readouterr().err


def test_the_shipped_model_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED_MODEL.iterdir()) <= 4.5e6
