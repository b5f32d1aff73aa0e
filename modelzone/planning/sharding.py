"""How tensor parallelism shares a model between devices: which degrees are possible, and what padding costs."""

from __future__ import annotations

from dataclasses import dataclass

from modelzone.architectures import Clip, Decoder
from modelzone.hardware import Instance

__all__ = ["Sharding", "possible_degrees", "shard"]


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """Heads that each device of a tensor-parallel group holds.

    Attributes
    ----------
    query_padding, key_value_padding
        Weights after padding and replication, as multiples of the model's own: 1.0 when heads divide evenly.
    """

    degree: int
    query_heads: int
    key_value_heads: int
    query_padding: float
    key_value_padding: float

    @property
    def padded(self) -> bool:
        """Whether devices hold more query heads than the model has."""
        return self.query_padding > 1


def possible_degrees(instance: Instance, architecture: Decoder | Clip) -> tuple[int, ...]:
    """Tensor parallel degrees that instance and model allow together.

    Neuron pads query heads that do not divide; GPU servers refuse them. Key-value heads must divide, or be divided,
    or be as many as the query heads: otherwise optimum-neuron expands them to one for each query head, which makes
    the KV cache of a core larger than a lower degree does. CLIP towers are replicated over the devices, never sharded.
    """
    if isinstance(architecture, Clip):
        return (1,)
    a, padding = architecture, instance.accelerator.kind == "neuron"
    return tuple(
        degree
        for degree in instance.tensor_parallel_degrees
        if (padding or a.attention_heads % degree == 0)
        and (
            a.key_value_heads == a.attention_heads or a.key_value_heads % degree == 0 or degree % a.key_value_heads == 0
        )
    )


def shard(architecture: Decoder, degree: int) -> Sharding:
    """Divide the heads.

    Query heads are padded to a multiple of the degree. Key-value heads are divided when they divide, replicated up to
    one on each device when the degree is a multiple of them, and padded like the query heads otherwise
    (optimum-neuron's rule, modeling_decoder and its GQA strategies).
    """
    a = architecture
    query = -(-a.attention_heads // degree)
    if a.key_value_heads % degree == 0:
        kv = a.key_value_heads // degree
    elif degree % a.key_value_heads == 0:
        kv = 1
    else:
        kv = query
    return Sharding(
        degree=degree,
        query_heads=query,
        key_value_heads=kv,
        query_padding=query * degree / a.attention_heads,
        key_value_padding=kv * degree / a.key_value_heads,
    )
