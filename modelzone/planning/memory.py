"""How much device memory a model needs while it is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelzone.architectures import Clip, Decoder, count_parameters, kv_cache_bytes, kv_cache_bytes_per_token
from modelzone.architectures.lora import lora_adapter_parameters
from modelzone.hardware import Instance
from modelzone.planning.assumptions import assumption
from modelzone.planning.quantization import weight_format
from modelzone.planning.sharding import shard
from modelzone.settings import Adapters

__all__ = ["GIB", "MemoryItem", "MemoryPlan", "plan_memory", "weight_bytes"]

GIB = 1024**3
_VALUE_BYTES = 2  # fp16 and bf16
_LOGIT_BYTES = 4
_BITS = 8
Kind = Literal["neuron", "gpu"]


@dataclass(frozen=True, kw_only=True)
class MemoryItem:
    """Bytes on each device, what they hold, and where the figure comes from."""

    name: str
    bytes: int
    source: str


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What each device of a tensor-parallel group holds.

    Attributes
    ----------
    device
        ``NeuronCore`` or ``GPU``.
    elastic
        Bytes of the KV cache that the server can do without: paged servers start when the longest single sequence
        fits, and let requests wait for the rest.
    available
        What the server may use of the device's memory.
    """

    device: str
    items: tuple[MemoryItem, ...]
    elastic: int
    available: int

    @property
    def needed(self) -> int:
        """All items, for a full batch of sequences of the full length."""
        return sum(item.bytes for item in self.items)

    @property
    def fits(self) -> bool:
        """Whether the server starts and serves the longest sequence."""
        return self.needed - self.elastic <= self.available

    @property
    def holds_full_batch(self) -> bool:
        """Whether a full batch of sequences of the full length is held at once."""
        return self.needed <= self.available

    def held_sequences(self, batch_size: int) -> int:
        """How many of a batch's sequences of the full length are held at once."""
        cache = self.bytes_of("KV cache")
        if self.holds_full_batch or not cache:
            return batch_size
        return max(0, (self.available - self.needed + cache) * batch_size // cache)

    def bytes_of(self, name: str) -> int:
        """One item by its name; 0 when it is not there."""
        return sum(item.bytes for item in self.items if item.name == name)

    def explain(self) -> str:
        """The sum in words, GiB for each device."""
        parts = " + ".join(f"{item.name} {item.bytes / GIB:.2f}" for item in self.items if item.bytes)
        return f"{parts} = {self.needed / GIB:.2f} GiB of {self.available / GIB:.2f} GiB a {self.device}"


def weight_bytes(architecture: Decoder | Clip, quantization: str | None = None) -> int:
    """Size of a checkpoint."""
    return weight_format(quantization).bytes_of(count_parameters(architecture))


def plan_memory(
    architecture: Decoder | Clip,
    *,
    instance: Instance,
    tensor_parallel_degree: int,
    batch_size: int,
    sequence_length: int,
    quantization: str | None = None,
    adapters: Adapters | None = None,
    memory_fraction: float = 1.0,
) -> MemoryPlan:
    """Add up what each device of a tensor-parallel group holds.

    Parameters
    ----------
    memory_fraction
        Share of the device's memory that the server takes, such as vLLM's ``gpu_memory_utilization``.
    """
    kind = instance.accelerator.kind
    weights = _weights(architecture, tensor_parallel_degree, quantization)
    overhead = assumption(kind, "weight_overhead_fraction")
    reserve = assumption(kind, "runtime_reserve_bytes")
    items = [MemoryItem(name="weights", bytes=weights, source=weight_format(quantization).source)]
    one = 0
    if isinstance(architecture, Decoder):
        one = _cache(architecture, kind, tensor_parallel_degree, sequence_length)
        items.append(
            MemoryItem(name="KV cache", bytes=one * batch_size, source="exact: keys and values in 16 bits, every layer")
        )
        if adapters is not None:
            items.append(_adapters(architecture, tensor_parallel_degree, adapters))
    items.append(_activations(architecture, kind, tensor_parallel_degree, batch_size, sequence_length))
    if overhead.value:
        items.append(MemoryItem(name="code", bytes=int(weights * overhead.value), source=overhead.source))
    items.append(MemoryItem(name="reserve", bytes=int(reserve.value), source=reserve.source))
    return MemoryPlan(
        device=instance.device_name,
        items=tuple(items),
        elastic=one * (batch_size - 1) if kind == "gpu" else 0,
        available=int(instance.device_memory_bytes * memory_fraction),
    )


def _weights(architecture: Decoder | Clip, degree: int, quantization: str | None) -> int:
    counts = count_parameters(architecture)
    if isinstance(architecture, Clip):
        return counts.total * _VALUE_BYTES
    split = shard(architecture, degree)
    linear = (
        counts.query_output * split.query_padding + counts.key_value * split.key_value_padding + counts.feed_forward
    )
    whole = (counts.embeddings + counts.head) / degree + counts.replicated
    return int(linear * weight_format(quantization).bits / _BITS / degree + whole * _VALUE_BYTES) + 1


def _cache(architecture: Decoder, kind: Kind, degree: int, sequence_length: int) -> int:
    """Bytes of one sequence on one device."""
    held = kv_cache_bytes(architecture, sequence_length, bytes_per_value=_VALUE_BYTES)
    if kind == "neuron":
        # Compiled for the whole sequence in every layer, sliding window or not (optimum-neuron, kv_cache_manager).
        held = kv_cache_bytes_per_token(architecture, bytes_per_value=_VALUE_BYTES) * sequence_length
    if architecture.latent_size:
        return held  # latent attention keeps one compressed vector, which every device holds whole
    return -(-held * shard(architecture, degree).key_value_heads // architecture.key_value_heads)


def _activations(
    architecture: Decoder | Clip, kind: Kind, degree: int, batch_size: int, sequence_length: int
) -> MemoryItem:
    """One layer's values while a prompt is read; layers follow one another in the same memory."""
    copies = assumption(kind, "activation_copies")
    if isinstance(architecture, Clip):
        width = max(architecture.image.width, architecture.text.width)
        positions = max((architecture.image_size // architecture.patch_size) ** 2 + 1, sequence_length)
        held = batch_size * positions * width * (copies.value + _EXPANSION) * _VALUE_BYTES
        return MemoryItem(name="activations", bytes=int(held), source=copies.source)
    # Prompts are read one at a time on Neuron, and in bounded pieces on GPUs.
    tokens = (
        sequence_length if kind == "neuron" else min(sequence_length, int(assumption("gpu", "prefill_tokens").value))
    )
    a = architecture
    width = (a.expert_intermediate_size or a.intermediate_size) * a.experts_per_token if a.experts > 1 else 0
    expanded = 2 * max(width + a.shared_intermediate_size, a.intermediate_size) / degree
    held = tokens * (copies.value * a.hidden_size + expanded) * _VALUE_BYTES
    logits = batch_size * a.vocabulary_size * _LOGIT_BYTES / degree
    return MemoryItem(name="activations", bytes=int(held + logits), source=copies.source)


# The feed-forward layer of a transformer tower is four times as wide.
_EXPANSION = 4


def _adapters(architecture: Decoder, degree: int, adapters: Adapters) -> MemoryItem:
    """LoRA matrices A and B for the query, key, value and output projections of every layer."""
    held = adapters.count * lora_adapter_parameters(architecture, rank=adapters.rank) * _VALUE_BYTES
    return MemoryItem(
        name="adapters",
        bytes=-(-held // degree),
        source=f"exact: {adapters.count} LoRA adapters of rank {adapters.rank} on q, k, v and o, 16 bits",
    )
