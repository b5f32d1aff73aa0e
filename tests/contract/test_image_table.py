"""The vendored image table against the SageMaker SDK's own data, and its refresh command."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modelzone.engines import image_uri
from modelzone.engines.refresh_images import build_table
from modelzone.resources import read_data

ROOT = Path(__file__).resolve().parents[2]
SDK = "2.27.0"


@pytest.fixture(scope="module")
def configuration() -> dict[str, Any]:
    """`image_uri_config` out of the SDK's wheel: its dependencies (440 MB) are not needed to read it."""
    folder = ROOT / ".build" / "wheels"
    wheel = folder / f"sagemaker_core-{SDK}-py3-none-any.whl"
    if not wheel.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*command, f"sagemaker-core=={SDK}"], check=True, capture_output=True, timeout=180)
    with zipfile.ZipFile(wheel) as archive:
        return {
            Path(name).stem: json.loads(archive.read(name))
            for name in archive.namelist()
            if "/image_uri_config/" in name and name.endswith(".json")
        }


def test_the_table_is_what_the_refresh_would_write(configuration: dict[str, Any]) -> None:
    table = read_data("modelzone.engines", "images.json")
    assert build_table(configuration, sdk_version=SDK, date=table["date"]) == table


def test_the_sdk_resolves_the_same_image() -> None:
    image_uris = pytest.importorskip("sagemaker.core.image_uris", reason="needs requirements-operator.txt")
    ours = image_uri(engine="tgi-neuronx", version="0.0.25", region="us-east-1")
    find = partial(image_uris.retrieve, "huggingface-llm-neuronx", region="us-east-1", version="0.0.25")
    assert find(inference_tool="neuronx") == ours
    # The SDK's trap: without the tool it names an image that does not exist.
    assert "-inf2-" in find()
