"""Container images of the AWS Deep Learning Containers, from a table vendored out of the SageMaker SDK.

The SDK weighs close to 1 GB and takes seconds to import, so synth reads ``data/images.json`` instead.
``python -m modelzone.engines.refresh_images`` writes that file from the SDK, and a contract test compares the two.
"""

from __future__ import annotations

import re

from modelzone.errors import ModelzoneError
from modelzone.resources import read_data

__all__ = ["image_account", "image_uri", "known_image"]

_URI = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.(?P<suffix>[a-z.]+)/(?P<repository>[^:@]+):(?P<tag>.+)"
)


def _engine(engine: str) -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = read_data("modelzone.engines", "images.json")["engines"][engine]
    return table


def _domain_suffix(region: str) -> str:
    suffixes: dict[str, str] = read_data("modelzone.engines", "images.json")["domain_suffixes"]
    for prefix, suffix in suffixes.items():
        if region.startswith(prefix):
            return suffix
    return "amazonaws.com"


def image_account(*, engine: str, region: str) -> str:
    """Account of the registry that serves an engine's images in a region.

    Raises
    ------
    ModelzoneError
        The image is not published in that region.
    """
    registries = _engine(engine)["registries"]
    if region not in registries:
        raise ModelzoneError(
            f"engine {engine} has no image in region {region}; it is published in: {', '.join(sorted(registries))}"
        )
    return registries[region]


def image_uri(*, engine: str, version: str, region: str) -> str:
    """Full URI of an engine version's image in a region."""
    table = _engine(engine)
    account = image_account(engine=engine, region=region)
    repository, tag = table["versions"][version].split(":", 1)
    return f"{account}.dkr.ecr.{region}.{_domain_suffix(region)}/{repository}:{tag}"


def known_image(uri: str) -> bool:
    """Whether a URI names an image of the table: account, region, repository and tag all match."""
    parts = _URI.fullmatch(uri)
    if parts is None:
        return False
    engines: dict[str, dict[str, dict[str, str]]] = read_data("modelzone.engines", "images.json")["engines"]
    return any(
        table["registries"].get(parts["region"]) == parts["account"]
        and parts["suffix"] == _domain_suffix(parts["region"])
        and f"{parts['repository']}:{parts['tag']}" in table["versions"].values()
        for table in engines.values()
    )
