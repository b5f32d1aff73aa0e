"""How much device memory a decoder needs.

Counts follow the weights of transformers' ``LlamaForCausalLM``, ``MistralForCausalLM`` and ``MixtralForCausalLM``
(no biases, RMS norms, rotary embeddings).
"""

from __future__ import annotations

from dataclasses import dataclass

from modelzone.hardware import Instance
from modelzone.settings.model_profile import Architecture

__all__ = ["GIB", "MemoryPlan", "kv_cache_bytes_per_token", "parameter_count", "plan_memory"]

GIB = 1024**3
_BYTES_PER_VALUE = 2  # fp16 and bf16
# Activations, the compiled graphs and the Neuron runtime's own buffers, for each core. An assumption: it lets
# in what is known to run (Mixtral at degree 8) and refuses what is known not to (degree 4). NOT VERIFIED on a device.
_RESERVE_BYTES_PER_CORE = 1 * GIB


def parameter_count(architecture: Architecture) -> int:
    """Number of weights, embeddings and output head included."""
    a = architecture
    key_value_size = a.key_value_heads * a.head_size
    attention = 2 * a.hidden_size * a.hidden_size + 2 * a.hidden_size * key_value_size
    feed_forward = a.experts * 3 * a.hidden_size * a.intermediate_size
    router = a.experts * a.hidden_size if a.experts > 1 else 0
    norms = 2 * a.hidden_size
    embeddings = a.vocabulary_size * a.hidden_size * (1 if a.tied_embeddings else 2)
    return a.layers * (attention + feed_forward + router + norms) + a.hidden_size + embeddings


def kv_cache_bytes_per_token(architecture: Architecture) -> int:
    """Bytes that keys and values of one token take over all layers, in 16-bit precision."""
    a = architecture
    return 2 * a.layers * a.key_value_heads * a.head_size * _BYTES_PER_VALUE


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes for each NeuronCore, by what they hold, and what a core has."""

    weights: int
    kv_cache: int
    reserve: int
    available: int

    @property
    def needed(self) -> int:
        """Sum of what is held."""
        return self.weights + self.kv_cache + self.reserve

    @property
    def fits(self) -> bool:
        """Whether a core can hold it."""
        return self.needed <= self.available

    def explain(self) -> str:
        """The sum in words, GiB for each core."""
        return (
            f"weights {self.weights / GIB:.2f} + KV cache {self.kv_cache / GIB:.2f} + reserve "
            f"{self.reserve / GIB:.2f} = {self.needed / GIB:.2f} GiB of {self.available / GIB:.2f} GiB a core"
        )


def plan_memory(
    architecture: Architecture,
    *,
    instance: Instance,
    tensor_parallel_degree: int,
    batch_size: int,
    sequence_length: int,
) -> MemoryPlan:
    """Share a model's weights and KV cache between the cores of one tensor-parallel group.

    Weights divide evenly. Key-value heads divide until each core has one; beyond that they are replicated.
    """
    cache = kv_cache_bytes_per_token(architecture) * batch_size * sequence_length
    shards = min(tensor_parallel_degree, architecture.key_value_heads)
    return MemoryPlan(
        weights=-(-parameter_count(architecture) * _BYTES_PER_VALUE // tensor_parallel_degree),
        kv_cache=-(-cache // shards),
        reserve=_RESERVE_BYTES_PER_CORE,
        available=int(instance.core_memory_gib * GIB),
    )
