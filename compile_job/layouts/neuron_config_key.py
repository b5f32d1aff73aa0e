"""What optimum-neuron 0.0.25 and 0.0.28 write: ``config.json`` with the key ``neuron``."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compile_job.errors import StepError

from .comparing import STAND_IN, Found, Ordered, equal, read_json

__all__ = ["COMPILER", "NUMBERS", "check_compiler", "verify"]

COMPILER = "neuronx-cc"

# Key of config.json["neuron"], and the fact that it must equal.
NUMBERS = MappingProxyType(
    {
        "batch_size": "batch_size",
        "sequence_length": "sequence_length",
        "num_cores": "tensor_parallel_degree",
    }
)
_FILE = "config.json"
_INDEXES = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)


def verify(ordered: Ordered, folder: Path) -> Found:
    """Check an artifact."""
    neuron = read_json(folder / _FILE).get("neuron")
    if not isinstance(neuron, dict):
        message = f"{folder}/config.json has no key 'neuron': the export wrote no model for Neuron"
        raise StepError(message)
    for name, fact in NUMBERS.items():
        equal(_FILE, f"neuron.{name}", neuron.get(name), ordered.number(fact), fact)
    equal(_FILE, "neuron.auto_cast_type", neuron.get("auto_cast_type"), ordered.facts["dtype"], "dtype")
    equal(_FILE, "neuron.task", neuron.get("task"), "text-generation", "the engine")
    compiler = check_compiler(ordered, folder / _FILE, neuron)
    graphs = sorted((folder / "compiled").glob("*.neff"))
    if not graphs:
        message = f"{folder}/compiled has no *.neff: nothing was compiled"
        raise StepError(message)
    if not (folder / "tokenizer.json").is_file():
        message = f"{folder} has no tokenizer.json: the export could not load the model's tokenizer"
        raise StepError(message)
    _check_checkpoint(folder / "checkpoint")
    return Found(compiler=compiler, graphs=len(graphs))


def check_compiler(ordered: Ordered, path: Path, neuron: dict[str, Any]) -> str:
    """Return the compiler with its version, or refuse what would not run on Neuron devices."""
    compiler = neuron.get("compiler_type")
    if compiler != COMPILER and not (compiler == STAND_IN and ordered.stand_in_allowed):
        message = (
            f"{path}: neuron.compiler_type is {compiler!r}, expected {COMPILER!r}: the artifact would "
            "not run on Neuron devices"
        )
        raise StepError(message)
    return f"{compiler} {neuron.get('compiler_version')}"


def _check_checkpoint(folder: Path) -> None:
    if not folder.is_dir():
        message = (
            f"{folder.parent} has no checkpoint/: the endpoint would need the hub for its weights. The export has to "
            "start from a folder: {model} in export_command, not a model id"
        )
        raise StepError(message)
    if not (folder / _FILE).is_file():
        message = f"{folder} has no config.json: the export did not finish"
        raise StepError(message)
    missing = _missing_weights(folder)
    if missing:
        message = f"{folder} is incomplete, {', '.join(missing[:3])} missing: the export did not finish"
        raise StepError(message)


def _missing_weights(folder: Path) -> list[str]:
    """Return the files that the index of the weights names and the folder lacks."""
    for index, single in _INDEXES:
        if (folder / index).is_file():
            names = set(json.loads((folder / index).read_text(encoding="utf-8")).get("weight_map", {}).values())
            return sorted(name for name in names if not (folder / name).is_file())
        if (folder / single).is_file():
            return []
    return [_INDEXES[0][1]]
