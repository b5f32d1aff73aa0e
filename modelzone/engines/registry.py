"""All engines by name. Adding one: write its module, name it here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from modelzone.engines.base import Engine
from modelzone.engines.clip_neuronx import ClipNeuronx
from modelzone.engines.lmi_deepspeed import LmiDeepSpeed
from modelzone.engines.lmi_dist import LmiDist
from modelzone.engines.lmi_neuronx import LmiNeuronx
from modelzone.engines.lmi_trtllm import LmiTrtLlm
from modelzone.engines.lmi_vllm import LmiVllm
from modelzone.engines.lorax import Lorax
from modelzone.engines.tgi_neuronx import TgiNeuronx
from modelzone.engines.vllm_neuronx import VllmNeuronx

__all__ = ["ENGINES", "versions_serving"]

_ALL: tuple[Engine, ...] = (
    TgiNeuronx(),
    VllmNeuronx(),
    LmiVllm(),
    LmiTrtLlm(),
    LmiDist(),
    LmiDeepSpeed(),
    LmiNeuronx(),
    Lorax(),
    ClipNeuronx(),
)
ENGINES: Mapping[str, Engine] = MappingProxyType({engine.name: engine for engine in _ALL})


@cache
def versions_serving(model_type: str) -> tuple[tuple[str, str], ...]:
    """Engine and version of everything that serves models of a ``model_type``."""
    return tuple(
        (engine.name, version.version)
        for engine in ENGINES.values()
        for version in engine.versions.values()
        if model_type in version.model_types
    )
