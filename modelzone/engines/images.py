"""Container images, from a table vendored out of the SageMaker SDK.

The SDK weighs close to 1 GB and takes seconds to import, so synth reads ``data/images.json`` instead.
``python -m modelzone.engines.refresh_images`` writes that file from the SDK, and a contract test compares the two.
"""

from __future__ import annotations

import re
from typing import Any

from modelzone.errors import ModelzoneError
from modelzone.resources import read_data

__all__ = ["image_account", "image_regions", "image_uri", "known_image"]

_URI = re.compile(r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.(?P<suffix>[a-z.]+)/(?P<image>[^:@]+:.+)")


def _table() -> dict[str, Any]:
    table: dict[str, Any] = read_data("modelzone.engines", "images.json")
    return table


def _image(engine: str, version: str | None) -> dict[str, Any]:
    """One version's row, the newest version's without one."""
    versions: dict[str, dict[str, Any]] = _table()["engines"][engine]
    if version is None:
        return versions[next(reversed(versions))]
    if version not in versions:
        raise ModelzoneError(f"no image is known of {engine} {version}; known versions: {', '.join(versions)}")
    return versions[version]


def _domain_suffix(region: str) -> str:
    suffixes: dict[str, str] = _table()["domain_suffixes"]
    for prefix, suffix in suffixes.items():
        if region.startswith(prefix):
            return suffix
    return "amazonaws.com"


def image_account(*, engine: str, region: str, version: str | None = None) -> str | None:
    """Account of the registry that serves an engine's images in a region, the newest version's if none is given.

    None for images outside AWS's registries, which have no accounts and no regions.

    Raises
    ------
    ModelzoneError
        The image is not published in that region.
    """
    registries: dict[str, str] | None = _image(engine, version).get("registries")
    if registries is None:
        return None
    if region not in registries:
        named = f"{engine} {version}" if version else engine
        raise ModelzoneError(
            f"engine {named} has no image in region {region}; it is published in: {', '.join(sorted(registries))}"
        )
    return registries[region]


def image_regions(*, engine: str, version: str) -> tuple[str, ...]:
    """Regions in which an engine version's image is published; empty for images outside AWS's registries."""
    return tuple(sorted(_image(engine, version).get("registries", ())))


def image_uri(*, engine: str, version: str, region: str) -> str:
    """Full URI of an engine version's image in a region."""
    image: str = _image(engine, version)["image"]
    account = image_account(engine=engine, region=region, version=version)
    return f"{account}.dkr.ecr.{region}.{_domain_suffix(region)}/{image}" if account else image


def known_image(uri: str) -> bool:
    """Whether a URI names an image of the table: account, region, repository and tag all match."""
    rows = [row for versions in _table()["engines"].values() for row in versions.values()]
    parts = _URI.fullmatch(uri)
    if parts is None:
        return any(row["image"] == uri and "registries" not in row for row in rows)
    return any(
        row.get("registries", {}).get(parts["region"]) == parts["account"]
        and parts["suffix"] == _domain_suffix(parts["region"])
        and parts["image"] == row["image"]
        for row in rows
    )
