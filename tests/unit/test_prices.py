"""The price tables: what they hold, and what they say when they hold nothing."""

from __future__ import annotations

import pytest
import yaml

from modelzone.hardware import instance_types
from modelzone.prices import RESOURCES, instance_price, priced_regions, resource_price
from modelzone.prices.refresh import price_file, table_text

REGION = "us-east-1"


@pytest.mark.parametrize(
    ("name", "usd"),
    [
        ("inf2.xlarge", 0.7582), ("inf2.24xlarge", 6.49063), ("trn1.32xlarge", 21.50), ("g5.2xlarge", 1.212),
        ("g6.12xlarge", 4.6016), ("p4d.24xlarge", 21.957642), ("ml.inf2.24xlarge", 7.79), ("ml.g6.48xlarge", 16.688),
        ("ml.trn1.32xlarge", 28.497),
    ],
)  # fmt: skip
def test_prices_by_ec2s_and_by_sagemakers_name(name: str, usd: float) -> None:
    price = instance_price(name, region=REGION)
    assert price is not None
    assert (price.usd, price.unit, price.region) == (usd, "hour", REGION)
    assert price.verified == (not name.startswith("ml."))


def test_ec2_prices_of_all_types_are_known_where_any_are() -> None:
    assert [name for name in instance_types() if instance_price(name, region=REGION) is None] == []


def test_what_is_unknown_is_none() -> None:
    assert instance_price("ml.g6e.xlarge", region=REGION) is None
    assert instance_price("inf2.xlarge", region="eu-west-1") is None
    assert resource_price("nat_gateway", region="mars-north-1") is None
    assert resource_price("hosting_volume_gb", region=REGION) is None


def test_a_kind_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        resource_price("nat_gatway", region=REGION)


def test_a_stale_price_says_so() -> None:
    price = instance_price("ml.p4d.24xlarge", region=REGION)
    assert price is not None
    assert "stale" in price.source
    assert not price.verified


def test_every_row_is_something_that_can_be_asked_for_and_is_there_once() -> None:
    regions = yaml.safe_load(price_file().read_text(encoding="utf-8"))["regions"]
    assert tuple(regions) == priced_regions()
    for blocks in regions.values():
        names = [name for block in blocks for name in block["usd"]]
        assert len(names) == len(set(names))
        assert {name.removeprefix("ml.") for name in names} <= set(instance_types()) | set(RESOURCES)


def test_the_file_is_written_as_a_refresh_writes_it() -> None:
    text = price_file().read_text(encoding="utf-8")
    assert text == table_text(yaml.safe_load(text)["regions"])
