"""From config.json to an architecture: readers, defaults of absent keys, refusals, quantisation."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from modelzone.architectures import MODEL_TYPES, Clip, Decoder, parameter_count, quantization_of, read_config
from modelzone.errors import SettingsError
from modelzone.settings.model_profile import Quantization

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


def read(**changes: Any) -> Decoder:
    architecture = read_config(LLAMA | changes, source="config.json")
    assert isinstance(architecture, Decoder)
    return architecture


def refusal(config: dict[str, Any]) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        read_config(config, source="m/config.json")
    assert caught.value.source == "m/config.json"
    assert caught.value.fix
    return caught.value


def test_llama_without_optional_keys_has_as_many_key_value_heads_as_heads() -> None:
    assert read().key_value_heads == 32
    assert read(num_key_value_heads=None).key_value_heads == 32
    assert parameter_count(read()) == 6_738_415_616


def test_a_head_size_that_follows_from_the_rest_is_left_out() -> None:
    assert read(head_dim=128).head_size is None
    assert read(head_dim=64).head_size == 64


def test_mistral_without_the_key_has_a_window_and_with_null_none() -> None:
    mistral = {"model_type": "mistral", "num_key_value_heads": 8}
    assert read(**mistral).sliding_window == 4096
    assert read(**mistral, sliding_window=None).sliding_window is None


def test_qwen_has_a_window_only_when_it_is_switched_on() -> None:
    qwen = {"model_type": "qwen2", "num_key_value_heads": 4, "sliding_window": 4096, "max_window_layers": 28}
    assert read(**qwen).sliding_window is None
    switched_on = read(**qwen, use_sliding_window=True)
    assert (switched_on.sliding_window, switched_on.sliding_layers) == (4096, 4)


def test_layer_types_say_which_layers_have_a_window() -> None:
    gemma = {"model_type": "gemma2", "num_key_value_heads": 4, "num_hidden_layers": 3}
    assert read(**gemma).sliding_layers == 2
    types = ["full_attention", "sliding_attention", "full_attention"]
    assert read(**gemma, layer_types=types).sliding_layers == 1
    assert read(**gemma, layer_types=["full_attention"] * 3).sliding_window is None
    assert read(**gemma, layer_types=["sliding_attention"] * 3).sliding_layers is None


def test_layer_types_that_do_not_fit_are_refused() -> None:
    short = refusal(LLAMA | {"layer_types": ["full_attention"]})
    assert (short.key, short.problem) == ("layer_types", "names 1 layers of 32")
    other = refusal(LLAMA | {"layer_types": ["full_attention"] * 31 + ["linear_attention"]})
    assert other.problem == "has linear_attention"


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"]
)
def test_a_missing_size_is_named(key: str) -> None:
    error = refusal({name: value for name, value in LLAMA.items() if name != key})
    assert (error.key, error.problem) == (key, "is required and missing")


@pytest.mark.parametrize("value", ["4096", 4096.0, True, 0, -1, [4096]])
def test_a_size_of_the_wrong_form_is_refused(value: object) -> None:
    error = refusal(LLAMA | {"hidden_size": value})
    assert (error.key, error.problem) == ("hidden_size", f"is {value!r}")


def test_other_values_of_the_wrong_form_are_refused() -> None:
    assert refusal(LLAMA | {"attention_bias": "yes"}).key == "attention_bias"
    assert refusal(LLAMA | {"layer_types": "full_attention"}).key == "layer_types"
    qwen = LLAMA | {"model_type": "qwen3_moe", "num_key_value_heads": 4}
    assert refusal(qwen | {"mlp_only_layers": ["first"]}).key == "mlp_only_layers"
    assert refusal({"model_type": "clip", "text_config": 3}).key == "text_config"


def test_keys_of_a_part_are_named_with_the_part() -> None:
    assert refusal({"model_type": "clip", "vision_config": {"hidden_size": "x"}}).key == "vision_config.hidden_size"


def test_numbers_that_contradict_each_other_are_refused() -> None:
    error = refusal(LLAMA | {"num_attention_heads": 31})
    assert "hidden_size 4096 is not a multiple of attention_heads 31" in error.problem
    assert "width 768 is not a multiple" in refusal(
        {"model_type": "clip", "vision_config": {"num_attention_heads": 7}}
    ).problem  # fmt: skip


def test_an_unknown_type_lists_the_known_ones() -> None:
    error = refusal(LLAMA | {"model_type": "lama"})
    assert error.key == "model_type"
    assert "did you mean llama?" in error.fix
    assert all(name in error.fix for name in MODEL_TYPES)


@pytest.mark.parametrize("value", [None, 3])
def test_no_type_is_refused(value: object) -> None:
    assert refusal({"model_type": value}).key == "model_type"


def test_a_model_of_several_parts_is_refused_and_its_text_part_named() -> None:
    error = refusal({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}, "vision_config": {}})
    assert "'gemma3' is a model of several parts" in error.problem
    assert "gemma3_text" in error.fix


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model_type": "opt", "ffn_dim": 4096, "word_embed_proj_dim": 512}, "word_embed_proj_dim"),
        ({"model_type": "phi", "qk_layernorm": True}, "qk_layernorm"),
        ({"model_type": "mpt", "d_model": 4096, "n_heads": 32, "attn_config": {"alibi": False}}, "attn_config.alibi"),
        ({"model_type": "mpt", "d_model": 4096, "n_heads": 32, "no_bias": False}, "no_bias"),
        ({"model_type": "deepseek_v3", "attention_bias": True}, "attention_bias"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_variants_that_are_not_counted_are_refused(config: dict[str, Any], key: str) -> None:
    error = refusal(LLAMA | config)
    assert error.key == key
    assert "cannot be sized" in error.fix


def test_layers_without_experts_are_counted() -> None:
    qwen = {
        "model_type": "qwen3_moe", "num_key_value_heads": 4, "num_hidden_layers": 8,
        "decoder_sparse_step": 2, "mlp_only_layers": [1, 2],
    }  # fmt: skip
    # Layers 0, 2, 4, 6 stand between the steps; 1 is named as well.
    assert read(**qwen).dense_layers == 5


def test_the_switches_of_falcon() -> None:
    falcon = {"model_type": "falcon"}
    assert (read(**falcon).key_value_heads, read(**falcon).norms_per_layer) == (1, 1)
    sequential = read(**falcon, multi_query=False, parallel_attn=False)
    assert (sequential.key_value_heads, sequential.norms_per_layer) == (32, 2)
    second = read(**falcon, new_decoder_architecture=True, num_kv_heads=8)
    assert (second.key_value_heads, second.norms_per_layer) == (8, 2)
    assert read(**falcon, new_decoder_architecture=True, num_ln_in_parallel_attn=1).norms_per_layer == 1


def test_clip_parts_that_are_left_out_are_those_of_the_smallest() -> None:
    clip = read_config({"model_type": "clip"}, source="config.json")
    assert parameter_count(clip) == 151_277_313
    older = {"model_type": "clip", "text_config_dict": {"hidden_size": 768}, "text_config": {"hidden_size": 512}}
    found = read_config(older, source="config.json")
    assert isinstance(found, Clip)
    assert found.text.width == 768


def open_clip_config(tower: str) -> dict[str, Any]:
    text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
    vision = {"image_size": 224, "timm_model_name": tower}
    return {"model_cfg": {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}


def test_eva02_clip() -> None:
    eva = read_config(open_clip_config("eva02_base_patch16_clip_224"), source="open_clip_config.json")
    assert eva.type == "eva02_clip"
    assert parameter_count(eva) == 149_691_137
    error = refusal(open_clip_config("vit_base_patch16_224"))
    assert error.key == "model_cfg.vision_cfg.timm_model_name"
    assert "eva02_base_patch16_clip_224" in error.fix


COMPRESSED = {"config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8}}}}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "gptq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "eetq"}, "eetq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, "bitsandbytes-8bit"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes-4bit"),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}, "hqq-4bit"),
        ({"quant_method": "compressed-tensors", **COMPRESSED}, "fp8"),
    ],
)
def test_quantisation_has_the_name_that_profiles_use(settings: dict[str, Any], name: str) -> None:
    assert quantization_of({"quantization_config": settings}) == name
    assert name in get_args(Quantization)


def test_weights_that_are_not_quantised() -> None:
    assert quantization_of(LLAMA) is None
    assert quantization_of({"quantization_config": None}) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "mxfp4"},
        {"quant_method": "bitsandbytes"},
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 2}}},
        {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"type": "int", "num_bits": 4}}}},
        {"quant_method": ["awq"]},
        {},
    ],
)
def test_other_quantisation_is_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        quantization_of({"quantization_config": settings}, source="config.json")
    assert caught.value.key == "quantization_config.quant_method"
    assert repr(settings.get("quant_method")) in caught.value.problem
    assert "awq" in caught.value.fix


@pytest.mark.parametrize("method", ["awq", "gptq"])
@pytest.mark.parametrize(
    ("key", "value"), [("bits", 3), ("bits", 8), ("bits", "4"), ("bits", [4]), ("group_size", 32), ("group_size", 64)]
)
def test_grouped_weights_of_another_size_are_refused(method: str, key: str, value: Any) -> None:
    """The planner counts 4 bits in groups of 128."""
    settings = {"quant_method": method, "bits": 4, "group_size": 128, key: value}
    with pytest.raises(SettingsError) as caught:
        quantization_of({"quantization_config": settings}, source="m/config.json")
    assert (caught.value.source, caught.value.key) == ("m/config.json", f"quantization_config.{key}")
    assert f"is {value!r}: profiles know {method}" in caught.value.problem
    assert caught.value.fix == "take a checkpoint in 4 bits with groups of 128"
