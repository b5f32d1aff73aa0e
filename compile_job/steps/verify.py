"""Check that the exported folder is what the facts say, and whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compile_job.errors import StepError
from compile_job.job import Job

from .weights import check_snapshot

__all__ = ["verify_artifact"]

COMPILER = "neuronx-cc"
STAND_IN = "cpu-stand-in"

# Key of config.json["neuron"] in optimum-neuron 0.0.25, and the fact that it must equal.
NUMBERS = {
    "batch_size": "batch_size",
    "sequence_length": "sequence_length",
    "num_cores": "tensor_parallel_degree",
}


def verify_artifact(job: Job, folder: Path) -> dict[str, object]:
    """Compare what was compiled with what was ordered: the export may fill in defaults without a word.

    Raises
    ------
    StepError
        Naming the value in the artifact and the one in the job.
    """
    config = _read_config(folder)
    neuron = config.get("neuron")
    if not isinstance(neuron, dict):
        message = f"{folder}/config.json has no key 'neuron': the export wrote no model for Neuron"
        raise StepError(message)
    for name, fact in NUMBERS.items():
        _equal(f"neuron.{name}", neuron.get(name), int(job.facts[fact]), fact)
    _equal("neuron.auto_cast_type", neuron.get("auto_cast_type"), job.facts["dtype"], "dtype")
    _equal("neuron.task", neuron.get("task"), "text-generation", "the engine")
    compiler = neuron.get("compiler_type")
    if compiler != COMPILER and not (compiler == STAND_IN and job.runner == "process"):
        message = (
            f"{folder}/config.json: neuron.compiler_type is {compiler!r}, expected {COMPILER!r}: the artifact would "
            "not run on Neuron devices"
        )
        raise StepError(message)
    graphs = sorted((folder / "compiled").glob("*.neff"))
    if not graphs:
        message = f"{folder}/compiled has no *.neff: nothing was compiled"
        raise StepError(message)
    if not (folder / "tokenizer.json").is_file():
        message = f"{folder} has no tokenizer.json: the export could not load the model's tokenizer"
        raise StepError(message)
    if not (folder / "checkpoint").is_dir():
        message = (
            f"{folder} has no checkpoint/: the endpoint would need the hub for its weights. The export has to start "
            "from a folder: {model} in export_command, not a model id"
        )
        raise StepError(message)
    check_snapshot(folder / "checkpoint")
    return {
        "compiler": f"{compiler} {neuron.get('compiler_version')}",
        "graphs": len(graphs),
    }


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{folder}/config.json cannot be read ({error}): the export did not finish"
        raise StepError(message) from error
    return config if isinstance(config, dict) else {}


def _equal(key: str, found: object, ordered: object, fact: str) -> None:
    if found != ordered:
        message = f"config.json: {key} is {found!r}, the job orders {fact} {ordered!r}: correct export_command"
        raise StepError(message)
