"""The export stand-in against optimum-neuron itself: the options it takes, and the files that the real one names."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from contract.wheels import read_wheel, wheel_path

from modelzone.local.model_server import export

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "optimum-neuron"
LATER = [version for version in export.VERSIONS if not version.startswith("0.0.")]
# What docker was asked to run in a container, as `containers.jsonl` of an emulated host has it.
RECORDED = {
    "0.0.25": "--model /modelzone/weights --task text-generation --batch_size 1 --sequence_length 1024 "
    "--auto_cast_type fp16 --num_cores 8 /modelzone/output/artifact",
    "0.0.28": "--model /modelzone/weights --task text-generation --batch_size 4 --sequence_length 4096 "
    "--auto_cast_type bf16 --num_cores 24 /modelzone/output/artifact",
    "0.3.0": "--model /modelzone/weights --task text-generation --batch_size 1 --sequence_length 1024 "
    "--auto_cast_type fp16 --num_cores 8 /modelzone/output/artifact",
    "0.4.4": "--model /modelzone/weights --task text-generation --batch_size 1 --sequence_length 1024 "
    "--torch_dtype float16 --tensor_parallel_size 8 --instance_type inf2 /modelzone/output/artifact",
    "0.4.5": "--model /modelzone/weights --task text-generation --batch_size 1 --sequence_length 1024 "
    "--torch_dtype bfloat16 --tensor_parallel_size 24 --instance_type inf2 /modelzone/output/artifact",
}


@cache
def recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_optimum_options", ROOT / "tools/record_optimum_options.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def real_parser(version: str) -> argparse.ArgumentParser:
    wheel_path(PACKAGE, version)  # skips without a network
    parser: argparse.ArgumentParser = recorder().real_parser(version)
    return parser


@pytest.mark.parametrize("version", export.VERSIONS)
def test_the_record_is_what_the_real_parser_has(version: str) -> None:
    record = json.loads(recorder().RECORD.read_text())["versions"]
    assert record[version] == recorder().recorded(real_parser(version)), "run: python tools/record_optimum_options.py"


@pytest.mark.parametrize("version", export.VERSIONS)
def test_the_stand_in_reads_a_command_line_as_the_real_one(version: str) -> None:
    words = RECORDED[version].split()
    real = vars(real_parser(version).parse_args(words))
    own = vars(export.export_parser(version, device=False).parse_args(words))
    assert own == real


@pytest.mark.parametrize("version", export.VERSIONS)
@pytest.mark.parametrize(
    "more",
    [["--revision", "x"], ["--auto_cast_type", "fp32"], ["--torch_dtype", "fp16"], ["--batch_size", "x"], ["two"],
     ["--instance_type", "inf9"]],
    ids=" ".join,
)  # fmt: skip
def test_the_stand_in_refuses_what_the_real_one_refuses(
    version: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*RECORDED[version].split(), *more]
    for parser in (real_parser(version), export.export_parser(version, device=False)):
        with pytest.raises((SystemExit, argparse.ArgumentError)):
            parser.parse_args(words)
    capsys.readouterr()


def keywords_of_neuron_config(version: str) -> set[str]:
    tree = ast.parse(read_wheel(PACKAGE, version, "optimum/neuron/models/inference/backend/config.py"))
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "NxDNeuronConfig")
    init = next(node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return {argument.arg for argument in init.args.args} - {"self"}


@pytest.mark.parametrize("version", LATER)
def test_every_key_of_the_neuron_config_is_a_real_one(version: str, tmp_path: Path) -> None:
    words = RECORDED[version].replace("/modelzone/weights", str(tmp_path)).split()
    assert export.main([*words[:-1], str(tmp_path / "out")], version=version) == 0
    written: dict[str, Any] = json.loads((tmp_path / "out" / "neuron_config.json").read_text())
    added = {"_serialized_key", "optimum_neuron_version", "neuronxcc_version"}
    assert set(written) - added <= keywords_of_neuron_config(version)
    assert added <= set(written)


@pytest.mark.parametrize("version", LATER)
def test_the_files_have_the_names_that_the_real_one_gives_them(version: str) -> None:
    source = read_wheel(PACKAGE, version, "optimum/neuron/models/inference/backend/pretrained_model.py")
    for name in ("model.pt", "checkpoint", "sharded_checkpoint.safetensors"):
        assert name in source
