"""What models are in numbers: exact parameter counts and KV-cache sizes from the values of ``config.json``."""

from modelzone.architectures.clip import Clip, ClipTower
from modelzone.architectures.counts import (
    ParameterCounts,
    active_parameter_count,
    count_parameters,
    parameter_count,
)
from modelzone.architectures.decoder import Decoder
from modelzone.architectures.kv_cache import kv_cache_bytes, kv_cache_bytes_per_token
from modelzone.architectures.quantization import quantization_of
from modelzone.architectures.reading import MODEL_TYPES, Architecture, read_config

__all__ = [
    "MODEL_TYPES",
    "Architecture",
    "Clip",
    "ClipTower",
    "Decoder",
    "ParameterCounts",
    "active_parameter_count",
    "count_parameters",
    "kv_cache_bytes",
    "kv_cache_bytes_per_token",
    "parameter_count",
    "quantization_of",
    "read_config",
]
