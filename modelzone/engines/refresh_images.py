"""Write ``data/images.json`` from the installed SageMaker SDK: ``python -m modelzone.engines.refresh_images``.

Needs the operator's extra (``pip install -r requirements-operator.txt``); nothing else in the project imports the SDK.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modelzone.errors import ModelzoneError
from modelzone.resources import data_path

__all__ = ["SDK_IMAGES", "SdkImage", "build_table", "main"]

_DOMAIN_SUFFIXES = {
    "cn-": "amazonaws.com.cn",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
    "eu-isoe-": "cloud.adc-e.uk",
    "eusc-": "amazonaws.eu",
}
Row = Mapping[str, Any]


def _tgi_tag(row: Row) -> str:
    """As `retrieve` with the tool ``neuronx`` builds it; without, it says "-inf2-", which does not exist."""
    return f"{row['tag_prefix']}-neuronx-{row['py_versions'][0]}-{row['container_version']['inf2']}"


def _vllm_tag(row: Row) -> str:
    """As `retrieve` builds it without an instance type; with ``ml.inf2.*`` it fails."""
    system = row["container_version"]["neuronx"]
    return f"{row['tag_prefix']}-neuronx-{row['py_versions'][0]}-{row['sdk_versions'][0]}-{system}"


def _clip_tag(row: Row) -> str:
    """As `retrieve` builds it for the framework ``huggingface``; it fails on the file's own name."""
    system = row["container_version"]["inf"]
    return f"2.8.0-transformers4.55.4-neuronx-{row['py_versions'][0]}-{row['sdk_versions'][0]}-{system}"


def _lmi_tag(row: Row) -> str:
    return str(row["tag_prefix"])


@dataclass(frozen=True, kw_only=True)
class SdkImage:
    """Where the SDK keeps an image: a file of ``image_uri_config`` and the keys below its ``versions``."""

    stem: str
    keys: tuple[str, ...]
    tag: Callable[[Row], str]


def _tgi(key: str) -> SdkImage:
    return SdkImage(stem="huggingface-llm-neuronx", keys=(key,), tag=_tgi_tag)


def _lmi(stem: str, key: str) -> SdkImage:
    return SdkImage(stem=stem, keys=(key,), tag=_lmi_tag)


SDK_IMAGES: Mapping[str, Mapping[str, SdkImage]] = {
    # The SDK calls TGI 3.3.6 by its optimum-neuron.
    "tgi-neuronx": {"0.0.25": _tgi("0.0.25"), "0.0.28": _tgi("0.0.28"), "3.3.6": _tgi("0.3.0")},
    "vllm-neuronx": {"0.4.4": SdkImage(stem="huggingface-vllm-neuronx", keys=("0.4.4",), tag=_vllm_tag)},
    "lmi-vllm": {"0.26.0": _lmi("djl-deepspeed", "0.26.0"), "0.38.0": _lmi("djl-lmi", "0.38.0")},
    "lmi-trtllm": {"0.26.0": _lmi("djl-tensorrtllm", "0.26.0"), "0.33.0": _lmi("djl-tensorrtllm", "0.33.0")},
    "lmi-dist": {"0.26.0": _lmi("djl-deepspeed", "0.26.0")},
    "lmi-deepspeed": {"0.26.0": _lmi("djl-deepspeed", "0.26.0")},
    "lmi-neuronx": {"0.26.0": _lmi("djl-neuronx", "0.26.0"), "0.29.0": _lmi("djl-neuronx", "0.29.0")},
    "clip-neuronx": {
        "2.8.0": SdkImage(stem="huggingface-neuronx", keys=("4.55.4", "pytorch2.8.0"), tag=_clip_tag),
    },
}
# What the SDK does not list. "like": the version whose repository, accounts and regions are taken.
_OTHERS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "vllm-neuronx": {
        "0.4.5": {
            "tag": "0.11.0-optimum0.4.5-neuronx-py310-sdk2.26.1-ubuntu22.04",
            "like": "0.4.4",
            "source": "aws/deep-learning-containers@e0ecede: docs/src/data/huggingface-vllm-inference-neuronx; "
            "accounts and regions of 0.4.4, NOT VERIFIED",
        }
    },
    "lmi-neuronx": {
        "0.30.0": {
            "tag": "0.30.0-neuronx-sdk2.20.1",
            "like": "0.29.0",
            "source": "deepjavalibrary/djl-serving@8b3b685: serving/docs/lmi/README.md; accounts and regions of "
            "0.29.0, NOT VERIFIED",
        }
    },
    "lorax": {
        "0.12.1": {
            "image": "ghcr.io/predibase/lorax:0.12.1",
            "source": "predibase/lorax@c0e5798: .github/workflows/build.yaml, which tags releases by their version; "
            "NOT VERIFIED in the registry",
        }
    },
}


def build_table(configuration: dict[str, dict[str, Any]], *, sdk_version: str, date: str) -> dict[str, Any]:
    """Shape the SDK's ``image_uri_config/*.json``, and what it does not list, into our table.

    Parameters
    ----------
    configuration
        The SDK's configuration by file stem.
    """
    engines: dict[str, dict[str, dict[str, Any]]] = {}
    for engine, images in SDK_IMAGES.items():
        for name, image in images.items():
            found: dict[str, Any] = configuration[image.stem]
            row = found.get("inference", found)["versions"]
            for key in image.keys:
                row = row[key]
            engines.setdefault(engine, {})[name] = {
                "image": f"{row['repository']}:{image.tag(row)}",
                "registries": row["registries"],
            }
    for engine, others in _OTHERS.items():
        versions = engines.setdefault(engine, {})
        for name, other in others.items():
            like = versions.get(other.get("like", ""))
            repository = like["image"].split(":", 1)[0] if like else ""
            versions[name] = {
                "image": f"{repository}:{other['tag']}" if like else other["image"],
                **({"registries": like["registries"]} if like else {}),
                "source": other["source"],
            }
    return {
        "source": f"sagemaker-core {sdk_version}, image_uri_config, unless an entry says otherwise",
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
    stems = {image.stem for images in SDK_IMAGES.values() for image in images.values()}
    configuration = {stem: json.loads((folder / f"{stem}.json").read_text(encoding="utf-8")) for stem in stems}
    table = build_table(configuration, sdk_version=version("sagemaker-core"), date=datetime.now(UTC).date().isoformat())
    target = data_path("modelzone.engines", "images.json")
    target.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {target}\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ModelzoneError as error:
        sys.exit(f"error: {error}")
