"""Modules traced with torch-neuronx: ``traced.json`` lists them, with the shapes that the trace fixed.

::

    {
      "compiler": "neuronx-cc 2.21.33363",
      "modules": {
        "image": {"file": "image.pt", "inputs": [[1, 3, 224, 224]]},
        "text": {"file": "text.pt", "inputs": [[1, 77]]}
      }
    }

``file`` is a path in the artifact, ``inputs`` the shape of each argument, its first number the batch. What
``optimum-cli`` writes for CLIP is taken as well: ``model.neuron``, and ``config.json`` with the key ``neuron``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compile_job.errors import StepError
from compile_job.snapshot import check_path

from .comparing import STAND_IN, Found, Ordered, equal, read_json
from .neuron_config_key import check_compiler

__all__ = ["LISTING", "verify"]

LISTING = "traced.json"
_OPTIMUM = "model.neuron"
_BATCHES = ("batch_size", "text_batch_size", "image_batch_size")


def verify(ordered: Ordered, folder: Path) -> Found:
    """Check an artifact."""
    if not (folder / LISTING).is_file() and (folder / _OPTIMUM).is_file():
        return _verify_optimum(ordered, folder)
    listing = read_json(folder / LISTING)
    modules = listing.get("modules")
    if not isinstance(modules, dict) or not modules:
        message = f"{folder}/{LISTING} lists no modules: nothing was traced"
        raise StepError(message)
    for name, module in modules.items():
        _check_module(ordered, folder, name, module if isinstance(module, dict) else {})
    compiler = str(listing.get("compiler") or "torch-neuronx")
    if compiler.startswith(STAND_IN) and not ordered.stand_in_allowed:
        message = f"{folder}/{LISTING}: compiler is {compiler!r}: the artifact would not run on Neuron devices"
        raise StepError(message)
    return Found(compiler=compiler, graphs=len(modules))


def _check_module(ordered: Ordered, folder: Path, name: str, module: dict[str, Any]) -> None:
    path = folder / check_path(module.get("file") or "")
    if not path.is_file() or not path.stat().st_size:
        message = f"{folder}/{LISTING}: module '{name}' has the file {module.get('file')!r}, which is not there"
        raise StepError(message)
    inputs = module.get("inputs")
    if not isinstance(inputs, list) or not inputs or not all(map(_is_shape, inputs)):
        message = f"{folder}/{LISTING}: module '{name}' has inputs {inputs!r}, expected a list of shapes"
        raise StepError(message)
    for shape in inputs:
        equal(LISTING, f"the batch of module '{name}'", shape[0], ordered.number("batch_size"), "batch_size")


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and bool(shape) and all(isinstance(size, int) and size > 0 for size in shape)


def _verify_optimum(ordered: Ordered, folder: Path) -> Found:
    neuron = read_json(folder / "config.json").get("neuron")
    if not isinstance(neuron, dict):
        message = f"{folder}/config.json has no key 'neuron': the export wrote no model for Neuron"
        raise StepError(message)
    for name in _BATCHES:
        found = neuron.get(name, neuron.get(f"static_{name}"))
        if found is not None:
            equal("config.json", f"neuron.{name}", found, ordered.number("batch_size"), "batch_size")
    return Found(compiler=check_compiler(ordered, folder / "config.json", neuron), graphs=1)
