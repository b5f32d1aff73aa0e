"""How large LoRA adapters are (Hu et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterable

from modelzone.architectures.decoder import Decoder

__all__ = ["lora_adapter_parameters"]


def lora_adapter_parameters(architecture: Decoder, *, rank: int, modules: Iterable[str] = ("q", "k", "v", "o")) -> int:
    """Count an adapter's parameters: for every layer and module a matrix into the rank and one out of it.

    Modules are ``q``, ``k``, ``v``, ``o`` and ``gate``, ``up``, ``down``, which every expert has. With latent attention
    the full projections are counted, which is more than adapters of the compressed ones take.
    """
    a = architecture
    attention = {
        "q": a.hidden_size + a.attention_heads * a.head_width,
        "k": a.hidden_size + a.key_value_heads * a.head_width,
        "v": a.hidden_size + a.key_value_heads * a.value_width,
        "o": a.attention_heads * a.value_width + a.hidden_size,
    }
    experts = a.experts * (a.hidden_size + (a.expert_intermediate_size or a.intermediate_size))
    shared = a.hidden_size + a.shared_intermediate_size if a.shared_intermediate_size else 0
    sparse = a.expert_layers
    feed_forward = sparse * (experts + shared) + (a.layers - sparse) * (a.hidden_size + a.intermediate_size)
    total = 0
    for module in modules:
        if module in attention:
            total += a.layers * attention[module]
        elif module in {"up", "down"} or (module == "gate" and a.gated_feed_forward):
            total += feed_forward
        else:
            raise ValueError(f"the model has no module {module!r}")
    return rank * total
