"""The vendored image table against the SageMaker SDK's own data, and its refresh command."""

from __future__ import annotations

import json
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from contract.wheels import wheel_path

from modelzone.engines import ENGINES, image_uri
from modelzone.engines.refresh_images import SDK_IMAGES, build_table
from modelzone.resources import read_data

SDK = "2.27.0"
# Framework and arguments of `retrieve`, where it is right.
RETRIEVE: dict[tuple[str, str], tuple[str, dict[str, str]]] = {
    ("tgi-neuronx", "0.0.25"): ("huggingface-llm-neuronx", {"version": "0.0.25", "inference_tool": "neuronx"}),
    ("tgi-neuronx", "0.0.28"): ("huggingface-llm-neuronx", {"version": "0.0.28", "inference_tool": "neuronx"}),
    ("tgi-neuronx", "3.3.6"): ("huggingface-llm-neuronx", {"version": "0.3.0", "inference_tool": "neuronx"}),
    ("vllm-neuronx", "0.4.4"): ("huggingface-vllm-neuronx", {"version": "0.4.4", "inference_tool": "neuronx"}),
    ("lmi-vllm", "0.26.0"): ("djl-deepspeed", {"version": "0.26.0"}),
    ("lmi-vllm", "0.38.0"): ("djl-lmi", {"version": "0.38.0"}),
    ("lmi-trtllm", "0.26.0"): ("djl-tensorrtllm", {"version": "0.26.0"}),
    ("lmi-trtllm", "0.33.0"): ("djl-tensorrtllm", {"version": "0.33.0"}),
    ("lmi-dist", "0.26.0"): ("djl-deepspeed", {"version": "0.26.0"}),
    ("lmi-deepspeed", "0.26.0"): ("djl-deepspeed", {"version": "0.26.0"}),
    ("lmi-neuronx", "0.26.0"): ("djl-neuronx", {"version": "0.26.0"}),
    ("lmi-neuronx", "0.29.0"): ("djl-neuronx", {"version": "0.29.0"}),
    ("clip-neuronx", "2.8.0"): (
        "huggingface",
        {
            "version": "4.55.4",
            "base_framework_version": "pytorch2.8.0",
            "image_scope": "inference",
            "inference_tool": "neuronx",
            "instance_type": "ml.inf2.xlarge",
        },
    ),
}


@pytest.fixture(scope="module")
def configuration() -> dict[str, Any]:
    """`image_uri_config` out of the SDK's wheel: its dependencies (440 MB) are not needed to read it."""
    with zipfile.ZipFile(wheel_path("sagemaker-core", SDK)) as archive:
        return {
            Path(name).stem: json.loads(archive.read(name))
            for name in archive.namelist()
            if "/image_uri_config/" in name and name.endswith(".json")
        }


def test_the_table_is_what_the_refresh_would_write(configuration: dict[str, Any]) -> None:
    table = read_data("modelzone.engines", "images.json")
    assert build_table(configuration, sdk_version=SDK, date=table["date"]) == table


def test_every_version_has_an_image_from_the_sdk_or_a_source_of_its_own() -> None:
    table = read_data("modelzone.engines", "images.json")["engines"]
    assert {name: list(engine.versions) for name, engine in ENGINES.items()} == {
        name: list(table[name]) for name in ENGINES
    }
    unsourced = {
        (engine, version) for engine, rows in table.items() for version, row in rows.items() if "source" not in row
    }
    assert unsourced == {(engine, version) for engine, images in SDK_IMAGES.items() for version in images}
    assert unsourced == set(RETRIEVE)


@pytest.mark.parametrize(
    ("stem", "newest"), [("djl-lmi", "0.38.0"), ("djl-tensorrtllm", "0.33.0"), ("djl-neuronx", "0.29.0")]
)
def test_the_sdk_knows_no_newer_lmi(configuration: dict[str, Any], stem: str, newest: str) -> None:
    assert configuration[stem]["version_aliases"]["latest"] == newest


def test_deepspeed_ended_with_lmi_0_27(configuration: dict[str, Any]) -> None:
    assert max(configuration["djl-deepspeed"]["versions"]) == "0.27.0"


def test_the_sdk_resolves_the_same_images() -> None:
    image_uris = pytest.importorskip("sagemaker.core.image_uris", reason="needs requirements-operator.txt")
    for (engine, version), (framework, arguments) in RETRIEVE.items():
        found = image_uris.retrieve(framework, region="us-east-1", **arguments)
        assert found == image_uri(engine=engine, version=version, region="us-east-1")


def test_traps_of_the_sdk() -> None:
    image_uris = pytest.importorskip("sagemaker.core.image_uris", reason="needs requirements-operator.txt")
    find = partial(image_uris.retrieve, region="us-east-1")
    # Names an image that does not exist.
    assert "-inf2-" in find("huggingface-llm-neuronx", version="0.0.25")
    with pytest.raises(ValueError, match="Unsupported processor"):
        find("huggingface-vllm-neuronx", version="0.4.4", inference_tool="neuronx", instance_type="ml.inf2.xlarge")
    arguments = RETRIEVE["clip-neuronx", "2.8.0"][1]
    with pytest.raises(ValueError, match="Unsupported Python version"):
        find("huggingface-neuronx", **arguments)
