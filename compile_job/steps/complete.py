"""Whether a list of files is a whole model, as far as its layout needs one."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from compile_job.errors import StepError

__all__ = ["check_index", "check_names"]

# What starts from a language model's folder, and what serves it with the tokenizer that lies beside the weights.
_LANGUAGE_MODELS = ("neuron-config-key", "neuron-config-file", "tensorrt-llm-repo")
_WITH_TOKENIZER = ("neuron-config-key", "neuron-config-file")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def check_names(names: Collection[str], *, layout: str, what: str) -> None:
    """Check by their names that the files that a model of this layout needs are listed.

    Parameters
    ----------
    what
        The model and its revision, for the message.

    Raises
    ------
    StepError
        Naming what is missing.
    """
    if layout in _LANGUAGE_MODELS and "config.json" not in names:
        message = f"{what} has no config.json: it is no model that can be exported"
        raise StepError(message)
    if layout in _WITH_TOKENIZER and "tokenizer.json" not in names:
        message = f"{what} has no tokenizer.json, without which the server cannot count a prompt's tokens"
        raise StepError(message)
    if not any(name.endswith(_WEIGHTS) for name in names):
        message = f"{what} has no weights (*.safetensors, *.bin, *.pt): choose a model whose repository holds them"
        raise StepError(message)


def check_index(folder: Path, names: Collection[str], *, what: str) -> None:
    """Check that every file that an index of the weights names is listed.

    Raises
    ------
    StepError
        Naming some that are not.
    """
    for index in _INDEXES:
        if index not in names or not (folder / index).is_file():
            continue
        if index.startswith("pytorch") and any(name.endswith(".safetensors") for name in names):
            continue  # the copy that was left out
        wanted = set(json.loads((folder / index).read_text(encoding="utf-8")).get("weight_map", {}).values())
        missing = sorted(wanted - set(names))
        if missing:
            message = f"{what} is incomplete: {index} names {', '.join(missing[:3])}, which it does not have"
            raise StepError(message)
