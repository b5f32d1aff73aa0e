"""What an export must have written, by layout: one small file for each.

=====================  ============================================================================================
``neuron-config-key``   optimum-neuron before 0.2: ``config.json`` with the key ``neuron``, ``compiled/*.neff``,
                        ``checkpoint/``
``neuron-config-file``  optimum-neuron from 0.2: ``neuron_config.json``, ``model.pt``, sharded ``checkpoint/weights/``
``tensorrt-llm-repo``   LMI's partition script: Triton's repository (0.26) or TensorRT-LLM's folder of engines (0.33)
``traced-modules``      modules traced with torch-neuronx, listed in ``traced.json``
``none``                nothing is exported; the mirror of the weights is the result
=====================  ============================================================================================

Each compares the configuration with the facts, value by value: an export may fill in defaults without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from . import neuron_config_file, neuron_config_key, tensorrt_llm_repo, traced_modules
from .comparing import Found, Ordered

__all__ = ["LAYOUTS", "Found", "Ordered"]

LAYOUTS: Mapping[str, Callable[[Ordered, Path], Found]] = MappingProxyType(
    {
        "neuron-config-key": neuron_config_key.verify,
        "neuron-config-file": neuron_config_file.verify,
        "tensorrt-llm-repo": tensorrt_llm_repo.verify,
        "traced-modules": traced_modules.verify,
    }
)
