"""Decoders from before Llama, each with names of its own for the same things."""

from __future__ import annotations

from modelzone.architectures.config_values import ConfigValues
from modelzone.architectures.decoder import Decoder
from modelzone.architectures.readers.common import build, llama_like

__all__ = ["bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "mpt", "opt", "phi", "stablelm"]

_FACTOR = 4  # inner width of a feed-forward network over the model's, where no key says it


def _gpt(config: ConfigValues, *, tied: bool, key_value_heads: int | None = None, **fields: int | bool) -> Decoder:
    """Build from GPT-2's keys: layer norms, biases in the feed-forward network, no gate."""
    width = config.number("n_embd", "hidden_size")
    heads = config.number("n_head", "num_attention_heads")
    return build(
        config,
        layers=config.number("n_layer", "num_hidden_layers"),
        hidden_size=width,
        attention_heads=heads,
        key_value_heads=key_value_heads or heads,
        intermediate_size=config.number("n_inner", default=_FACTOR * width),
        vocabulary_size=config.number("vocab_size"),
        context_length=config.number("n_positions", "max_position_embeddings", least=64),
        tied_embeddings=config.flag("tie_word_embeddings", default=tied),
        gated_feed_forward=False,
        feed_forward_bias=True,
        norm_bias=True,
        **fields,
    )


def gpt2(config: ConfigValues) -> Decoder:
    """GPT-2: learned positions, biases everywhere."""
    config.expect("add_cross_attention", wanted=False, because="it needs an encoder")
    positions = config.number("n_positions", "max_position_embeddings")
    return _gpt(config, tied=True, learned_positions=positions, query_key_value_bias=True, attention_output_bias=True)


def gpt_bigcode(config: ConfigValues) -> Decoder:
    """StarCoder 1 and SantaCoder: GPT-2 whose heads share one key and value head."""
    config.expect("add_cross_attention", wanted=False, because="it needs an encoder")
    positions = config.number("n_positions", "max_position_embeddings")
    return _gpt(
        config,
        tied=True,
        key_value_heads=1 if config.flag("multi_query", default=True) else None,
        learned_positions=positions,
        query_key_value_bias=True,
        attention_output_bias=True,
    )


def gptj(config: ConfigValues) -> Decoder:
    """GPT-J and CodeGen: one norm in a layer, no bias in the attention but one in the output projection."""
    return _gpt(config, tied=False, norms_per_layer=1, head_bias=True)


def gpt_neox(config: ConfigValues) -> Decoder:
    """GPT-NeoX and Pythia."""
    bias = config.flag("attention_bias", default=True)
    return llama_like(
        config,
        query_key_value_bias=bias,
        attention_output_bias=bias,
        feed_forward_bias=True,
        gated_feed_forward=False,
        norm_bias=True,
    )


def bloom(config: ConfigValues) -> Decoder:
    """BLOOM: a norm after the embeddings, no positions; it was trained on 2048 tokens."""
    width = config.number("hidden_size", "n_embed")
    heads = config.number("n_head", "num_attention_heads")
    return build(
        config,
        layers=config.number("n_layer", "num_hidden_layers"),
        hidden_size=width,
        attention_heads=heads,
        key_value_heads=heads,
        intermediate_size=_FACTOR * width,
        vocabulary_size=config.number("vocab_size"),
        context_length=config.number("seq_length", default=2048, least=64),
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        query_key_value_bias=True,
        attention_output_bias=True,
        feed_forward_bias=True,
        gated_feed_forward=False,
        norm_bias=True,
        embedding_norm=True,
    )


def opt(config: ConfigValues) -> Decoder:
    """OPT: two rows of its position table are never used."""
    width = config.number("hidden_size")
    config.expect("word_embed_proj_dim", wanted=width, because="embeddings of another width than the model")
    config.expect("layer_norm_elementwise_affine", wanted=True, because="norms without parameters")
    bias = config.flag("enable_bias", default=True)
    heads, positions = config.number("num_attention_heads"), config.number("max_position_embeddings", least=64)
    return build(
        config,
        layers=config.number("num_hidden_layers"),
        hidden_size=width,
        attention_heads=heads,
        key_value_heads=heads,
        intermediate_size=config.number("ffn_dim"),
        vocabulary_size=config.number("vocab_size"),
        context_length=positions,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        learned_positions=positions + 2,
        query_key_value_bias=bias,
        attention_output_bias=bias,
        feed_forward_bias=bias,
        gated_feed_forward=False,
        norm_bias=True,
        final_norm=config.flag("do_layer_norm_before", default=True)
        and not config.flag("_remove_final_layer_norm", default=False),
    )


def falcon(config: ConfigValues) -> Decoder:
    """Falcon: multi-query attention in the first design, grouped queries and two parallel norms in the second."""
    heads = config.number("num_attention_heads")
    width = config.number("hidden_size")
    bias = config.flag("bias", default=False)
    second = config.flag("new_decoder_architecture", default=False)
    if second:
        key_value_heads = config.number("num_kv_heads", default=heads)
        norms = config.number("num_ln_in_parallel_attn", default=2)
    else:
        key_value_heads = 1 if config.flag("multi_query", default=True) else heads
        norms = 1 if config.flag("parallel_attn", default=True) else 2
    return build(
        config,
        layers=config.number("num_hidden_layers"),
        hidden_size=width,
        attention_heads=heads,
        key_value_heads=key_value_heads,
        intermediate_size=config.number("ffn_hidden_size", default=_FACTOR * width),
        vocabulary_size=config.number("vocab_size"),
        context_length=config.number("max_position_embeddings", default=2048, least=64),
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        query_key_value_bias=bias,
        attention_output_bias=bias,
        feed_forward_bias=bias,
        gated_feed_forward=False,
        norms_per_layer=norms,
        norm_bias=True,
    )


def mpt(config: ConfigValues) -> Decoder:
    """MPT, with the variants that transformers' own class can load: no biases, no position table."""
    config.expect("no_bias", wanted=True, because="transformers has no biases for it")
    attention = config.nested("attn_config")
    attention.expect("alibi", wanted=True, because="transformers has no learned positions for it")
    attention.expect("qk_ln", wanted=False, because="transformers has no norms of queries and keys for it")
    width, heads = config.number("d_model"), config.number("n_heads")
    return build(
        config,
        layers=config.number("n_layers"),
        hidden_size=width,
        attention_heads=heads,
        key_value_heads=heads,
        intermediate_size=config.number("expansion_ratio", default=_FACTOR) * width,
        vocabulary_size=config.number("vocab_size"),
        context_length=config.number("max_seq_len", default=2048, least=64),
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        gated_feed_forward=False,
    )


def phi(config: ConfigValues) -> Decoder:
    """Phi 1 and 2: one norm in a layer, biases everywhere."""
    config.expect("qk_layernorm", wanted=False, because="no published model has norms of queries and keys")
    return llama_like(
        config,
        query_key_value_bias=True,
        attention_output_bias=True,
        feed_forward_bias=True,
        head_bias=True,
        gated_feed_forward=False,
        norms_per_layer=1,
        norm_bias=True,
    )


def stablelm(config: ConfigValues) -> Decoder:
    """StableLM: layer norms; one in a layer where attention and feed-forward run side by side."""
    return llama_like(
        config,
        key_value_heads_required=True,
        query_key_value_bias=config.flag("use_qkv_bias", default=False),
        query_key_norm="all-heads" if config.flag("qk_layernorm", default=False) else None,
        norms_per_layer=1 if config.flag("use_parallel_residual", default=False) else 2,
        norm_bias=True,
    )
