"""Decoders with one feed-forward network in each layer, and Llama's names for the keys."""

from __future__ import annotations

from modelzone.architectures.config_values import ConfigValues
from modelzone.architectures.decoder import Decoder
from modelzone.architectures.readers.common import Fields, attention_bias, llama_like, windows

__all__ = [
    "cohere",
    "cohere2",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "llama",
    "mistral",
    "olmo",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen_windows",
    "smollm3",
    "starcoder2",
]


def llama(config: ConfigValues) -> Decoder:
    """Llama 1 to 3, Code Llama; Granite has the same keys."""
    feed_forward_bias = config.flag("mlp_bias", default=False)
    return llama_like(config, feed_forward_bias=feed_forward_bias, **attention_bias(config))


def mistral(config: ConfigValues) -> Decoder:
    """Mistral. Version 0.1 has a window; an absent key means 4096, null none."""
    return llama_like(config, key_value_heads_required=True, **windows(config, default=4096))


def qwen_windows(config: ConfigValues, *, layers: int | None) -> Fields:
    """Read the window of Qwen and SmolLM, which has a switch of its own; null without it, whatever the size says."""
    if not config.flag("use_sliding_window", default=False):
        return {"sliding_window": None, "sliding_layers": None}
    return windows(config, layers=layers)


def _last_layers(config: ConfigValues) -> int:
    return max(0, config.number("num_hidden_layers") - config.number("max_window_layers", default=28, least=0))


def qwen2(config: ConfigValues) -> Decoder:
    """Qwen 1.5, 2 and 2.5: queries, keys and values have a bias."""
    window = qwen_windows(config, layers=_last_layers(config))
    return llama_like(config, key_value_heads_required=True, query_key_value_bias=True, **window)


def qwen3(config: ConfigValues) -> Decoder:
    """Qwen 3: norms of queries and keys."""
    window = qwen_windows(config, layers=_last_layers(config))
    return llama_like(
        config,
        key_value_heads_required=True,
        head_size=128,
        query_key_norm="head",
        **attention_bias(config),
        **window,
    )


def smollm3(config: ConfigValues) -> Decoder:
    """SmolLM 3: layers without rotary positions may have a window."""
    rotary = config.numbers("no_rope_layers")
    every = config.number("no_rope_layer_interval", default=4)
    plain = config.number("num_hidden_layers") // every if rotary is None else rotary.count(0)
    return llama_like(
        config,
        tied=True,
        key_value_heads_required=True,
        feed_forward_bias=config.flag("mlp_bias", default=False),
        **attention_bias(config),
        **qwen_windows(config, layers=plain),
    )


def gemma(config: ConfigValues) -> Decoder:
    """Gemma 1: tied, heads wider than the model's share."""
    return llama_like(config, tied=True, key_value_heads_required=True, head_size=256, **attention_bias(config))


def _alternating(config: ConfigValues, *, every: int, default: int) -> Fields:
    """Windows in all layers but each `every`-th."""
    total = config.number("num_hidden_layers")
    return windows(config, default=default, layers=total - total // every)


def gemma2(config: ConfigValues) -> Decoder:
    """Gemma 2: four norms in a layer, every second layer has a window."""
    config.expect("use_bidirectional_attention", wanted=False, because="it does not generate")
    return llama_like(
        config,
        tied=True,
        key_value_heads_required=True,
        head_size=256,
        norms_per_layer=4,
        **attention_bias(config),
        **_alternating(config, every=2, default=4096),
    )


def gemma3_text(config: ConfigValues) -> Decoder:
    """Gemma 3's text model: five layers with a window, then one without; norms of queries and keys."""
    config.expect("use_bidirectional_attention", wanted=False, because="it does not generate")
    return llama_like(
        config,
        tied=True,
        key_value_heads_required=True,
        head_size=256,
        norms_per_layer=4,
        query_key_norm="head",
        **attention_bias(config),
        **_alternating(config, every=config.number("sliding_window_pattern", default=6), default=4096),
    )


def phi3(config: ConfigValues) -> Decoder:
    """Phi 3 and 4: Llama with joined projections."""
    return llama_like(config)


def starcoder2(config: ConfigValues) -> Decoder:
    """StarCoder 2: layer norms, biases, no gate."""
    bias = config.flag("use_bias", default=True)
    return llama_like(
        config,
        tied=True,
        key_value_heads_required=True,
        query_key_value_bias=bias,
        attention_output_bias=bias,
        feed_forward_bias=bias,
        gated_feed_forward=False,
        norm_bias=True,
    )


def olmo(config: ConfigValues) -> Decoder:
    """OLMo 1: its norms have no parameters."""
    return llama_like(config, norms_per_layer=0, final_norm=False, **attention_bias(config))


def olmo2(config: ConfigValues) -> Decoder:
    """OLMo 2: norms of all queries and of all keys of a layer."""
    return llama_like(config, query_key_norm="all-heads", **attention_bias(config))


def cohere(config: ConfigValues) -> Decoder:
    """Command R: one norm in a layer, because attention and feed-forward run side by side."""
    norm = "all-heads" if config.flag("use_qk_norm", default=False) else None
    return llama_like(config, tied=True, norms_per_layer=1, query_key_norm=norm, **attention_bias(config))


def cohere2(config: ConfigValues) -> Decoder:
    """Command R7B and A: three layers with a window, then one without."""
    window = _alternating(config, every=config.number("sliding_window_pattern", default=4), default=4096)
    return llama_like(config, tied=True, norms_per_layer=1, **attention_bias(config), **window)


def glm(config: ConfigValues) -> Decoder:
    """GLM 4 9B: queries, keys and values have a bias."""
    bias = config.flag("attention_bias", default=True)
    return llama_like(config, key_value_heads_required=True, head_size=128, query_key_value_bias=bias)


def glm4(config: ConfigValues) -> Decoder:
    """GLM 4 of 2025: four norms in a layer."""
    bias = config.flag("attention_bias", default=True)
    return llama_like(
        config, key_value_heads_required=True, head_size=128, query_key_value_bias=bias, norms_per_layer=4
    )
