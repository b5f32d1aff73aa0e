"""``optimum-cli export neuron``: the compiler of the engines that are built on optimum-neuron.

The flags are those that each version *honours* for decoders, which are fewer than its parser accepts: 0.0.28 and 0.3.0
know ``--tensor_parallel_size`` and drop it on the way to the decoder (``optimum/exporters/neuron/__main__.py``), and
0.4.x drops ``--auto_cast_type``. The contract tests hold this against the wheels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from modelzone.engines.base import Compiler, EngineVersion
from modelzone.engines.shapes import BATCH_SIZE, SEQUENCE_LENGTH, TENSOR_PARALLEL_DEGREE
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Serving

__all__ = [
    "DECODER_TYPES",
    "LAYOUT_CONFIG_FILE",
    "LAYOUT_CONFIG_KEY",
    "STATIC_BATCH_TYPES",
    "check_static_batch",
    "decoder_export",
]

LAYOUT_CONFIG_KEY = Compiler(tool="optimum-neuron", artifact_layout="neuron-config-key")
LAYOUT_CONFIG_FILE = Compiler(tool="optimum-neuron", artifact_layout="neuron-config-file")

_LATEST = frozenset({"granite", "llama", "llama4_text", "mixtral", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3"})
# What each wheel registers for text-generation, as far as this project knows the model's size.
DECODER_TYPES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "0.0.25": frozenset({"bloom", "gpt2", "llama", "mistral", "mixtral", "opt"}),
        "0.0.28": frozenset({"bloom", "gpt2", "granite", "llama", "mistral", "mixtral", "opt", "qwen2"}),
        "0.3.0": frozenset({"granite", "llama", "mixtral", "phi3", "qwen2", "qwen3"}),
        "0.4.4": _LATEST,
        "0.4.5": _LATEST,
    }
)
# Decoders that the version builds without continuous batching.
STATIC_BATCH_TYPES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "0.0.25": frozenset({"bloom", "gpt2", "mixtral", "opt"}),
        "0.0.28": frozenset({"bloom", "gpt2", "mixtral", "opt"}),
        "0.3.0": frozenset({"mixtral"}),
        "0.4.4": frozenset({"mixtral"}),
        "0.4.5": frozenset({"mixtral"}),
    }
)
_TORCH_NAMES = {"fp16": "float16", "bf16": "bfloat16"}


def check_static_batch(engine: str, version: EngineVersion, model: Model, serving: Serving) -> Iterator[Refusal]:
    """From 0.3.0 on, what is built without continuous batching is served one by one."""
    kind = model.architecture.type
    if serving.batch_size > 1 and kind in version.static_batch_types:
        yield Refusal(
            key="batch_size",
            value=serving.batch_size,
            problem=f"cannot be served: {engine} {version.version} builds {kind} without continuous batching and then "
            "refuses a batch above 1",
            fix="use batch_size 1, or another engine",
        )


def decoder_export(version: str, serving: Serving) -> tuple[str, ...]:
    """The command that compiles a decoder from a local snapshot: only then are the weights part of the artifact.

    Parameters
    ----------
    version
        optimum-neuron's.
    """
    degree = TENSOR_PARALLEL_DEGREE
    numbers: tuple[str, ...] = ("--auto_cast_type", serving.dtype, "--num_cores", degree)
    if version.startswith("0.4."):
        numbers = (
            "--torch_dtype", _TORCH_NAMES[serving.dtype],
            "--tensor_parallel_size", degree,
            "--instance_type", serving.instance_type.removeprefix("ml.").split(".")[0],
        )  # fmt: skip
    return (
        "optimum-cli", "export", "neuron",
        "--model", "{model}",
        # From a folder the task cannot be inferred.
        "--task", "text-generation",
        "--batch_size", BATCH_SIZE,
        "--sequence_length", SEQUENCE_LENGTH,
        *numbers,
        "{output}",
    )  # fmt: skip
