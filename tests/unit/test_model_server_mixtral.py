"""The NumPy Mixtral by itself, on random weights; tests/contract compares it with transformers."""

from __future__ import annotations

import numpy as np
import pytest

from modelzone.errors import ModelzoneError
from modelzone.local.model_server.mixtral import Array, Mixtral, MixtralConfig, route

CONFIG = {
    "model_type": "mixtral",
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
}
TOKENS = [3, 17, 5, 5, 39, 0, 21]


def random_weights() -> dict[str, Array]:
    generator = np.random.default_rng(7)

    def matrix(*shape: int) -> Array:
        return generator.normal(scale=0.3, size=shape).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": matrix(40, 24),
        "model.norm.weight": matrix(24),
        "lm_head.weight": matrix(40, 24),
    }
    for number in range(2):
        layer = f"model.layers.{number}"
        weights |= {
            f"{layer}.input_layernorm.weight": matrix(24),
            f"{layer}.post_attention_layernorm.weight": matrix(24),
            f"{layer}.self_attn.q_proj.weight": matrix(24, 24),
            f"{layer}.self_attn.k_proj.weight": matrix(8, 24),
            f"{layer}.self_attn.v_proj.weight": matrix(8, 24),
            f"{layer}.self_attn.o_proj.weight": matrix(24, 24),
            f"{layer}.block_sparse_moe.gate.weight": matrix(5, 24),
        }
        for expert in range(5):
            prefix = f"{layer}.block_sparse_moe.experts.{expert}"
            weights[f"{prefix}.w1.weight"] = matrix(20, 24)
            weights[f"{prefix}.w2.weight"] = matrix(24, 20)
            weights[f"{prefix}.w3.weight"] = matrix(20, 24)
    return weights


@pytest.fixture(scope="module")
def model() -> Mixtral:
    return Mixtral(config=MixtralConfig.from_dict(CONFIG), weights=random_weights())


def test_the_two_best_experts_share_a_weight_of_one() -> None:
    logits = np.log(np.array([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.15, 0.05]], dtype=np.float32))
    experts, weights = route(logits, 2)
    assert experts.tolist() == [[1, 3], [0, 2]]
    np.testing.assert_allclose(weights, [[4 / 7, 3 / 7], [0.7 / 0.85, 0.15 / 0.85]], rtol=1e-5)


def test_decoding_with_the_cache_equals_the_forward_pass_without(model: Mixtral) -> None:
    whole = model.forward(TOKENS, model.new_cache(len(TOKENS)), all_positions=True)
    cache = model.new_cache(len(TOKENS))
    steps = [model.forward(TOKENS[:3], cache)] + [model.forward([token], cache) for token in TOKENS[3:]]
    np.testing.assert_allclose(np.stack(steps), whole[2:], atol=1e-5)


def test_a_prompt_in_two_pieces_equals_the_prompt_as_a_whole(model: Mixtral) -> None:
    whole = model.forward(TOKENS, model.new_cache(16), all_positions=True)
    cache = model.new_cache(16)
    model.forward(TOKENS[:2], cache)
    np.testing.assert_allclose(model.forward(TOKENS[2:], cache, all_positions=True), whole[2:], atol=1e-5)


def test_attention_looks_back_only(model: Mixtral) -> None:
    changed = [*TOKENS[:-1], 11]
    logits = [model.forward(tokens, model.new_cache(16), all_positions=True) for tokens in (TOKENS, changed)]
    np.testing.assert_array_equal(logits[0][:-1], logits[1][:-1])
    assert not np.allclose(logits[0][-1], logits[1][-1])


def test_order_matters(model: Mixtral) -> None:
    # Without position embeddings the last token would see the same set of earlier tokens.
    one = model.forward([1, 2, 3, 4], model.new_cache(8))
    other = model.forward([2, 1, 3, 4], model.new_cache(8))
    assert not np.allclose(one, other, atol=1e-3)


def test_everything_is_computed_in_32_bits(model: Mixtral) -> None:
    assert model.forward(TOKENS, model.new_cache(16)).dtype == np.float32


def test_a_full_cache_is_an_error(model: Mixtral) -> None:
    cache = model.new_cache(4)
    model.forward([1, 2, 3, 4], cache)
    with pytest.raises(ValueError, match="do not fit"):
        model.forward([5], cache)


def test_a_missing_tensor_is_named() -> None:
    weights = random_weights()
    del weights["model.layers.1.block_sparse_moe.experts.4.w2.weight"]
    with pytest.raises(ModelzoneError, match=r"layers\.1\.block_sparse_moe\.experts\.4\.w2\.weight"):
        Mixtral(config=MixtralConfig.from_dict(CONFIG), weights=weights)


def test_other_architectures_are_refused() -> None:
    with pytest.raises(ModelzoneError, match="'llama'"):
        MixtralConfig.from_dict({**CONFIG, "model_type": "llama"})


def test_missing_config_keys_are_named() -> None:
    with pytest.raises(ModelzoneError, match="rope_theta missing"):
        MixtralConfig.from_dict({key: value for key, value in CONFIG.items() if key != "rope_theta"})
