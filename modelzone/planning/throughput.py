"""Output tokens a second that an instance reaches with a full batch.

A roofline: a decoding step reads the weights it uses and the KV cache once, and computes two operations for each
weight and sequence; whichever takes longer counts. It ranks candidates; `modelzone bench` measures.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelzone.architectures import Clip, Decoder, active_parameter_count, count_parameters, kv_cache_bytes
from modelzone.hardware import Instance
from modelzone.planning.assumptions import assumption
from modelzone.planning.quantization import weight_format
from modelzone.planning.sharding import shard

__all__ = ["Throughput", "estimate_throughput", "usd_per_million_tokens"]

_SECONDS_PER_HOUR = 3600
_MILLION = 1_000_000


def usd_per_million_tokens(usd_per_hour: float, tokens_per_second: float) -> float:
    """What a million tokens cost on an instance that makes `tokens_per_second` all the time."""
    return usd_per_hour / (tokens_per_second * _SECONDS_PER_HOUR) * _MILLION


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Output tokens a second of one instance with a full batch, and what the figure rests on."""

    tokens_per_second: float
    basis: str

    def usd_per_million_tokens(self, usd_per_hour: float) -> float:
        """What a million output tokens cost on an instance that is never idle."""
        return usd_per_million_tokens(usd_per_hour, self.tokens_per_second)


def estimate_throughput(
    architecture: Decoder | Clip,
    *,
    instance: Instance,
    tensor_parallel_degree: int,
    batch_size: int,
    sequence_length: int,
    quantization: str | None = None,
) -> Throughput | None:
    """Estimate for one tensor-parallel group; sequences are taken to be half full on average.

    None for models that generate no tokens.
    """
    if isinstance(architecture, Clip):
        return None
    a, degree = architecture, tensor_parallel_degree
    kind = instance.accelerator.kind
    efficiency = assumption(kind, "bandwidth_efficiency")
    counts = count_parameters(a)
    active = active_parameter_count(a)
    # Of a layer's experts, the share that a batch touches when every token picks its own at random.
    untouched = (1 - a.experts_per_token / a.experts) ** batch_size
    routed = (counts.total - active) / (1 - a.experts_per_token / a.experts) if a.experts > a.experts_per_token else 0
    read = counts.query_output + counts.key_value + counts.feed_forward - routed * untouched
    weights = read * weight_format(quantization).bits / 8 + (counts.head or counts.embeddings) * 2
    copies = shard(a, degree).key_value_padding if a.latent_size is None else degree
    cache = kv_cache_bytes(a, sequence_length // 2) * batch_size * copies
    bandwidth = instance.device_bandwidth_bytes_per_second * degree * efficiency.value
    flops = instance.accelerator.tflops_16bit * 1e12 / instance.accelerator.cores * degree
    compute = 2 * active * batch_size / (flops * assumption("both", "compute_efficiency").value)
    collectives = 2 * a.layers * assumption("both", "collective_seconds").value if degree > 1 else 0.0
    step = max((weights + cache) / bandwidth, compute) + collectives
    return Throughput(
        tokens_per_second=batch_size / step,
        basis=f"assumed: roofline at {efficiency.value:.0%} of the memory bandwidth, batch {batch_size} always full",
    )
