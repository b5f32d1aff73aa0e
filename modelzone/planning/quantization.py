"""How large weights are once they are quantised."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from modelzone.architectures import ParameterCounts

__all__ = ["FORMATS", "WeightFormat", "weight_format"]

_WIDTH_16 = 16.0


@dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """Bits for each weight of a linear layer, its scales and zero points included.

    Embeddings, the output head and what is replicated (norms, routers) stay in 16 bits.
    """

    bits: float
    source: str
    minimum_compute_capability: str = "0.0"

    def bytes_of(self, counts: ParameterCounts) -> int:
        """Size of a whole checkpoint."""
        linear = counts.query_output + counts.key_value + counts.feed_forward
        return -(-int(linear * self.bits + (counts.total - linear) * _WIDTH_16) // 8)


_UNQUANTIZED = WeightFormat(bits=_WIDTH_16, source="fp16 and bf16")
# Groups of 128 weights share a 16-bit scale and a 4-bit zero point.
_GROUPED_4_BIT = 4 + (16 + 4) / 128
FORMATS = MappingProxyType(
    {
        "awq": WeightFormat(bits=_GROUPED_4_BIT, source="AWQ, 4 bits, groups of 128", minimum_compute_capability="7.5"),
        "gptq": WeightFormat(
            bits=_GROUPED_4_BIT, source="GPTQ, 4 bits, groups of 128", minimum_compute_capability="7.0"
        ),
        "hqq-4bit": WeightFormat(
            bits=4 + 2 * 16 / 64, source="HQQ, 4 bits, groups of 64 with 16-bit scale and zero point"
        ),
        "bitsandbytes-4bit": WeightFormat(bits=4 + 32 / 64, source="NF4, blocks of 64 with a 32-bit maximum"),
        "bitsandbytes-8bit": WeightFormat(bits=8, source="LLM.int8, scales for each row"),
        "eetq": WeightFormat(bits=8, source="EETQ, 8 bits, scales for each channel"),
        "int8": WeightFormat(bits=8, source="8 bits, scales for each channel"),
        "smoothquant": WeightFormat(bits=8, source="SmoothQuant, 8-bit weights and activations"),
        # Weights only also run on 8.0 (Marlin kernels); the servers here want the hardware type.
        "fp8": WeightFormat(bits=8, source="FP8 (E4M3), scales for each tensor", minimum_compute_capability="8.9"),
    }
)


def weight_format(quantization: str | None) -> WeightFormat:
    """The format of a `Quantization`; 16 bits without one."""
    return FORMATS[quantization] if quantization else _UNQUANTIZED
