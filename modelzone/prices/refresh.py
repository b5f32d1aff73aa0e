"""Brings ``data/prices.yaml`` up to date from AWS's Price List: ``modelzone prices refresh``.

Imports the AWS SDK, so nothing but that command imports this module.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from botocore.exceptions import BotoCoreError, ClientError

from modelzone.errors import ModelzoneError
from modelzone.hardware import find_instance, instance_types
from modelzone.prices.catalog import RESOURCES, Query, instance_query
from modelzone.prices.price_list import UnreadablePriceError, read_price
from modelzone.prices.table import priced_regions
from modelzone.resources import data_path

if TYPE_CHECKING:
    from mypy_boto3_pricing import PricingClient

__all__ = ["Change", "Refreshed", "Unread", "price_file", "refresh", "table_text"]

_HEADER = """\
# On-demand prices in US dollars, by region. `modelzone prices refresh` reads them from AWS's Price List and rewrites
# this file; rows that it cannot read stay as they are, in a block with their older date.
# Instances are per hour: EC2's by EC2's name, SageMaker's for endpoints by the ml. name. The units of the others are in
# catalog.py. `verified`: read from AWS's Price List by a program; false: copied from documents. What is not here is
# unknown.
"""
_SOURCE = "AWS Price List API (pricing:GetProducts)"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A price that differs from the table's; `before` is None for a new one."""

    region: str
    name: str
    before: float | None
    after: float


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A price that could not be read, and the older one that stays; None where there is none."""

    region: str
    name: str
    reason: str
    kept: float | None


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What a refresh did."""

    path: str
    read: int
    changes: tuple[Change, ...]
    unread: tuple[Unread, ...]


def price_file() -> Path:
    """Where the tables are."""
    return data_path("modelzone.prices", "prices.yaml")


def refresh(
    client_factory: Callable[[], PricingClient],
    *,
    today: str,
    regions: Sequence[str] = (),
    path: Path | None = None,
) -> Refreshed:
    """Read all prices of some regions and rewrite the file.

    Parameters
    ----------
    client_factory
        Makes the ``pricing`` client. The Price List has endpoints in few regions; us-east-1 serves all.
    today
        Date for what is read.
    regions
        All that the tables have when empty.

    Raises
    ------
    ModelzoneError
        AWS refused or could not be reached, or the file could not be written; the file is as it was.
    """
    target = path or price_file()
    table: dict[str, list[dict[str, Any]]] = yaml.safe_load(target.read_text(encoding="utf-8"))["regions"]
    changes: list[Change] = []
    unread: list[Unread] = []
    read = 0
    try:
        client = client_factory()
        for region in regions or priced_regions():
            fresh: dict[str, float] = {}
            before = {name: usd for block in table.get(region, []) for name, usd in block["usd"].items()}
            for name, query in _wanted().items():
                try:
                    fresh[name] = read_price(client, query, region=region)
                except UnreadablePriceError as error:
                    unread.append(Unread(region=region, name=name, reason=str(error), kept=before.get(name)))
            read += len(fresh)
            changes += [
                Change(region=region, name=name, before=before.get(name), after=usd)
                for name, usd in fresh.items()
                if before.get(name) != usd
            ]
            table[region] = _merge(table.get(region, []), fresh, today=today)
    except (BotoCoreError, ClientError) as error:
        raise ModelzoneError(
            f"AWS's Price List could not be read: {error}\n"
            "  fix: use credentials that allow pricing:GetProducts; the tables are as they were"
        ) from None
    _write(target, table_text({name: blocks for name, blocks in table.items() if blocks}))
    return Refreshed(path=str(target), read=read, changes=tuple(changes), unread=tuple(unread))


def _wanted() -> dict[str, Query]:
    """Every price that this project can use, by its name in the table."""
    known = [instance for name in instance_types() if (instance := find_instance(name))]
    names = [i.name for i in known] + [i.ml_name for i in known if i.sagemaker]
    return {name: instance_query(name) for name in names} | {
        kind: resource.query for kind, resource in RESOURCES.items()
    }


def _merge(blocks: Iterable[Mapping[str, Any]], fresh: Mapping[str, float], *, today: str) -> list[dict[str, Any]]:
    """Put what was read in front; of the older blocks only what was not read stays."""
    new = [{"date": today, "source": _SOURCE, "verified": True, "usd": dict(fresh)}] if fresh else []
    kept = [{**block, "usd": {n: usd for n, usd in block["usd"].items() if n not in fresh}} for block in blocks]
    return new + [block for block in kept if block["usd"]]


def table_text(regions: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Write the file's text; reading and writing it again gives the same."""
    plain = {
        region: [{**block, "date": str(block["date"]), "usd": dict(block["usd"])} for block in blocks]
        for region, blocks in regions.items()
    }
    return _HEADER + yaml.safe_dump({"regions": plain}, sort_keys=False, width=120)


def _write(path: Path, text: str) -> None:
    """Replace the file at once, so that an interrupted refresh leaves the old one."""
    name = ""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            name = file.name
            file.write(text)
        Path(name).chmod(0o644)
        os.replace(name, path)  # noqa: PTH105 - Path.replace says nothing about being atomic
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise ModelzoneError(
            f"{path} cannot be written: {error.strerror}\n  fix: run where the package can be written"
        ) from None
