"""Images of the registries that the embedded AWS knows: those of the project's own table, by tag and by digest."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache

__all__ = ["KnownImage", "find_image", "image_digest", "images_of"]

_REGISTRY = re.compile(r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.[a-z.]+")


@dataclass(frozen=True, kw_only=True)
class KnownImage:
    """An image. ``uri`` is the name with its tag."""

    uri: str

    @property
    def name(self) -> str:
        """Registry and repository."""
        return self.uri.rpartition(":")[0]

    @property
    def repository(self) -> str:
        """The repository, without its registry."""
        return self.name.partition("/")[2]

    @property
    def tag(self) -> str:
        """The tag."""
        return self.uri.rpartition(":")[2]

    @property
    def digest(self) -> str:
        """The digest, which nobody published: it only has to be the same every time."""
        return image_digest(self.uri)

    @property
    def by_digest(self) -> str:
        """The name with the digest."""
        return f"{self.name}@{self.digest}"


def image_digest(uri: str) -> str:
    """The digest that an image with this name and tag has here."""
    return f"sha256:{hashlib.sha256(uri.encode()).hexdigest()}"


@cache
def images_of(region: str) -> tuple[KnownImage, ...]:
    """Every image of the table that is published in a region."""
    # Here and below: most calls of the docker stand-in need none of this.
    from modelzone.engines.images import image_uri  # noqa: PLC0415
    from modelzone.resources import read_data  # noqa: PLC0415

    table = read_data("modelzone.engines", "images.json")["engines"]
    return tuple(
        dict.fromkeys(
            KnownImage(uri=image_uri(engine=engine, version=version, region=region))
            for engine, versions in table.items()
            for version, row in versions.items()
            if "registries" not in row or region in row["registries"]
        )
    )


def find_image(reference: str) -> KnownImage | None:
    """The image that ``name:tag`` or ``name@digest`` names, None for one that is not known."""
    from modelzone.engines.images import known_image  # noqa: PLC0415

    name, _, digest = reference.partition("@")
    if not digest:
        return KnownImage(uri=reference) if known_image(reference) else None
    registry = _REGISTRY.fullmatch(name.partition("/")[0])
    for image in images_of(registry["region"] if registry else "us-east-1"):
        # docker takes name:tag@digest too, and looks at the digest only
        if image.digest == digest and name in {image.name, image.uri}:
            return image
    return None
