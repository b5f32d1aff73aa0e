"""KV-cache sizes, exact to the last byte."""

from __future__ import annotations

from functools import lru_cache

from modelzone.architectures.clip import Clip
from modelzone.architectures.decoder import Decoder

__all__ = ["kv_cache_bytes", "kv_cache_bytes_per_token"]


@lru_cache(maxsize=4096)
def kv_cache_bytes(architecture: Decoder | Clip, tokens: int, *, bytes_per_value: int = 2) -> int:
    """KV cache of one sequence of `tokens` tokens; layers with a sliding window keep no more than the window."""
    if isinstance(architecture, Clip):
        return 0
    a = architecture
    windowed = a.windowed_layers
    rows = (a.layers - windowed) * tokens + windowed * min(tokens, a.sliding_window or tokens)
    return rows * _values_per_layer(a) * bytes_per_value


def kv_cache_bytes_per_token(architecture: Decoder | Clip, *, bytes_per_value: int = 2) -> int:
    """KV cache of one token over all layers, before any sliding window is full."""
    return kv_cache_bytes(architecture, 1, bytes_per_value=bytes_per_value)


def _values_per_layer(a: Decoder) -> int:
    if a.latent_size:
        return a.latent_size + a.latent_position_size
    return a.key_value_heads * (a.head_width + a.value_width)
