"""Write ``data/images.json`` from the installed SageMaker SDK: ``python -m modelzone.engines.refresh_images``.

Needs the operator's extra (``pip install -r requirements-operator.txt``); nothing else in the project imports the SDK.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from modelzone.errors import ModelzoneError

__all__ = ["build_table", "main"]

# Engine -> (the SDK's configuration file, the versions that this project supports).
_ENGINES = {"tgi-neuronx": ("huggingface-llm-neuronx", ("0.0.25", "0.0.28"))}
_DOMAIN_SUFFIXES = {
    "cn-": "amazonaws.com.cn",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
    "eu-isoe-": "cloud.adc-e.uk",
    "eusc-": "amazonaws.eu",
}


def build_table(configuration: dict[str, dict[str, Any]], *, sdk_version: str, date: str) -> dict[str, Any]:
    """Shape the SDK's ``image_uri_config/*.json`` into our table.

    Parameters
    ----------
    configuration
        The SDK's configuration by file stem.
    """
    engines = {}
    for engine, (stem, versions) in _ENGINES.items():
        rows = configuration[stem]["inference"]["versions"]
        images = {}
        for name in versions:
            row = rows[name]
            # The tag as `retrieve(..., inference_tool="neuronx")` builds it; without the tool it says "-inf2-",
            # which does not exist.
            tag = f"{row['tag_prefix']}-neuronx-{row['py_versions'][0]}-{row['container_version']['inf2']}"
            images[name] = f"{row['repository']}:{tag}"
        engines[engine] = {"versions": images, "registries": rows[versions[-1]]["registries"]}
    return {
        "source": f"sagemaker-core {sdk_version}, image_uri_config",
        "date": date,
        "domain_suffixes": _DOMAIN_SUFFIXES,
        "engines": engines,
    }


def main() -> int:
    """Refresh the table in place."""
    try:
        package = import_module("sagemaker.core")
    except ImportError as error:
        raise ModelzoneError(
            "the SageMaker SDK is not installed; run: pip install -r requirements-operator.txt"
        ) from error
    folder = Path(package.__path__[0]) / "image_uri_config"
    configuration = {
        stem: json.loads((folder / f"{stem}.json").read_text(encoding="utf-8")) for stem, _ in _ENGINES.values()
    }
    table = build_table(configuration, sdk_version=version("sagemaker-core"), date=datetime.now(UTC).date().isoformat())
    target = Path(str(files("modelzone.engines").joinpath("data", "images.json")))
    target.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {target}\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ModelzoneError as error:
        sys.exit(f"error: {error}")
