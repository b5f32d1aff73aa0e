"""Parameter counts, exact to the last one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from modelzone.architectures.clip import Clip, ClipTower
from modelzone.architectures.decoder import Decoder

__all__ = ["ParameterCounts", "active_parameter_count", "count_parameters", "parameter_count"]


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Parameters of all layers together, by how tensor parallelism treats them; a bias goes with its projection."""

    embeddings: int  # token and learned position tables, patch projection
    head: int  # output projection to the vocabulary (0 when tied) or to the common space of CLIP
    query_output: int  # attention: query and output projections
    key_value: int  # attention: key and value projections
    feed_forward: int  # all experts, shared ones included
    replicated: int  # routers, norms, compressing projections: everything that every device holds whole

    @property
    def total(self) -> int:
        """All of them."""
        return self.embeddings + self.head + self.query_output + self.key_value + self.feed_forward + self.replicated


@lru_cache(maxsize=1024)
def count_parameters(architecture: Decoder | Clip) -> ParameterCounts:
    """Count by group. A table that is used twice (tied embeddings) counts once."""
    return _count_clip(architecture) if isinstance(architecture, Clip) else _count_decoder(architecture)


def parameter_count(architecture: Decoder | Clip) -> int:
    """All weights."""
    return count_parameters(architecture).total


def active_parameter_count(architecture: Decoder | Clip) -> int:
    """Weights that one token passes through."""
    total = parameter_count(architecture)
    if isinstance(architecture, Clip):
        return total
    idle = architecture.experts - architecture.experts_per_token
    return total - architecture.expert_layers * idle * _expert(architecture)


def _linear(inputs: int, outputs: int, *, bias: bool = False) -> int:
    return inputs * outputs + (outputs if bias else 0)


def _feed_forward(width: int, inner: int, *, gated: bool, bias: bool) -> int:
    return (2 if gated else 1) * _linear(width, inner, bias=bias) + _linear(inner, width, bias=bias)


def _count_decoder(a: Decoder) -> ParameterCounts:
    query_output, key_value, compressing = _latent_attention(a) if a.latent_size else _attention(a)
    feed_forward, routers = _feed_forwards(a)
    norm = a.hidden_size * (2 if a.norm_bias else 1)
    norms = norm * (a.layers * a.norms_per_layer + a.final_norm + a.embedding_norm)
    return ParameterCounts(
        embeddings=(a.vocabulary_size + a.learned_positions) * a.hidden_size,
        head=(0 if a.tied_embeddings else a.vocabulary_size * a.hidden_size)
        + (a.vocabulary_size if a.head_bias else 0),
        query_output=a.layers * query_output,
        key_value=a.layers * key_value,
        feed_forward=feed_forward,
        replicated=norms + routers + a.layers * (compressing + _query_key_norms(a)),
    )


def _attention(a: Decoder) -> tuple[int, int, int]:
    """Query and output, key and value, and what is not divided, of one layer."""
    queries, keys = a.attention_heads * a.head_width, a.key_value_heads * a.head_width
    values = a.key_value_heads * a.value_width
    query = _linear(a.hidden_size, queries, bias=a.query_key_value_bias)
    output = _linear(a.attention_heads * a.value_width, a.hidden_size, bias=a.attention_output_bias)
    sinks = a.attention_heads if a.attention_sinks else 0
    return query + output + sinks, _linear(a.hidden_size, keys + values, bias=a.query_key_value_bias), 0


def _latent_attention(a: Decoder) -> tuple[int, int, int]:
    """As `_attention`: queries, keys and values are expanded from a compressed form that has a norm of its own."""
    latent, heads = a.latent_size or 0, a.attention_heads
    queries = heads * a.head_width
    compressing = a.hidden_size * (latent + a.latent_position_size) + latent
    if a.query_latent_size:
        compressing += a.hidden_size * a.query_latent_size + a.query_latent_size
    query = (a.query_latent_size or a.hidden_size) * queries
    output = heads * a.value_width * a.hidden_size
    return query + output, latent * heads * (a.head_width - a.latent_position_size + a.value_width), compressing


def _query_key_norms(a: Decoder) -> int:
    if a.query_key_norm is None:
        return 0
    return a.head_width * (2 if a.query_key_norm == "head" else a.attention_heads + a.key_value_heads)


def _expert(a: Decoder) -> int:
    inner = a.expert_intermediate_size or a.intermediate_size
    return _feed_forward(a.hidden_size, inner, gated=a.gated_feed_forward, bias=a.feed_forward_bias)


def _feed_forwards(a: Decoder) -> tuple[int, int]:
    """Feed-forward networks, and what chooses between them, of all layers."""
    gated, bias = a.gated_feed_forward, a.feed_forward_bias
    dense = (a.layers - a.expert_layers) * _feed_forward(a.hidden_size, a.intermediate_size, gated=gated, bias=bias)
    shared = (
        _feed_forward(a.hidden_size, a.shared_intermediate_size, gated=gated, bias=bias)
        if a.shared_intermediate_size
        else 0
    )
    router = _linear(a.hidden_size, a.experts, bias=a.router_bias) + (a.hidden_size if a.shared_expert_gate else 0)
    return dense + a.expert_layers * (a.experts * _expert(a) + shared), a.expert_layers * router


def _count_clip(a: Clip) -> ParameterCounts:
    towers = (_tower(a.image), _tower(a.text))
    patches = _linear(a.image_channels * a.patch_size**2, a.image.width, bias=a.image_biases)
    image_norms = 2 * a.image.width * (2 if a.image_pre_norm else 1)
    scale = 1
    return ParameterCounts(
        # The class token stands with the positions: both are rows that are added to what the layers see.
        embeddings=(a.vocabulary_size + a.context_length) * a.text.width
        + patches
        + (a.image_positions + 1) * a.image.width,
        head=_linear(a.image.width, a.embedding_size, bias=a.image_biases) + a.text.width * a.embedding_size,
        query_output=sum(tower[0] for tower in towers),
        key_value=sum(tower[1] for tower in towers),
        feed_forward=sum(tower[2] for tower in towers),
        replicated=sum(tower[3] for tower in towers) + image_norms + 2 * a.text.width + scale,
    )


def _tower(t: ClipTower) -> tuple[int, int, int, int]:
    """Query and output, key and value, feed-forward, and norms of all layers."""
    projection = _linear(t.width, t.width, bias=True)
    key = _linear(t.width, t.width, bias=t.key_bias)
    feed_forward = _feed_forward(t.width, t.intermediate_size, gated=t.gated_feed_forward, bias=True)
    norms = 2 * (2 * t.width + (t.width + t.intermediate_size if t.inner_norms else 0))
    return t.layers * 2 * projection, t.layers * (projection + key), t.layers * feed_forward, t.layers * norms
