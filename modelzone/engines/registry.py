"""All engines by name. Adding one: write its module, name it here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from modelzone.engines.base import Engine
from modelzone.engines.tgi_neuronx import TgiNeuronx

__all__ = ["ENGINES"]

ENGINES: Mapping[str, Engine] = MappingProxyType({engine.name: engine for engine in (TgiNeuronx(),)})
