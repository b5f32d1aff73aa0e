"""Which regions there are, as far as this project's tables and the AWS SDK know."""

from __future__ import annotations

import difflib

from modelzone.errors import ModelzoneError

__all__ = ["DEFAULT_REGION", "check_region", "complete_region"]

DEFAULT_REGION = "us-east-1"


def _of_the_tables() -> set[str]:
    """Regions with a registry of images or with prices."""
    from modelzone.prices import priced_regions  # noqa: PLC0415
    from modelzone.resources import read_data  # noqa: PLC0415

    engines = read_data("modelzone.engines", "images.json")["engines"]
    images = (image for versions in engines.values() for image in versions.values())
    return {*priced_regions(), *(region for image in images for region in image.get("registries", ()))}


def _of_the_sdk() -> set[str]:
    """Regions that came after the tables, once the SDK is newer than they are."""
    import botocore.session  # noqa: PLC0415 - a third of a second, only for regions that are not in the tables

    session = botocore.session.get_session()
    partitions = session.get_available_partitions()
    return {region for name in partitions for region in session.get_available_regions("ec2", name)}


def check_region(region: str) -> str:
    """Let a region pass that exists, priced or not: for one that does not, everything would be unknown.

    Raises
    ------
    ModelzoneError
        Nothing knows it; names the nearest ones.
    """
    if region == DEFAULT_REGION or region in (tables := _of_the_tables()) or region in (sdk := _of_the_sdk()):
        return region
    known = sorted(tables | sdk)
    near = difflib.get_close_matches(region, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    raise ModelzoneError(f"--region {region}: there is no such region; {hint}")


def complete_region(incomplete: str) -> list[str]:
    """Regions with a registry of images or with prices."""
    return sorted(region for region in _of_the_tables() if region.startswith(incomplete))
