"""Models on disk: a config file, a folder, the cache of the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from modelzone.architectures import Clip, Decoder
from modelzone.architectures.snapshot import profile_model, read_model
from modelzone.errors import SettingsError
from modelzone.settings.model_profile import Model

COMMIT, OTHER = "3" * 40, "4" * 40
CONFIG: dict[str, Any] = {
    "model_type": "mixtral",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}
CARD = "---\nlicense: apache-2.0\nlanguage:\n- en\n---\n# Mixtral\n"


def write_model(folder: Path, *, card: str | None = CARD, config: dict[str, Any] = CONFIG) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    if card is not None:
        (folder / "README.md").write_text(card)
    return folder


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A model in the hub's cache, where files are links into a folder of contents."""
    model = tmp_path / "models--mistralai--Mixtral-8x7B-Instruct-v0.1"
    snapshot = write_model(model / "snapshots" / COMMIT)
    contents = model / "blobs"
    contents.mkdir()
    (snapshot / "config.json").rename(contents / "ab12")
    (snapshot / "config.json").symlink_to(contents / "ab12")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return model


@pytest.mark.parametrize("below", ["", f"snapshots/{COMMIT}", f"snapshots/{COMMIT}/config.json"])
def test_the_hub_cache_says_everything_but_the_gate(cached: Path, below: str) -> None:
    facts = read_model(cached / below)
    assert (facts.hub_id, facts.revision) == ("mistralai/Mixtral-8x7B-Instruct-v0.1", COMMIT)
    assert (facts.dtype, facts.license, facts.quantization) == ("bf16", "apache-2.0", None)
    assert facts.has_chat_template
    assert isinstance(facts.architecture, Decoder)
    assert facts.architecture.context_length == 32768


def test_of_several_snapshots_main_is_read(cached: Path) -> None:
    write_model(cached / "snapshots" / OTHER)
    assert read_model(cached).revision == COMMIT
    (cached / "refs" / "main").unlink()
    with pytest.raises(SettingsError) as caught:
        read_model(cached)
    assert COMMIT in caught.value.problem
    assert OTHER in caught.value.problem


def test_the_only_snapshot_needs_no_main(cached: Path) -> None:
    (cached / "refs" / "main").unlink()
    assert read_model(cached).revision == COMMIT


def test_a_plain_folder_says_nothing_of_the_hub(tmp_path: Path) -> None:
    facts = read_model(write_model(tmp_path / "mixtral", card=None))
    assert (facts.hub_id, facts.revision, facts.license) == (None, None, None)


@pytest.mark.parametrize(
    ("card", "wanted"),
    [
        ("---\nlicense: other\nlicense_name: llama3\n---\n", "llama3"),
        ("---\nlicense: other\n---\n", None),
        ("# No front matter\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\njust text\n---\n", None),
        ("---\nlicense: mit\n---", "mit"),
    ],
)
def test_licence_of_the_model_card(tmp_path: Path, card: str, wanted: str | None) -> None:
    assert read_model(write_model(tmp_path / "m", card=card)).license == wanted


def test_chat_template_in_a_file_of_its_own(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "tokenizer_config.json").unlink()
    assert not read_model(folder).has_chat_template
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert read_model(folder).has_chat_template


def test_a_profile_is_complete_and_holds_only_what_differs_from_llama(cached: Path) -> None:
    made = profile_model(read_model(cached), gated=True)
    assert made["architecture"] == {
        "kind": "decoder", "type": "mixtral", "layers": 32, "hidden_size": 4096, "attention_heads": 32,
        "key_value_heads": 8, "intermediate_size": 14336, "vocabulary_size": 32000, "context_length": 32768,
        "experts": 8, "experts_per_token": 2,
    }  # fmt: skip
    model = msgspec.convert(yaml.safe_load(yaml.safe_dump(made)), Model)
    assert model.architecture == read_model(cached).architecture
    assert (model.gated, model.license) == (True, "apache-2.0")


def test_what_is_given_wins(cached: Path) -> None:
    made = profile_model(read_model(cached), hub_id="a/b", revision=OTHER, license="mit", gated=False)
    assert (made["hub_id"], made["revision"], made["license"], made["gated"]) == ("a/b", OTHER, "mit", False)


def test_a_missing_fact_names_its_option(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "mixtral", card=None)
    given: dict[str, Any] = {}
    for key, value, option in (
        ("hub_id", "a/b", "--hub-id"),
        ("revision", COMMIT, "--revision"),
        ("license", "mit", "--license"),
        ("gated", False, "--no-gated"),
    ):
        with pytest.raises(SettingsError) as caught:
            profile_model(read_model(folder), **given)
        assert option in caught.value.fix
        given[key] = value
    assert profile_model(read_model(folder), **given)["gated"] is False


def test_open_clip_config(tmp_path: Path) -> None:
    text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
    vision = {"image_size": 224, "timm_model_name": "eva02_base_patch16_clip_224"}
    config = {"model_cfg": {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    made = profile_model(read_model(tmp_path), hub_id="a/b", revision=COMMIT, license="mit", gated=False)
    assert isinstance(msgspec.convert(made, Model).architecture, Clip)


def test_quantised_weights_are_named(tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "awq"}}
    assert read_model(write_model(tmp_path / "m", config=config)).quantization == "awq"


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_config_that_is_not_an_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError) as caught:
        read_model(tmp_path)
    assert caught.value.source.endswith("config.json")


def test_paths_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        read_model(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"holds no config\.json"):
        read_model(tmp_path)
