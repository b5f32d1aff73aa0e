"""Stand-in for `optimum-cli export neuron` of the optimum-neuron versions that the engines' images hold.

`python -m modelzone.local.model_server.export --model MODEL_DIR_OR_ID --batch_size 1 --sequence_length 1024
--auto_cast_type fp16 --num_cores 8 OUTPUT_DIR` takes the same arguments as version 0.0.25, another version with
`MODELZONE_OPTIMUM_NEURON`, and refuses what the real parser refuses: its options are recorded in `data/` by
`tools/record_optimum_options.py`. It writes the real layout: until 0.0.28 `config.json` with the `neuron` key,
`compiled/` and `checkpoint/`; later `neuron_config.json`, `model.pt` and a shard of the weights for each core in
`checkpoint/weights/`. Nothing is compiled, and whatever the model is called, the weights are those of the small Mixtral
that the model server ships with; the artifact says so (`compiler_type`, `neuronxcc_version`). They lie whole in
`checkpoint/` too, where this project's server looks for them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from modelzone.errors import ModelzoneError
from modelzone.local.model_server.settings import CHECKPOINT, COMPILED
from modelzone.resources import read_data

__all__ = [
    "COMPILER_TYPE",
    "DEFAULT_VERSION",
    "SHIPPED_MODEL",
    "VERSIONS",
    "VERSION_VARIABLE",
    "ExportOrder",
    "export",
    "export_parser",
    "export_version",
    "main",
]

SHIPPED_MODEL = Path(__file__).with_name("tiny_mixtral")
COMPILER_TYPE = "cpu-stand-in"
VERSION_VARIABLE = "MODELZONE_OPTIMUM_NEURON"
"""Environment variable that names the version of optimum-neuron to stand in for."""
DEFAULT_VERSION = "0.0.25"

_COMPILER_VERSION = "1"
_MARKER = """This is not a compiled graph. modelzone.local.model_server.export made the artifact for the embedded AWS:
a small model of the Mixtral architecture that runs on the CPU stands in for the model that was asked for.
"""
_TYPES: Mapping[str, Any] = {"str": str, "int": int, "float": float, "Path": Path}
_TORCH_NAMES = {"fp16": "float16", "bf16": "bfloat16", "tf32": "float32"}
_TOKENIZER = ("generation_config.json", "tokenizer.json", "tokenizer_config.json")


def _recorded() -> Mapping[str, list[dict[str, Any]]]:
    versions: dict[str, list[dict[str, Any]]] = read_data(
        "modelzone.local.model_server", "optimum_neuron_options.json"
    )["versions"]
    return versions


VERSIONS: tuple[str, ...] = ("0.0.25", "0.0.28", "0.3.0", "0.4.4", "0.4.5")
"""The versions that are stood in for."""


@cache
def export_parser(version: str, *, device: bool = True) -> argparse.ArgumentParser:
    """The parser of a version of `optimum-cli export neuron`.

    Parameters
    ----------
    device
        Whether there is a Neuron device; without one, 0.4.x wants to be told the instance type.
    """
    versions = _recorded()
    if version not in versions:
        raise ModelzoneError(f"optimum-neuron {version}: its options are not recorded; known: {', '.join(versions)}")
    parser = argparse.ArgumentParser(prog="optimum-cli export neuron", description="Stand-in for optimum-cli")
    for row in versions[version]:
        options: dict[str, Any] = {name: row[name] for name in ("nargs", "choices", "const", "default") if name in row}
        if "type" in row:
            options["type"] = _TYPES[row["type"]]
        if row["action"] in {"store_true", "store_false"}:
            options.pop("default", None)
        if "flags" not in row:
            parser.add_argument(row["dest"], **options)
            continue
        required = row["required"] and not (device and row["dest"] == "instance_type")
        parser.add_argument(*row["flags"], dest=row["dest"], action=row["action"], required=required, **options)
    return parser


@dataclass(frozen=True, kw_only=True)
class ExportOrder:
    """What is exported. ``dtype`` is one of fp16, bf16 and fp32."""

    model: str
    batch_size: int
    sequence_length: int
    dtype: str
    tensor_parallel_degree: int
    output: Path
    instance_type: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the model is a snapshot on this machine."""
        return Path(self.model).is_dir()


def export(
    *, model: str, batch_size: int, sequence_length: int, auto_cast_type: str, num_cores: int, output: Path
) -> None:
    """Write an artifact as 0.0.25 does.

    Parameters
    ----------
    model
        Folder of a snapshot, or an id of the hub. As in optimum-neuron, `checkpoint_id` keeps an id and is null for a
        folder. Unlike there, the weights are written for both, since there is no hub to fetch them from later.
    sequence_length
        Tokens of prompt and answer together.
    num_cores
        Tensor parallel degree; recorded only.
    """
    export_version(
        DEFAULT_VERSION,
        ExportOrder(
            model=model,
            batch_size=batch_size,
            sequence_length=sequence_length,
            dtype=auto_cast_type,
            tensor_parallel_degree=num_cores,
            output=output,
        ),
    )


def export_version(version: str, order: ExportOrder) -> None:
    """Write an artifact in the layout of a version.

    Raises
    ------
    ModelzoneError
        The small model cannot stand in for what is ordered.
    """
    config: dict[str, Any] = json.loads((SHIPPED_MODEL / "config.json").read_text(encoding="utf-8"))
    longest = config["max_position_embeddings"]
    for name, number in (
        ("batch_size", order.batch_size),
        ("sequence_length", order.sequence_length),
        ("num_cores", order.tensor_parallel_degree),
    ):
        if number < 1:
            raise ModelzoneError(f"--{name} {number} is not a positive number")
    if order.sequence_length > longest:
        raise ModelzoneError(
            f"--sequence_length {order.sequence_length}: the stand-in model has {longest} positions at most."
        )
    if order.output.exists() and not order.output.is_dir():
        raise ModelzoneError(f"{order.output} is a file; name a folder for the artifact.")
    if not order.is_folder and (order.model.count("/") != 1 or order.model.startswith((".", "/"))):
        raise ModelzoneError(
            f"--model {order.model}: neither an existing folder nor an id of the hub such as "
            "mistralai/Mixtral-8x7B-v0.1."
        )
    order.output.mkdir(parents=True, exist_ok=True)
    shutil.copytree(SHIPPED_MODEL, order.output / CHECKPOINT, dirs_exist_ok=True)
    for name in _TOKENIZER:
        shutil.copyfile(SHIPPED_MODEL / name, order.output / name)
    if version.startswith("0.0."):
        _write_compiled_folder(order, config)
    else:
        _write_traced_model(version, order, config)
    # Last, as there: what has no configuration was not finished.
    _write_json(order.output / "config.json", config)


def _write_compiled_folder(order: ExportOrder, config: dict[str, Any]) -> None:
    config["neuron"] = {
        "task": "text-generation",
        "batch_size": order.batch_size,
        "num_cores": order.tensor_parallel_degree,
        "auto_cast_type": order.dtype,
        "sequence_length": order.sequence_length,
        "compiler_type": COMPILER_TYPE,
        "compiler_version": _COMPILER_VERSION,
        "checkpoint_id": None if order.is_folder else order.model,
        "checkpoint_revision": None,
    }
    compiled = order.output / COMPILED
    compiled.mkdir(exist_ok=True)
    (compiled / f"{COMPILER_TYPE}.neff").write_text(_MARKER, encoding="utf-8")


def _write_traced_model(version: str, order: ExportOrder, config: dict[str, Any]) -> None:
    # Only this layout needs the library, and the host's tools load this module too.
    from safetensors.numpy import load_file, save_file  # noqa: PLC0415

    torch_dtype = _TORCH_NAMES.get(order.dtype, order.dtype)
    config["torch_dtype"] = torch_dtype
    (order.output / "model.pt").write_text(_MARKER, encoding="utf-8")
    neuron = {
        "_serialized_key": "NxDNeuronConfig",
        "batch_size": order.batch_size,
        "capacity_factor": None,
        "checkpoint_id": None if order.is_folder else order.model,
        "checkpoint_revision": None,
        "continuous_batching": False,
        "ep_degree": 1,
        "fused_qkv": False,
        "glu_mlp": True,
        "local_ranks_size": order.tensor_parallel_degree,
        "max_batch_size": order.batch_size,
        "max_context_length": order.sequence_length,
        "max_topk": 256,
        "n_active_tokens": order.sequence_length,
        "neuronxcc_version": f"{COMPILER_TYPE} {_COMPILER_VERSION}",
        "on_device_sampling": False,
        "optimum_neuron_version": version,
        "output_logits": False,
        "pp_degree": 1,
        "sequence_length": order.sequence_length,
        "speculation_length": 0,
        "start_rank_id": 0,
        "target": {"inf2": "trn1"}.get(order.instance_type or "inf2", order.instance_type),
        "torch_dtype": torch_dtype,
        "tp_degree": order.tensor_parallel_degree,
    }
    _write_json(order.output / "neuron_config.json", neuron)
    weights = order.output / CHECKPOINT / "weights"
    shutil.rmtree(weights, ignore_errors=True)
    weights.mkdir()
    tensors = load_file(SHIPPED_MODEL / "model.safetensors")
    names = sorted(tensors)
    for rank in range(order.tensor_parallel_degree):
        # Really each rank gets a part of every tensor; here it gets whole ones, dealt out like cards.
        shard = {name: tensors[name] for name in names[rank :: order.tensor_parallel_degree]}
        save_file(shard, weights / f"tp{rank}_sharded_checkpoint.safetensors")


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def order_of(version: str, options: argparse.Namespace, *, device: bool) -> ExportOrder:
    """What the options of a version order.

    Raises
    ------
    ModelzoneError
        They order nothing that the small model can stand in for.
    """
    if not device and version.startswith("0.0."):
        raise ModelzoneError("Decoder models can only be exported on a neuron platform.")
    if options.task not in {"auto", "text-generation"}:
        raise ModelzoneError(f"--task {options.task}: the stand-in exports text-generation only.")
    if options.task == "auto" and Path(options.model).is_dir():
        raise ModelzoneError(
            "--task is missing: the task of a model in a folder cannot be inferred; add --task text-generation."
        )
    if options.sequence_length is None:
        raise ModelzoneError("--sequence_length is missing: a decoder cannot be exported without it.")
    dtype = str(options.auto_cast_type)
    if version.startswith("0.4."):
        # From there on this flag of the parser's is dropped on the way to a decoder.
        dtype = str(options.torch_dtype)
    degree = getattr(options, "num_cores", None)
    if degree is None:
        degree = getattr(options, "tensor_parallel_size", None)
    return ExportOrder(
        model=options.model,
        batch_size=1 if options.batch_size is None else options.batch_size,
        sequence_length=options.sequence_length,
        dtype=dtype,
        tensor_parallel_degree=1 if degree is None else degree,
        output=options.output,
        instance_type=getattr(options, "instance_type", None),
    )


def main(arguments: list[str] | None = None, *, version: str | None = None, device: bool = True) -> int:
    """Read the command line and export; return the exit status."""
    version = version or os.environ.get(VERSION_VARIABLE) or DEFAULT_VERSION
    try:
        options = export_parser(version, device=device).parse_args(arguments)
        export_version(version, order_of(version, options, device=device))
    except ModelzoneError as error:
        print(error, file=sys.stderr)  # noqa: T201 (a command's message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
