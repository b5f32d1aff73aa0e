"""The export stand-in: its arguments and the artifact's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelzone.local.model_server.export import SHIPPED_MODEL, main

ARGUMENTS = ["--batch_size", "1", "--sequence_length", "1024", "--auto_cast_type", "fp16", "--num_cores", "8"]


def test_the_layout_is_that_of_optimum_neuron_0_0_25(tmp_path: Path) -> None:
    assert main(["--model", "mistralai/Mixtral-8x7B-Instruct-v0.1", *ARGUMENTS, str(tmp_path / "out")]) == 0
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {
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


def test_an_export_from_a_folder_has_no_checkpoint_id(tmp_path: Path) -> None:
    arguments = ["--model", str(tmp_path), "--task", "text-generation", *ARGUMENTS]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    assert main([*arguments, str(tmp_path / "out")]) == 0  # again, over the first
    assert json.loads((tmp_path / "out" / "config.json").read_text())["neuron"]["checkpoint_id"] is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--auto_cast_type", "fp32"], "invalid choice: 'fp32'"),
        (["--batch_size", "0"], "0 is not a positive number"),
        (["--num_cores", "x"], "argument --num_cores"),
        (["--task", "fill-mask"], "invalid choice: 'fill-mask'"),
        (["--tensor_parallel_size", "8"], "unrecognized arguments"),
    ],
)
def test_arguments_are_checked_as_optimum_cli_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--model", "a/b", *ARGUMENTS, *changed, str(tmp_path / "out")])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--model", "./nowhere"], "--model ./nowhere: neither an existing folder nor an id of the hub"),
        (["--sequence_length", "40000"], "--sequence_length 40000: the stand-in model has 32768 positions"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: list[str], message: str
) -> None:
    assert main(["--model", "a/b", *ARGUMENTS, *changed, str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_shipped_model_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED_MODEL.iterdir()) <= 4.5e6
