"""Dialects: how each family of engines is asked, and how it answers. One module each, listed in `DIALECTS`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .base import Dialect, Embeddings, StreamParser
from .lmi_async_trtllm import LmiAsyncTrtLlm
from .lmi_async_vllm import LmiAsyncVllm
from .lmi_json import LmiJson
from .lmi_jsonlines import LmiJsonLines
from .lmi_rolling_batch import LmiRollingBatch
from .lorax import Lorax
from .tgi_generate import TgiGenerate
from .vllm_openai import VllmOpenAi

__all__ = ["DIALECTS", "Dialect", "Embeddings", "StreamParser"]

_ALL: tuple[Dialect, ...] = (
    TgiGenerate(),
    LmiJsonLines(),
    LmiJson(),
    LmiRollingBatch(),
    LmiAsyncVllm(),
    LmiAsyncTrtLlm(),
    VllmOpenAi(),
    Lorax(),
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType({dialect.name: dialect for dialect in _ALL})
