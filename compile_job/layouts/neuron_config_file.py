"""What optimum-neuron writes from 0.2 on: ``neuron_config.json``, ``model.pt`` and sharded weights."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from compile_job.errors import StepError

from .comparing import STAND_IN, Found, Ordered, equal, read_json

__all__ = ["verify"]

_FILE = "neuron_config.json"
_NUMBERS = MappingProxyType(
    {
        "batch_size": "batch_size",
        "sequence_length": "sequence_length",
        "tp_degree": "tensor_parallel_degree",
    }
)
_TORCH_NAMES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def verify(ordered: Ordered, folder: Path) -> Found:
    """Check an artifact."""
    config = read_json(folder / _FILE)
    for name, fact in _NUMBERS.items():
        equal(_FILE, name, config.get(name), ordered.number(fact), fact)
    dtype = ordered.facts["dtype"]
    found = str(config.get("torch_dtype")).removeprefix("torch.")
    if found != _TORCH_NAMES.get(dtype, dtype):
        # 0.4.5's way of a language model may not read its flag: the default is float32.
        equal(_FILE, "torch_dtype", found, dtype, "dtype")
    version = str(config.get("neuronxcc_version") or "")
    if not version or (version.startswith(STAND_IN) and not ordered.stand_in_allowed):
        message = (
            f"{folder}/{_FILE}: neuronxcc_version is {config.get('neuronxcc_version')!r}, expected the version of "
            "neuronx-cc: the artifact would not run on Neuron devices"
        )
        raise StepError(message)
    for name in ("config.json", "model.pt", "tokenizer.json"):
        if not (folder / name).is_file() or not (folder / name).stat().st_size:
            message = f"{folder} has no {name}: the export did not finish"
            raise StepError(message)
    _check_shards(folder / "checkpoint" / "weights", ordered.number("tensor_parallel_degree"))
    compiler = version if version.startswith(STAND_IN) else f"neuronx-cc {version}"
    return Found(compiler=compiler, graphs=1)


def _check_shards(folder: Path, degree: int) -> None:
    if not folder.is_dir():
        message = (
            f"{folder} is not there: the endpoint would need the hub for its weights. The export has to start from a "
            "folder: {model} in export_command, not a model id"
        )
        raise StepError(message)
    expected = {f"tp{rank}_sharded_checkpoint.safetensors" for rank in range(degree)}
    found = {path.name for path in folder.glob("tp*_sharded_checkpoint.safetensors")}
    if found != expected:
        missing = ", ".join(sorted(expected - found)[:3]) or "none"
        message = (
            f"{folder} has {len(found)} shards of the weights, the job orders tensor_parallel_degree {degree} "
            f"(missing: {missing}): export again"
        )
        raise StepError(message)
