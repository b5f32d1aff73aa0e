"""The Mixtral architecture in NumPy, in float32, for one sequence at a time.

The weights are read under the names that the Hugging Face hub uses (`model.layers.0.block_sparse_moe.experts.0.w1...`)
and the mathematics is that of `transformers`' `MixtralForCausalLM`: pre-norm decoder layers with RMSNorm, rotary
position embeddings, grouped-query attention and a sparse mixture of SwiGLU experts.

Shapes: S new tokens, T tokens in the cache afterwards, H hidden size, N query heads, K key/value heads, D head size,
E experts, I intermediate size, V vocabulary size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from modelzone.errors import ModelzoneError

__all__ = ["Array", "KeyValueCache", "Mixtral", "MixtralConfig", "route"]

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MixtralConfig:
    """The keys of Mixtral's `config.json` that the forward pass needs."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    num_local_experts: int
    num_experts_per_tok: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> MixtralConfig:
        """Take the keys from a parsed `config.json`."""
        if content.get("model_type") != "mixtral":
            raise ModelzoneError(
                f"config.json: model_type is {content.get('model_type')!r}; the model server runs 'mixtral' only."
            )
        missing = [field.name for field in fields(cls) if field.name not in content]
        if missing:
            raise ModelzoneError(f"config.json: {', '.join(missing)} missing; expected the keys of a Mixtral config.")
        return cls(**{field.name: content[field.name] for field in fields(cls)})

    @property
    def head_size(self) -> int:
        """Size of one attention head, D."""
        return self.hidden_size // self.num_attention_heads


class KeyValueCache:
    """Rotated keys and values of all tokens so far, one pair of [K, capacity, D] arrays for each layer."""

    def __init__(self, *, config: MixtralConfig, capacity: int) -> None:
        shape = (config.num_hidden_layers, config.num_key_value_heads, capacity, config.head_size)
        self.keys: Array = np.zeros(shape, dtype=np.float32)
        self.values: Array = np.zeros(shape, dtype=np.float32)
        self.capacity = capacity
        self.length = 0


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """Weights of a decoder layer, stored as [in, out] so that `x @ w` applies them.

    `query_key_value` is [H, (N + 2K) * D]; `gate` [H, E]; `gate_up` [E, H, 2I]; `down` [E, I, H].
    """

    input_norm: Array
    query_key_value: Array
    output: Array
    post_attention_norm: Array
    gate: Array
    gate_up: Array
    down: Array


class Mixtral:
    """A Mixtral model and its forward pass."""

    def __init__(self, *, config: MixtralConfig, weights: Mapping[str, NDArray[np.generic]]) -> None:
        def weight(name: str) -> Array:
            if name not in weights:
                raise ModelzoneError(f"model.safetensors: tensor {name!r} missing; expected a Mixtral checkpoint.")
            return np.asarray(weights[name], dtype=np.float32)

        def transposed(*names: str) -> Array:
            return np.ascontiguousarray(np.concatenate([weight(name) for name in names]).T)

        self.config = config
        self._layers = []
        for number in range(config.num_hidden_layers):
            layer = f"model.layers.{number}"
            experts = [f"{layer}.block_sparse_moe.experts.{expert}" for expert in range(config.num_local_experts)]
            self._layers.append(
                _Layer(
                    input_norm=weight(f"{layer}.input_layernorm.weight"),
                    query_key_value=transposed(*(f"{layer}.self_attn.{part}_proj.weight" for part in "qkv")),
                    output=transposed(f"{layer}.self_attn.o_proj.weight"),
                    post_attention_norm=weight(f"{layer}.post_attention_layernorm.weight"),
                    gate=transposed(f"{layer}.block_sparse_moe.gate.weight"),
                    gate_up=np.stack([transposed(f"{expert}.w1.weight", f"{expert}.w3.weight") for expert in experts]),
                    down=np.stack([transposed(f"{expert}.w2.weight") for expert in experts]),
                )
            )
        self._embeddings = weight("model.embed_tokens.weight")
        self._norm = weight("model.norm.weight")
        self._head = transposed("lm_head.weight")

    @classmethod
    def load(cls, folder: Path) -> Mixtral:
        """Load `config.json` and `model.safetensors` of a folder."""
        try:
            content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "model.safetensors")
        except (OSError, ValueError) as error:
            raise ModelzoneError(f"{folder}: no Mixtral checkpoint can be read here: {error}") from error
        return cls(config=MixtralConfig.from_dict(content), weights=weights)

    def new_cache(self, capacity: int) -> KeyValueCache:
        """Return an empty cache for `capacity` tokens."""
        return KeyValueCache(config=self.config, capacity=capacity)

    def forward(self, tokens: Sequence[int], cache: KeyValueCache, *, all_positions: bool = False) -> Array:
        """Run the tokens after those in the cache, which grows by them.

        Prefill passes the whole prompt, decode one token at a time.

        Returns
        -------
        Array
            Logits [V] after the last token, or [S, V] after each token with `all_positions`.
        """
        begin, end = cache.length, cache.length + len(tokens)
        if not tokens or end > min(cache.capacity, self.config.max_position_embeddings):
            raise ValueError(f"{len(tokens)} tokens after {begin} do not fit in a cache of {cache.capacity}")
        hidden: Array = self._embeddings[np.asarray(tokens)]
        rotations = _rotations(self.config, begin, end)
        for number, layer in enumerate(self._layers):
            normed = self._rms_norm(hidden, layer.input_norm)
            cached = cache.keys[number, :, :end], cache.values[number, :, :end]
            hidden = hidden + self._attention(normed, layer, cached, rotations)
            normed = self._rms_norm(hidden, layer.post_attention_norm)
            hidden = hidden + self._mixture_of_experts(normed, layer)
        cache.length = end
        hidden = self._rms_norm(hidden if all_positions else hidden[-1:], self._norm)
        logits: Array = hidden @ self._head
        return logits if all_positions else logits[0]

    def _rms_norm(self, hidden: Array, weight: Array) -> Array:
        variance = np.square(hidden).mean(axis=-1, keepdims=True)
        normed: Array = weight * (hidden / np.sqrt(variance + np.float32(self.config.rms_norm_eps)))
        return normed

    def _attention(
        self, hidden: Array, layer: _Layer, cached: tuple[Array, Array], rotations: tuple[Array, Array]
    ) -> Array:
        """Causal grouped-query attention of the last S positions: [S, H] to [S, H].

        `cached` are the layer's keys and values, [K, T, D] each; those of the S positions are written here.
        """
        config = self.config
        size, groups = config.head_size, config.num_key_value_heads
        keys, values = cached
        count, end = len(hidden), keys.shape[1]
        begin = end - count
        heads = (hidden @ layer.query_key_value).reshape(count, -1, size).transpose(1, 0, 2)  # [N + 2K, S, D]
        rotated = _rotate(heads[:-groups], *rotations)  # [N + K, S, D]
        queries = rotated[:-groups]
        keys[:, begin:] = rotated[-groups:]
        values[:, begin:] = heads[-groups:]

        # Query heads that share a key/value head are rows of one matrix product: [K, N/K * S, D] @ [K, D, T].
        scores = queries.reshape(groups, -1, size) @ keys.transpose(0, 2, 1) * np.float32(size**-0.5)
        scores = scores.reshape(-1, count, end)  # [N, S, T]
        if count > 1:
            future = np.triu(np.ones((count, end), dtype=bool), k=begin + 1)
            scores[:, future] = -np.inf
        weights = _softmax(scores)
        mixed: Array = weights.reshape(groups, -1, end) @ values  # [K, N/K * S, D]
        merged = mixed.reshape(-1, count, size).transpose(1, 0, 2).reshape(count, -1)
        output: Array = merged @ layer.output
        return output

    def _mixture_of_experts(self, hidden: Array, layer: _Layer) -> Array:
        """Sum of each token's chosen experts, weighted by the router: [S, H] to [S, H]."""
        experts, weights = route(hidden @ layer.gate, self.config.num_experts_per_tok)
        output: Array = np.zeros_like(hidden)
        for expert in set(experts.flat):
            rows, places = np.nonzero(experts == expert)
            gate_up = hidden[rows] @ layer.gate_up[expert]
            gate, up = gate_up[:, : self.config.intermediate_size], gate_up[:, self.config.intermediate_size :]
            # SwiGLU: silu(x W1) * (x W3); the sigmoid is written with tanh, which cannot overflow.
            activated = np.float32(0.5) * gate * (1 + np.tanh(np.float32(0.5) * gate)) * up
            output[rows] += weights[rows, places, None] * (activated @ layer.down[expert])
        return output


def route(logits: Array, chosen: int) -> tuple[NDArray[np.intp], Array]:
    """Choose experts as Mixtral does: softmax over all experts, keep the best, divide by their sum.

    Parameters
    ----------
    logits
        Scores of the router, [S, E].
    chosen
        Experts for each token, k.

    Returns
    -------
    tuple
        Numbers of the experts and their weights, both [S, k], the best first; the weights of a token sum to one.
    """
    probabilities = _softmax(logits)
    experts = np.argsort(-probabilities, axis=-1, kind="stable")[:, :chosen]
    weights = np.take_along_axis(probabilities, experts, axis=-1)
    normalised: Array = weights / weights.sum(axis=-1, keepdims=True)
    return experts, normalised


def _softmax(scores: Array) -> Array:
    """Softmax over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _rotations(config: MixtralConfig, begin: int, end: int) -> tuple[Array, Array]:
    """Return cosine and sine of the angles of positions begin to end, [S, D/2] each."""
    exponents = np.arange(0, config.head_size, 2, dtype=np.float32) / np.float32(config.head_size)
    frequencies = np.asarray(1 / np.float32(config.rope_theta) ** exponents, dtype=np.float32)
    angles: Array = np.arange(begin, end, dtype=np.float32)[:, None] * frequencies
    return np.cos(angles), np.sin(angles)


def _rotate(heads: Array, cosine: Array, sine: Array) -> Array:
    """Apply rotary position embeddings to heads [..., S, D]: element i turns with element i + D/2."""
    half = heads.shape[-1] // 2
    first, second = heads[..., :half], heads[..., half:]
    rotated: Array = np.empty_like(heads)
    rotated[..., :half] = first * cosine - second * sine
    rotated[..., half:] = second * cosine + first * sine
    return rotated
