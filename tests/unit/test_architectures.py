"""Structures and counts: what the numbers of a model come to, and which numbers cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from modelzone.architectures import (
    Clip,
    ClipTower,
    Decoder,
    active_parameter_count,
    count_parameters,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    parameter_count,
    read_config,
)
from modelzone.settings import load_profile, profile_names

ROOT = Path(__file__).resolve().parents[2]
MISTRAL = Decoder(
    type="mistral",
    layers=32,
    hidden_size=4096,
    attention_heads=32,
    key_value_heads=8,
    intermediate_size=14336,
    vocabulary_size=32000,
    context_length=32768,
)
MIXTRAL = msgspec.structs.replace(MISTRAL, type="mixtral", experts=8, experts_per_token=2)
CLIP = Clip(
    type="clip",
    image=ClipTower(layers=12, width=768, heads=12, intermediate_size=3072),
    text=ClipTower(layers=12, width=512, heads=8, intermediate_size=2048),
    image_size=224,
    patch_size=32,
    vocabulary_size=49408,
    context_length=77,
    embedding_size=512,
)


def changed(architecture: Decoder, **fields: Any) -> Decoder:
    return msgspec.structs.replace(architecture, **fields)


def test_mixtral_is_what_its_publisher_says() -> None:
    assert parameter_count(MIXTRAL) == 46_702_792_704
    assert active_parameter_count(MIXTRAL) == 12_879_925_248
    assert kv_cache_bytes(MIXTRAL, 1024) == 134_217_728
    assert parameter_count(MISTRAL) == active_parameter_count(MISTRAL) == 7_241_732_096


def test_groups_add_up_and_say_what_is_divided() -> None:
    counts = count_parameters(MIXTRAL)
    assert counts.total == parameter_count(MIXTRAL)
    assert counts.embeddings == counts.head == 32000 * 4096
    assert counts.query_output == 32 * 2 * 4096 * 4096
    assert counts.key_value == 32 * 2 * 4096 * 8 * 128
    assert counts.feed_forward == 32 * 8 * 3 * 4096 * 14336
    assert counts.replicated == 32 * (2 * 4096 + 8 * 4096) + 4096


def test_biases_go_with_their_projection() -> None:
    plain = count_parameters(MISTRAL)
    biased = count_parameters(
        changed(MISTRAL, query_key_value_bias=True, attention_output_bias=True, feed_forward_bias=True, head_bias=True)
    )
    assert biased.query_output - plain.query_output == 32 * (4096 + 4096)
    assert biased.key_value - plain.key_value == 32 * 2 * 1024
    assert biased.feed_forward - plain.feed_forward == 32 * (2 * 14336 + 4096)
    assert biased.head - plain.head == 32000
    assert (biased.embeddings, biased.replicated) == (plain.embeddings, plain.replicated)


def test_tied_embeddings_count_once() -> None:
    assert parameter_count(MISTRAL) - parameter_count(changed(MISTRAL, tied_embeddings=True)) == 32000 * 4096


def test_dense_layers_and_shared_experts() -> None:
    mixed = changed(MIXTRAL, dense_layers=2, expert_intermediate_size=2048, shared_intermediate_size=512)
    counts = count_parameters(mixed)
    assert mixed.expert_layers == 30
    assert counts.feed_forward == 3 * 4096 * (2 * 14336 + 30 * (8 * 2048 + 512))
    assert parameter_count(mixed) - active_parameter_count(mixed) == 30 * 6 * 3 * 4096 * 2048


@pytest.mark.parametrize(
    "fields",
    [
        {"layers": 33},
        {"hidden_size": 4128},
        {"key_value_heads": 4},
        {"intermediate_size": 14337},
        {"vocabulary_size": 32001},
        {"head_size": 64},
        {"experts": 9},
        {"shared_expert_gate": True},
        {"router_bias": True},
        {"dense_layers": 1, "expert_intermediate_size": 1},
        {"norms_per_layer": 1},
        {"norm_bias": True},
        {"final_norm": False},
        {"embedding_norm": True},
        {"query_key_norm": "head"},
        {"query_key_norm": "all-heads"},
        {"attention_sinks": True},
        {"learned_positions": 1},
        {"gated_feed_forward": False},
        {"value_head_size": 64},
        {"latent_size": 512, "latent_position_size": 64},
    ],
)
def test_every_field_counts(fields: dict[str, Any]) -> None:
    assert parameter_count(changed(MIXTRAL, **fields)) != parameter_count(MIXTRAL)


def test_sliding_window_caps_the_layers_that_have_one() -> None:
    all_layers = changed(MISTRAL, sliding_window=4096)
    assert kv_cache_bytes(all_layers, 4096) == kv_cache_bytes(MISTRAL, 4096)
    assert kv_cache_bytes(all_layers, 4097) == kv_cache_bytes(all_layers, 100_000) == kv_cache_bytes(MISTRAL, 4096)

    half = changed(all_layers, sliding_layers=16)
    assert kv_cache_bytes(half, 10_000) == (kv_cache_bytes(MISTRAL, 4096) + kv_cache_bytes(MISTRAL, 10_000)) // 2
    assert kv_cache_bytes_per_token(half) == 131_072
    assert changed(MISTRAL, sliding_window=4096, sliding_layers=0).windowed_layers == 0


def test_cache_of_latent_attention_is_not_divided_between_heads() -> None:
    latent = changed(
        MISTRAL, key_value_heads=32, head_size=192, latent_size=512, latent_position_size=64, value_head_size=128
    )
    assert kv_cache_bytes_per_token(latent) == 32 * (512 + 64) * 2


def test_eight_bit_cache_is_half_the_size() -> None:
    assert kv_cache_bytes(MISTRAL, 100, bytes_per_value=1) * 2 == kv_cache_bytes(MISTRAL, 100)


def test_clip() -> None:
    assert parameter_count(CLIP) == active_parameter_count(CLIP) == 151_277_313
    assert CLIP.image_positions == 50
    assert kv_cache_bytes(CLIP, 77) == 0


def test_architectures_are_keys_of_caches() -> None:
    assert len({MISTRAL, changed(MISTRAL, layers=32), MIXTRAL, CLIP}) == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"attention_heads": 33}, "hidden_size 4096 is not a multiple of attention_heads 33"),
        ({"key_value_heads": 6}, "attention_heads 32 is not a multiple of key_value_heads 6"),
        ({"experts_per_token": 9}, "experts_per_token 9 is more than experts 8"),
        ({"dense_layers": 33}, "dense_layers 33 is more than layers 32"),
        ({"sliding_window": 4096, "sliding_layers": 33}, "sliding_layers 33 is more than layers 32"),
        ({"sliding_layers": 4}, "sliding_layers is 4 and sliding_window is missing"),
        ({"latent_position_size": 64}, "latent_position_size is 64 and latent_size is missing"),
        ({"latent_size": 9, "latent_position_size": 129}, "latent_position_size 129 is more than head_size 128"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        changed(MIXTRAL, **fields)


def test_clip_numbers_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="width 768 is not a multiple of heads 7"):
        ClipTower(layers=12, width=768, heads=7, intermediate_size=3072)
    with pytest.raises(ValueError, match="patch_size 300 is more than image_size 224"):
        msgspec.structs.replace(CLIP, patch_size=300)


def test_only_what_differs_from_llama_is_written() -> None:
    written = msgspec.to_builtins(MIXTRAL)
    assert next(iter(written)) == "kind"
    assert set(written) == {
        "kind", "type", "layers", "hidden_size", "attention_heads", "key_value_heads", "intermediate_size",
        "vocabulary_size", "context_length", "experts", "experts_per_token",
    }  # fmt: skip
    assert msgspec.convert(written, Decoder | Clip) == MIXTRAL
    assert msgspec.convert(msgspec.to_builtins(CLIP), Decoder | Clip) == CLIP


def test_profiles_have_the_architecture_of_their_model() -> None:
    published = yaml.safe_load((ROOT / "tools" / "published_models.yaml").read_text(encoding="utf-8"))
    models = {name: load_profile(ROOT, name).model for name in profile_names(ROOT)}
    known = {name for name, model in models.items() if model.hub_id in published}
    assert known >= {
        "codellama-7b-instruct", "llama-2-70b-chat", "llama-3-8b-instruct", "mistral-7b-instruct",
        "mixtral-8x7b-instruct",
    }  # fmt: skip
    for name in known:
        wanted = read_config(published[models[name].hub_id], source=name)
        assert models[name].architecture == wanted
