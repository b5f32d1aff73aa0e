"""Mixture-of-experts decoders."""

from __future__ import annotations

from modelzone.architectures.config_values import REQUIRED, ConfigValues
from modelzone.architectures.decoder import Decoder
from modelzone.architectures.readers.common import Fields, attention_bias, build, llama_like, windows
from modelzone.architectures.readers.dense import qwen_windows

__all__ = [
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "granitemoe",
    "llama4_text",
    "mixtral",
    "olmoe",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
]


def _experts(config: ConfigValues, *, experts: int, chosen: int) -> Fields:
    """How many experts there are and are chosen, with the defaults of absent keys."""
    return {
        "experts": config.number("num_experts", "num_local_experts", default=experts),
        "experts_per_token": config.number("num_experts_per_tok", default=chosen),
    }


def mixtral(config: ConfigValues) -> Decoder:
    """Mixtral."""
    return llama_like(config, key_value_heads_required=True, **_experts(config, experts=8, chosen=2))


def _dense_layers(config: ConfigValues) -> int:
    """Layers without experts: those named, and those between the steps."""
    step = config.number("decoder_sparse_step", default=1)
    named = set(config.numbers("mlp_only_layers") or ())
    layers = range(config.number("num_hidden_layers"))
    return sum(index in named or (index + 1) % step != 0 for index in layers)


def qwen2_moe(config: ConfigValues) -> Decoder:
    """Qwen 1.5 and 2 with experts and a gated shared expert."""
    total = config.number("num_hidden_layers")
    upper = min(total, config.number("max_window_layers", default=28, least=0))
    return llama_like(
        config,
        key_value_heads_required=True,
        query_key_value_bias=config.flag("qkv_bias", default=True),
        expert_intermediate_size=config.number("moe_intermediate_size", default=1408),
        shared_intermediate_size=config.number("shared_expert_intermediate_size", default=5632),
        shared_expert_gate=True,
        dense_layers=_dense_layers(config),
        **_experts(config, experts=60, chosen=4),
        **qwen_windows(config, layers=-(-upper // 2)),
    )


def qwen3_moe(config: ConfigValues) -> Decoder:
    """Qwen 3 with experts."""
    return llama_like(
        config,
        key_value_heads_required=True,
        query_key_norm="head",
        expert_intermediate_size=config.number("moe_intermediate_size", default=768),
        dense_layers=_dense_layers(config),
        **attention_bias(config),
        **_experts(config, experts=128, chosen=8),
        **qwen_windows(config, layers=None),
    )


def olmoe(config: ConfigValues) -> Decoder:
    """OLMoE: norms of all queries and of all keys of a layer."""
    experts = _experts(config, experts=64, chosen=8)
    return llama_like(config, query_key_norm="all-heads", **attention_bias(config), **experts)


def granitemoe(config: ConfigValues) -> Decoder:
    """Granite with experts."""
    return llama_like(config, **attention_bias(config), **_experts(config, experts=8, chosen=2))


def phimoe(config: ConfigValues) -> Decoder:
    """Phi 3.5 with experts: layer norms, and a bias even in the output projection."""
    return llama_like(
        config,
        key_value_heads_required=True,
        norm_bias=True,
        head_bias=config.flag("lm_head_bias", default=False),
        **attention_bias(config),
        **_experts(config, experts=16, chosen=2),
    )


def gpt_oss(config: ConfigValues) -> Decoder:
    """gpt-oss: every projection has a bias, every head a sink, every second layer a window."""
    total = config.number("num_hidden_layers")
    return llama_like(
        config,
        key_value_heads_required=True,
        head_size=64,
        feed_forward_bias=True,
        router_bias=True,
        attention_sinks=True,
        **attention_bias(config, default=True),
        **_experts(config, experts=128, chosen=4),
        **windows(config, default=128, layers=total - total // 2),
    )


def llama4_text(config: ConfigValues) -> Decoder:
    """Llama 4's text model: three layers that see chunks, then one that sees everything; a shared expert."""
    total = config.number("num_hidden_layers")
    every = config.number("no_rope_layer_interval", default=4)
    rotary = config.numbers("no_rope_layers") or [int((index + 1) % every != 0) for index in range(total)]
    step = config.number("interleave_moe_layer_step", default=1)
    with_experts = config.numbers("moe_layers")
    expert_layers = len(range(step - 1, total, step)) if with_experts is None else len(with_experts)
    expert_size = config.number("intermediate_size")
    return llama_like(
        config,
        key_value_heads_required=True,
        head_size=128,
        intermediate_size=config.number("intermediate_size_mlp", default=16384),
        expert_intermediate_size=expert_size,
        shared_intermediate_size=expert_size,
        dense_layers=total - expert_layers,
        **attention_bias(config),
        **_experts(config, experts=16, chosen=1),
        **windows(config, key="attention_chunk_size", default=8192, layers=sum(map(bool, rotary))),
    )


def deepseek_v2(config: ConfigValues) -> Decoder:
    """DeepSeek V2: multi-head latent attention, shared experts, leading dense layers."""
    config.expect("mlp_bias", wanted=False, because="biases of some feed-forward networks only")
    return _deepseek(config, shared=2, leading=0, experts=64, chosen=None)


def deepseek_v3(config: ConfigValues) -> Decoder:
    """DeepSeek V3 and R1. The layers that predict further tokens are not part of what generates."""
    return _deepseek(config, shared=1, leading=3, experts=256, chosen=8)


def _deepseek(config: ConfigValues, *, shared: int, leading: int, experts: int, chosen: int | None) -> Decoder:
    config.expect("attention_bias", wanted=False, because="biases of some projections only")
    config.expect("moe_layer_freq", wanted=1, because="transformers knows no such layers")
    heads, layers = config.number("num_attention_heads"), config.number("num_hidden_layers")
    rotary = config.number("qk_rope_head_dim", default=64)
    inner = config.number("moe_intermediate_size")
    shared_experts = config.number("n_shared_experts", default=0 if "n_shared_experts" in config.values else shared)
    return build(
        config,
        layers=layers,
        hidden_size=config.number("hidden_size"),
        attention_heads=heads,
        key_value_heads=heads,
        head_size=config.number("qk_nope_head_dim", default=128) + rotary,
        intermediate_size=config.number("intermediate_size"),
        vocabulary_size=config.number("vocab_size"),
        context_length=config.number("max_position_embeddings", least=64),
        tied_embeddings=config.flag("tie_word_embeddings", default=False),
        experts=config.number("n_routed_experts", "num_experts", "num_local_experts", default=experts),
        experts_per_token=config.number("num_experts_per_tok", default=REQUIRED if chosen is None else chosen),
        expert_intermediate_size=inner,
        shared_intermediate_size=shared_experts * inner,
        dense_layers=min(layers, config.number("first_k_dense_replace", default=leading, least=0)),
        latent_size=config.number("kv_lora_rank", default=512),
        latent_position_size=rotary,
        query_latent_size=config.optional_number("q_lora_rank", 1536),
        value_head_size=config.number("v_head_dim", default=128),
    )
