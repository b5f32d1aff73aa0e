"""What most decoders' configs share."""

from __future__ import annotations

from typing import Any

from modelzone.architectures.config_values import REQUIRED, ConfigValues
from modelzone.architectures.decoder import Decoder
from modelzone.errors import SettingsError

__all__ = ["Fields", "attention_bias", "build", "llama_like", "windows"]

# What transformers calls the layers that keep a bounded number of tokens.
_WINDOWED = ("sliding_attention", "chunked_attention")
_LEAST_CONTEXT = 64
# Arguments of `Decoder`.
Fields = dict[str, Any]


def llama_like(
    config: ConfigValues,
    *,
    tied: bool = False,
    key_value_heads_required: bool = False,
    head_size: int | None = None,
    **fields: Any,
) -> Decoder:
    """Read a config that has Llama's keys.

    `tied` and `head_size` are the defaults of absent keys. Where transformers' default for ``num_key_value_heads`` is
    a number of its own, which fits one size of the model only, the key is required.
    """
    heads = config.number("num_attention_heads")
    required = key_value_heads_required and "num_key_value_heads" not in config.values
    return build(
        config,
        layers=config.number("num_hidden_layers"),
        hidden_size=config.number("hidden_size"),
        attention_heads=heads,
        key_value_heads=config.number("num_key_value_heads", default=REQUIRED if required else heads),
        head_size=config.optional_number("head_dim", head_size),
        intermediate_size=fields.pop("intermediate_size", None) or config.number("intermediate_size"),
        vocabulary_size=config.number("vocab_size"),
        context_length=config.number("max_position_embeddings", least=_LEAST_CONTEXT),
        tied_embeddings=config.flag("tie_word_embeddings", default=tied),
        **{**windows(config), **fields},
    )


def build(config: ConfigValues, **fields: Any) -> Decoder:
    """Make the decoder; a head size that follows from the other numbers is left out."""
    if fields.get("head_size") == fields["hidden_size"] / fields["attention_heads"]:
        fields["head_size"] = None
    try:
        return Decoder(type=config.values["model_type"], **fields)
    except ValueError as error:
        raise SettingsError(
            source=config.source,
            key=config.prefix.rstrip("."),
            problem=f"its numbers contradict each other: {error}",
            fix="take the config.json from the model's own repository, unchanged",
        ) from None


def attention_bias(config: ConfigValues, *, default: bool = False) -> Fields:
    """Read the flag that gives all four projections of the attention a bias."""
    bias = config.flag("attention_bias", default=default)
    return {"query_key_value_bias": bias, "attention_output_bias": bias}


def windows(
    config: ConfigValues, *, key: str = "sliding_window", default: int | None = None, layers: int | None = None
) -> Fields:
    """Read the sliding window.

    `default` stands for an absent window. `layers` is how many layers have one unless ``layer_types`` says it; without
    a number all have.
    """
    window = config.optional_number(key, default) if config.values.get(key, default) else None
    total = config.number("num_hidden_layers")
    types = config.texts("layer_types")
    if types is not None:
        if len(types) != total:
            config.refuse("layer_types", f"names {len(types)} layers of {total}", fix="name every layer once")
        if unknown := sorted({*types} - {*_WINDOWED, "full_attention"}):
            config.refuse("layer_types", f"has {', '.join(unknown)}", fix="only attention layers can be sized")
        layers = sum(name in _WINDOWED for name in types)
    if window is None or layers == 0:
        return {}
    fields: Fields = {"sliding_window": window}
    return fields if layers in {None, total} else fields | {"sliding_layers": layers}
