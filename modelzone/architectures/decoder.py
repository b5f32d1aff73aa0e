"""The numbers of a decoder's ``config.json`` that decide how much memory it needs."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from modelzone.schema import Settings

__all__ = ["Decoder"]

Count = Annotated[int, Meta(ge=1)]
Size = Annotated[int, Meta(ge=0)]


class Decoder(Settings, tag_field="kind", tag="decoder", frozen=True, omit_defaults=True):
    """A decoder that generates text. Whatever is left out is as in Llama.

    Parameters
    ----------
    type
        ``model_type`` of ``config.json``.
    head_size
        Width of one attention head; without it `hidden_size` divided by `attention_heads`.
    tied_embeddings
        The output projection is the embedding table.
    query_key_value_bias, attention_output_bias, feed_forward_bias, head_bias
        Which projections have a bias; ``head`` is the output projection to the vocabulary.
    gated_feed_forward
        Three matrices (gate, up, down) in place of two.
    experts, experts_per_token
        Feed-forward networks of a layer between which a router chooses, and how many it chooses for a token.
    expert_intermediate_size
        Inner width of one expert; without it `intermediate_size`.
    shared_intermediate_size
        Inner width of the experts that every token passes, all of them together.
    shared_expert_gate, router_bias
        The shared expert's output is gated; the router has a bias.
    dense_layers
        Layers that have one feed-forward network of `intermediate_size` in place of experts.
    norms_per_layer, norm_bias, final_norm, embedding_norm
        Norms as wide as the model: how many in a layer, whether with bias, whether after the last layer and after the
        embeddings.
    query_key_norm
        Norms of queries and keys: one for the width of a head, or one for the width of all heads.
    attention_sinks
        A learned logit for each attention head.
    learned_positions
        Rows of a learned position table.
    sliding_window, sliding_layers
        Tokens that a layer with a window keeps, and how many layers have one; without a number all have.
    latent_size, latent_position_size, query_latent_size, value_head_size
        Multi-head latent attention: widths of the compressed keys and values, of the key's rotary part (which is part
        of `head_size`), of the compressed queries, and of one value head.
    """

    type: str
    layers: Annotated[int, Meta(ge=1, le=512)]
    hidden_size: Count
    attention_heads: Count
    key_value_heads: Count
    intermediate_size: Count
    vocabulary_size: Count
    context_length: Annotated[int, Meta(ge=64)]
    head_size: Count | None = None
    tied_embeddings: bool = False
    query_key_value_bias: bool = False
    attention_output_bias: bool = False
    feed_forward_bias: bool = False
    head_bias: bool = False
    gated_feed_forward: bool = True
    experts: Count = 1
    experts_per_token: Count = 1
    expert_intermediate_size: Count | None = None
    shared_intermediate_size: Size = 0
    shared_expert_gate: bool = False
    router_bias: bool = False
    dense_layers: Size = 0
    norms_per_layer: Annotated[int, Meta(ge=0, le=8)] = 2
    norm_bias: bool = False
    final_norm: bool = True
    embedding_norm: bool = False
    query_key_norm: Literal["head", "all-heads"] | None = None
    attention_sinks: bool = False
    learned_positions: Size = 0
    sliding_window: Count | None = None
    sliding_layers: Count | None = None
    latent_size: Count | None = None
    latent_position_size: Size = 0
    query_latent_size: Count | None = None
    value_head_size: Count | None = None

    def __post_init__(self) -> None:
        if self.head_size is None and self.hidden_size % self.attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of attention_heads {self.attention_heads}; "
                "give head_size"
            )
        if self.attention_heads % self.key_value_heads:
            raise ValueError(
                f"attention_heads {self.attention_heads} is not a multiple of key_value_heads {self.key_value_heads}"
            )
        for smaller, larger in (
            ("experts_per_token", "experts"),
            ("dense_layers", "layers"),
            ("sliding_layers", "layers"),
            ("latent_position_size", "head_width"),
        ):
            low, high = getattr(self, smaller), getattr(self, larger)
            if low is not None and low > high:
                raise ValueError(f"{smaller} {low} is more than {larger.replace('head_width', 'head_size')} {high}")
        for name, needed in (("sliding_layers", "sliding_window"), ("latent_position_size", "latent_size")):
            if getattr(self, name) and getattr(self, needed) is None:
                raise ValueError(f"{name} is {getattr(self, name)} and {needed} is missing")

    @property
    def head_width(self) -> int:
        """Width of one query or key head."""
        return self.head_size or self.hidden_size // self.attention_heads

    @property
    def value_width(self) -> int:
        """Width of one value head."""
        return self.value_head_size or self.head_width

    @property
    def expert_layers(self) -> int:
        """Layers with a router and experts."""
        return self.layers - self.dense_layers if self.experts > 1 else 0

    @property
    def windowed_layers(self) -> int:
        """Layers that keep no more than `sliding_window` tokens."""
        if self.sliding_window is None:
            return 0
        return self.layers if self.sliding_layers is None else self.sliding_layers
