"""``trt_llm_partition.py`` in a container: stands in for the script with which LMI compiles for TensorRT-LLM.

It takes the arguments of the image's version, reads ``serving.properties`` and writes that version's layout: 0.26.0
Triton's repository, 0.33.0 TensorRT-LLM's own folder. Nothing is compiled, and the artifact says so (``version``). No
server here reads it; what the job makes of it can be tested.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelzone.local.host.docker import IMAGE_VARIABLE
from modelzone.local.host.faults import Faults

__all__ = ["main", "read_properties"]

_FIRST = "0.26.0"
_VERSION = "cpu-stand-in 1"
_TORCH_NAMES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_MARKER = "This is not a compiled engine: it was made on the embedded AWS.\n"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_KILLED = 137


def main(arguments: list[str]) -> int:
    """Write the artifact and return the exit status."""
    image = os.environ.get(IMAGE_VARIABLE, "").rpartition("/")[2]
    version = image.partition(":")[2].partition("-")[0]
    if "tensorrtllm" not in image:
        sys.stderr.write(f"python: can't open file 'trt_llm_partition.py': the image {image} has none\n")
        return 2
    parser = argparse.ArgumentParser(prog="trt_llm_partition.py")
    parser.add_argument("--properties_dir", type=Path, required=True)
    parser.add_argument("--trt_llm_model_repo", type=Path, required=True)
    parser.add_argument("--tensor_parallel_degree", type=int, required=True)
    if version != _FIRST:
        parser.add_argument("--pipeline_parallel_degree", type=int, required=True)
    parser.add_argument("--model_path", type=Path)
    options = parser.parse_args(arguments)
    match Faults.of_host().export:
        case "oom":
            sys.stderr.write("Killed\n")
            return _KILLED
        case "disk-full":
            sys.stderr.write("OSError: [Errno 28] No space left on device\n")
            return 1
        case "fail":
            sys.stderr.write("RuntimeError: Assertion failed: engine build failed\n")
            return 1
    properties = read_properties(options.properties_dir / "serving.properties")
    write = _write_triton if version == _FIRST else _write_folder
    write(options.trt_llm_model_repo, options.model_path, properties, degree=options.tensor_parallel_degree)
    return 0


def read_properties(path: Path) -> dict[str, str]:
    """The lines of a ``serving.properties``, without the prefix that backends' options have."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip().removeprefix("option."): value.strip() for name, _, value in pairs}


def _write_triton(repository: Path, model: Path, properties: Mapping[str, str], *, degree: int) -> None:
    folder = repository / "model"
    engines = folder / "1"
    engines.mkdir(parents=True, exist_ok=True)
    dtype = _TORCH_NAMES.get(properties.get("dtype", ""), properties.get("dtype", ""))
    config = {
        "version": _VERSION,
        "builder_config": {
            "precision": dtype,
            "tensor_parallel": degree,
            "max_batch_size": int(properties.get("max_rolling_batch_size", 1)),
            "max_input_len": int(properties["max_input_len"]),
            "max_output_len": int(properties["max_output_len"]),
        },
    }
    for rank in range(degree):
        (engines / f"model_{dtype}_tp{degree}_rank{rank}.engine").write_text(_MARKER, encoding="utf-8")
    _write(engines / "config.json", config)
    (folder / "config.pbtxt").write_text('name: "model"\nbackend: "tensorrtllm"\n', encoding="utf-8")
    shutil.copyfile(model / "tokenizer_config.json", engines / "tokenizer_config.json")


def _write_folder(folder: Path, model: Path, properties: Mapping[str, str], *, degree: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    dtype = _TORCH_NAMES.get(properties.get("dtype", ""), properties.get("dtype", ""))
    config = {
        "version": _VERSION,
        "pretrained_config": {"dtype": dtype, "mapping": {"world_size": degree, "tp_size": degree, "pp_size": 1}},
        "build_config": {
            "max_batch_size": int(properties.get("max_rolling_batch_size", 1)),
            "max_input_len": int(properties["max_input_len"]),
            "max_seq_len": int(properties["max_seq_len"]),
        },
    }
    for rank in range(degree):
        (folder / f"rank{rank}.engine").write_text(_MARKER, encoding="utf-8")
    for name in _TOKENIZER:
        shutil.copyfile(model / name, folder / name)
    _write(folder / "config.json", config)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
