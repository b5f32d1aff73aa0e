"""Sizes of architectures against the models that transformers and open_clip build, without memory, at real sizes."""

from __future__ import annotations

import logging
import subprocess
from typing import Any

import msgspec
import pytest

from modelzone.architectures import MODEL_TYPES, Clip, Decoder, kv_cache_bytes, parameter_count, read_config
from modelzone.errors import SettingsError
from tools import architectures as tool

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NAMES = tuple(tool.published_models())
# Few layers build in milliseconds; these are enough for leading dense layers and for windows that repeat after four.
LAYERS = 4


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    """Configs of real sizes with token ids of the default ones: transformers warns, no size depends on them."""
    logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def checks() -> dict[str, tool.Check]:
    return {name: tool.check_transformers(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_cache_are_those_of_the_model(checks: dict[str, tool.Check], name: str) -> None:
    check = checks[name]
    assert check.differences() == []
    if isinstance(check.architecture, Decoder):
        assert set(check.cache) == set(tool.TOKENS)


@pytest.mark.parametrize("name", NAMES)
def test_what_transformers_writes_reads_the_same(name: str) -> None:
    config = tool.published_models()[name]
    written = tool.transformers_config(config).to_dict()
    assert read_config(written, source="written") == read_config(config, source="published")


def test_every_model_type_is_checked() -> None:
    types = {str(config["model_type"]) for config in tool.published_models().values()}
    assert types == MODEL_TYPES - {"eva02_clip"}


def test_windows_are_reached(checks: dict[str, tool.Check]) -> None:
    """Otherwise a cache that ignores them would pass."""
    capped = [
        check
        for check in checks.values()
        if isinstance(check.architecture, Decoder)
        and check.architecture.sliding_window
        and check.cache[tool.TOKENS[-1]] < tool.TOKENS[-1] * check.cache[1]
    ]
    assert len(capped) >= 8


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", {"key_value_heads": 16}),
        ("meta-llama/Meta-Llama-3-8B-Instruct", {"tied_embeddings": True}),
        ("meta-llama/Llama-3.2-1B", {"norms_per_layer": 4}),
        ("Qwen/Qwen2-7B-Instruct", {"query_key_value_bias": False}),
        ("Qwen/Qwen3-8B", {"query_key_norm": None}),
        ("Qwen/Qwen1.5-MoE-A2.7B", {"shared_expert_gate": False}),
        ("google/gemma-2-9b", {"sliding_window": 4095}),
        ("google/gemma-3-1b-it", {"sliding_layers": 21}),
        ("microsoft/phi-2", {"head_bias": False}),
        ("openai/gpt-oss-20b", {"attention_sinks": False}),
        ("deepseek-ai/DeepSeek-V3", {"dense_layers": 2}),
        ("deepseek-ai/DeepSeek-V3", {"latent_size": 511}),
        ("facebook/opt-66b", {"learned_positions": 2048}),
        ("bigscience/bloom", {"embedding_norm": False}),
        ("tiiuae/falcon-7b", {"norm_bias": False}),
        ("openai/clip-vit-base-patch32", {"image_size": 256}),
    ],
)
def test_a_wrong_field_is_found(checks: dict[str, tool.Check], name: str, changed: dict[str, Any]) -> None:
    check = checks[name]
    assert check.differences(msgspec.structs.replace(check.architecture, **changed)) != []


@pytest.mark.parametrize("name", NAMES)
def test_absent_keys_mean_what_they_mean_to_transformers(name: str) -> None:
    """Each key is left out in turn: it is then required, or has the default that transformers gives it."""
    config = dict(tool.published_models()[name])
    for key in ("num_hidden_layers", "n_layer", "n_layers"):
        if key in config:
            config[key] = LAYERS
    for key in config.keys() - {"model_type"}:
        rest = {other: value for other, value in config.items() if other != key}
        try:
            architecture = read_config(rest, source=name)
        except SettingsError as error:
            assert error.key == key  # noqa: PT017 - either outcome is right
            continue
        theirs = tool.transformers_config(rest)
        assert parameter_count(architecture) == tool.count(tool.build(theirs)), key
        if isinstance(architecture, Decoder):
            assert kept_tokens(architecture) == transformers_kept_tokens(theirs), key


def kept_tokens(architecture: Decoder, tokens: int = 200_000) -> int:
    """Tokens that all layers together keep of a long sequence."""
    return architecture.layers * kv_cache_bytes(architecture, tokens) // kv_cache_bytes(architecture, 1)


def transformers_kept_tokens(config: Any, tokens: int = 200_000) -> int:
    return sum(layer.max_cache_len for layer in transformers.StaticCache(config=config, max_cache_len=tokens).layers)


@pytest.fixture(scope="module")
def eva02() -> list[tool.Check]:
    try:
        wheels = tool.download_wheels()
    except subprocess.SubprocessError as error:
        pytest.skip(f"open_clip and timm cannot be downloaded: {error}")
    return tool.check_open_clip(wheels)


def test_eva02_clip_has_the_parameters_that_open_clip_builds(eva02: list[tool.Check]) -> None:
    assert [check.name for check in eva02] == list(tool.EVA02)
    for check in eva02:
        assert check.differences() == []
        assert isinstance(check.architecture, Clip)
        wrong = msgspec.structs.replace(check.architecture, image_biases=False)
        assert check.differences(wrong) != []


def test_the_documented_tables_are_what_the_tool_prints(checks: dict[str, tool.Check], eva02: list[tool.Check]) -> None:
    text = tool.DOCS.read_text(encoding="utf-8")
    for name, table in tool.tables(checks.values(), eva02).items():
        assert tool.documented(text, name)[1] == table
