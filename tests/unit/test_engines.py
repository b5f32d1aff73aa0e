"""What holds for every engine, and the table that the documentation shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from unit.engine_cases import clip, decoder, serving

from invoke_proxy.dialects import DIALECTS
from modelzone.architectures.reading import MODEL_TYPES
from modelzone.engines import ENGINES, engines_table, image_uri, versions_serving
from modelzone.engines.base import FEATURES, Engine, EngineVersion
from modelzone.engines.table import COLUMNS, engines_markdown, features_markdown
from modelzone.hardware import families
from modelzone.settings.model_profile import Model, Serving

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = [(engine, version) for engine in ENGINES.values() for version in engine.versions.values()]
LAYOUTS = {"neuron-config-key", "neuron-config-file", "tensorrt-llm-repo", "traced-modules"}
ALL = pytest.mark.parametrize(
    ("engine", "version"), VERSIONS, ids=[f"{engine.name}-{version.version}" for engine, version in VERSIONS]
)


def case(engine: Engine, version: EngineVersion) -> tuple[Model, Serving]:
    """A model that the version serves, and a serving that nothing speaks against."""
    kind = "clip" if engine.name == "clip-neuronx" else "llama"
    family = sorted(version.instance_families)[0]
    name = f"ml.{family}.24xlarge" if engine.hosting == "sagemaker" else f"{family}.24xlarge"
    found = serving(engine.name, version.version, instance_type=name, dtype="fp16", max_input_tokens=1024)
    return (clip() if kind == "clip" else decoder(kind)), found


def test_the_engines_that_were_asked_for_are_there() -> None:
    assert {name: list(engine.versions) for name, engine in ENGINES.items()} == {
        "tgi-neuronx": ["0.0.25", "0.0.28", "3.3.6"],
        "vllm-neuronx": ["0.4.4", "0.4.5"],
        "lmi-vllm": ["0.26.0", "0.38.0"],
        "lmi-trtllm": ["0.26.0", "0.33.0"],
        "lmi-dist": ["0.26.0"],
        "lmi-deepspeed": ["0.26.0"],
        "lmi-neuronx": ["0.26.0", "0.29.0", "0.30.0"],
        "lorax": ["0.12.1"],
        "clip-neuronx": ["2.8.0"],
    }


@ALL
def test_versions_are_named_once_and_sourced(engine: Engine, version: EngineVersion) -> None:
    assert engine.versions[version.version] is version
    assert engine.title
    assert version.components
    assert version.limits
    assert all(limit.endswith(".") for limit in version.limits)
    # A file at a commit, or a published package.
    assert all(re.search(r"@[0-9a-f]{7}\b|wheel|sagemaker-core \d", source) for source in version.sources)


@ALL
def test_facts_refer_to_what_the_project_knows(engine: Engine, version: EngineVersion) -> None:
    assert version.model_types
    assert version.model_types <= MODEL_TYPES
    assert version.static_batch_types <= version.model_types
    assert version.instance_families <= set(families())
    assert set(version.inference_ami_versions) <= version.instance_families
    assert set(version.compile_ami_parameters) <= version.instance_families
    assert 0.5 < version.device_memory_fraction <= 1
    assert version.compiler is None or version.compiler.artifact_layout in LAYOUTS
    assert image_uri(engine=engine.name, version=version.version, region="us-east-1")


@ALL
def test_a_plain_serving_is_not_refused(engine: Engine, version: EngineVersion) -> None:
    model, plain = case(engine, version)
    assert list(engine.check(version.version, model, plain)) == []
    environment = engine.container_environment(version.version, model, plain)
    assert all(isinstance(value, str) for value in environment.values())


@ALL
@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_API_TOKEN", "OPENAI_API_KEY", "DB_PASSWORD", "MY_SECRET"],
)
def test_secrets_are_refused_and_never_quoted(engine: Engine, version: EngineVersion, name: str) -> None:
    model, plain = case(engine, version)
    for field in ("environment", "options"):
        key = name if field == "environment" else name.lower()
        dirty = serving(
            engine.name,
            version.version,
            **{field: {key: "hf_abcdef"}},
            instance_type=plain.instance_type,
            dtype="fp16",
        )
        refusals = list(engine.check(version.version, model, dirty))
        assert [refusal.key for refusal in refusals] == [f"{field}.{key}"]
        assert "hf_abcdef" not in repr(refusals)


@pytest.mark.parametrize(
    "name", ["MAX_TOTAL_TOKENS", "TOKENIZERS_PARALLELISM", "LONG_PREFILL_TOKEN_THRESHOLD", "KEYS_OF_THE_DAY"]
)
def test_names_that_only_look_like_secrets(name: str) -> None:
    model, plain = case(ENGINES["clip-neuronx"], ENGINES["clip-neuronx"].versions["2.8.0"])
    named = serving("clip-neuronx", "2.8.0", environment={name: "1"}, dtype=plain.dtype)
    assert list(ENGINES["clip-neuronx"].check("2.8.0", model, named)) == []
    assert ENGINES["clip-neuronx"].container_environment("2.8.0", model, named) == {name: "1"}


def test_versions_serving() -> None:
    assert ("tgi-neuronx", "0.0.28") in versions_serving("mistral")
    assert not {("tgi-neuronx", "3.3.6"), ("vllm-neuronx", "0.4.4")} & set(versions_serving("mistral"))
    assert versions_serving("eva02_clip") == (("clip-neuronx", "2.8.0"),)
    assert versions_serving("perceiver") == ()


@pytest.mark.parametrize(("engine", "version"), [("tgi-neuronx", "3.3.6"), ("vllm-neuronx", "0.4.4")])
def test_that_mistral_was_dropped_is_explained(engine: str, version: str) -> None:
    limits = " ".join(ENGINES[engine].versions[version].limits)
    assert "Does not serve Mistral" in limits
    assert "0.0.25 and 0.0.28" in limits


def test_table_has_a_row_for_each_version() -> None:
    rows = engines_table()
    assert [row[:2] for row in rows] == [(engine.name, version.version) for engine, version in VERSIONS]
    assert all(len(row) == len(COLUMNS) and all(row) for row in rows)
    # Markdown cells.
    assert not any("|" in cell for row in rows for cell in row)


def test_documentation_shows_the_tables_as_printed() -> None:
    text = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    assert engines_markdown() in text
    assert features_markdown() in text


@ALL
def test_features_are_known_words(engine: Engine, version: EngineVersion) -> None:
    assert version.features <= set(FEATURES)
    # Nobody can ask a server of images for text.
    assert bool(version.features) == (engine.name != "clip-neuronx")
    assert not {"penalties", "frequency_penalty"} <= version.features
    assert "logprobs" in version.features or "top_logprobs" not in version.features
    assert "chat" in version.features or not {"continue", "tools"} & version.features
    # Adapters are planned for by one field and asked for by the other.
    assert ("adapters" in version.features) == version.supports_adapters


@ALL
def test_dialects_are_modules_of_the_gateway(engine: Engine, version: EngineVersion) -> None:
    del engine
    assert version.dialect in {*DIALECTS, "clip"}
    module = ROOT / "lambda" / "invoke_proxy" / "dialects" / f"{version.dialect.replace('-', '_')}.py"
    assert module.is_file() == (version.dialect != "clip")


def test_each_dialect_is_spoken_by_a_version() -> None:
    assert set(DIALECTS) == {version.dialect for _, version in VERSIONS} - {"clip"}


def test_documentation_explains_each_dialect() -> None:
    text = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    for dialect in {version.dialect for _, version in VERSIONS}:
        assert f"| `{dialect}` |" in text, dialect


def test_engines_import_nothing_heavy() -> None:
    code = "import modelzone.engines, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert not {"boto3", "typer", "rich", "importlib.metadata", "sagemaker"} & set(loaded.split())
