"""Counts the parameters of open_clip's models: ``open_clip_counts.py NAME…`` prints a JSON object.

open_clip and timm are imported from wheels on PYTHONPATH. They import libraries for images and texts that no model
needs to be built; stand-ins take their place, in this process only.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

STAND_INS = ("torchvision", "PIL", "ftfy", "timm.data")


class _AnyName(type):
    """A class whose attributes are their own names."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _StandIn(types.ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyName(name, (), {})


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        del path, target
        stands_in = any(fullname == name or fullname.startswith(f"{name}.") for name in STAND_INS)
        return ModuleSpec(fullname, self, is_package=True) if stands_in else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = _StandIn(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def main(names: Sequence[str]) -> None:
    """Build each model without memory and print its config and number of parameters."""
    sys.meta_path.insert(0, _Finder())
    # The package's own __init__ imports everything it can do; its models alone need little.
    spec = find_spec("open_clip")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("open_clip is not on PYTHONPATH")
    package = types.ModuleType("open_clip")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["open_clip"] = package

    import torch  # noqa: PLC0415 - after the finder is in place

    found: dict[str, Any] = {}
    for name in names:
        config = json.loads(files("open_clip").joinpath(f"model_configs/{name}.json").read_text(encoding="utf-8"))
        towers = {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
        with torch.device("meta"):
            model = import_module("open_clip.model").CustomTextCLIP(**towers)
        found[name] = {"config": towers, "parameters": sum(parameter.numel() for parameter in model.parameters())}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
