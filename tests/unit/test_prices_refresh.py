"""Refreshing the price tables: documents in the Price List's shape, through boto3's own client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.stub import ANY, Stubber

from modelzone.errors import ModelzoneError
from modelzone.prices import catalog
from modelzone.prices import refresh as refreshing
from modelzone.prices.catalog import RESOURCES, instance_query
from modelzone.prices.price_list import UnreadablePriceError, read_price

REGION = "us-east-1"


def _offer(usd: str, *, unit: str = "Hrs", begin: str = "0", currency: str = "USD") -> dict[str, Any]:
    return {
        "priceDimensions": {
            "SKU.OFFER.RATE": {
                "unit": unit, "beginRange": begin, "endRange": "Inf", "appliesTo": [],
                "pricePerUnit": {currency: usd}, "description": f"${usd} per {unit}",
            }
        },
        "sku": "SKU", "effectiveDate": "2026-11-01T00:00:00Z", "offerTermCode": "JRTCKXETXF", "termAttributes": {},
    }  # fmt: skip


def _document(usage: str, *offers: Mapping[str, Any], region: str = REGION, **attributes: str) -> str:
    return json.dumps(
        {
            "product": {
                "sku": "SKU",
                "productFamily": "Compute Instance",
                "attributes": {"usagetype": usage, "regionCode": region, **attributes},
            },
            "serviceCode": "AmazonEC2",
            "terms": {"OnDemand": {f"SKU.OFFER{i}": offer for i, offer in enumerate(offers)}},
            "version": "20261101000000",
            "publicationDate": "2026-11-01T00:00:00Z",
        }
    )


@pytest.fixture
def client() -> Any:
    return boto3.client("pricing", region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")


@pytest.fixture
def stub(client: Any) -> Iterator[Stubber]:
    with Stubber(client) as stubber:
        yield stubber


def _read(client: Any, stub: Stubber, *documents: str, name: str = "inf2.xlarge") -> float:
    stub.add_response("get_products", {"FormatVersion": "aws_v1", "PriceList": list(documents)})
    query = RESOURCES[name].query if name in RESOURCES else instance_query(name)
    return read_price(client, query, region=REGION)


def test_the_request_names_region_and_product(client: Any, stub: Stubber) -> None:
    expected = {
        "ServiceCode": "AmazonSageMaker",
        "FormatVersion": "aws_v1",
        "Filters": [
            {"Type": "TERM_MATCH", "Field": "regionCode", "Value": "eu-west-1"},
            {"Type": "TERM_MATCH", "Field": "instanceName", "Value": "ml.inf2.xlarge"},
            {"Type": "TERM_MATCH", "Field": "component", "Value": "Hosting"},
        ],
    }
    answer = {"PriceList": [_document("EU-Host:ml.inf2.xlarge", _offer("1.0870000000"), region="eu-west-1")]}
    stub.add_response("get_products", answer, expected)
    assert read_price(client, instance_query("ml.inf2.xlarge"), region="eu-west-1") == 1.087
    stub.assert_no_pending_responses()


def test_the_price_is_on_the_second_page(client: Any, stub: Stubber) -> None:
    stub.add_response("get_products", {"PriceList": [], "NextToken": "more"})
    stub.add_response(
        "get_products",
        {"PriceList": [_document("BoxUsage:inf2.xlarge", _offer("0.7582000000"))]},
        {"ServiceCode": "AmazonEC2", "Filters": ANY, "FormatVersion": "aws_v1", "NextToken": "more"},
    )
    assert read_price(client, instance_query("inf2.xlarge"), region=REGION) == 0.7582
    stub.assert_no_pending_responses()


def test_offers_for_nothing_are_passed_over(client: Any, stub: Stubber) -> None:
    document = _document("BoxUsage:p5.4xlarge", _offer("0.0000000000"), _offer("6.8800000000"))
    assert _read(client, stub, document, name="p5.4xlarge") == 6.88


def test_usage_of_another_kind_is_not_the_price(client: Any, stub: Stubber) -> None:
    documents = [
        _document("USE1-AsyncInf:ml.g6e.2xlarge", _offer("9.0")),
        _document("USE1-Host:ml.g6e.2xlarge", _offer("2.8026000000")),
        _document("USE1-Train:ml.g6e.2xlarge", _offer("8.0")),
    ]
    assert _read(client, stub, *documents, name="ml.g6e.2xlarge") == 2.8026


def test_a_regional_nat_gateway_is_not_the_nat_gateway(client: Any, stub: Stubber) -> None:
    documents = [
        _document("RegionalNatGateway-Hours", _offer("0.0900000000")),
        _document("NatGateway-Bytes", _offer("0.0100000000", unit="GB")),
        _document("NatGateway-Hours", _offer("0.0450000000")),
    ]
    assert _read(client, stub, *documents, name="nat_gateway") == 0.045


def test_units_and_further_tiers_are_told_apart(client: Any, stub: Stubber) -> None:
    document = _document(
        "us-east-1-KMS-Keys", _offer("1.0000000000", unit="Keys"), _offer("0.5", unit="Keys", begin="100"), _offer("7")
    )
    assert _read(client, stub, document, name="kms_key") == 1.0


@pytest.mark.parametrize(
    "documents",
    [
        [],
        [_document("BoxUsage:inf2.xlarge")],
        [_document("BoxUsage:inf2.xlarge", _offer("0.0000000000"))],
        [_document("BoxUsage:inf2.xlarge", _offer("5", currency="CNY"))],
        [_document("BoxUsage:inf2.xlarge", _offer("not a number"))],
        [_document("USW2-BoxUsage:inf2.xlarge", _offer("0.7"), region="us-west-2")],
        ["{}"],
    ],
)
def test_an_answer_without_a_price_is_said(client: Any, stub: Stubber, documents: list[str]) -> None:
    with pytest.raises(UnreadablePriceError, match="not in the Price List"):
        _read(client, stub, *documents)


def test_prices_that_differ_are_not_chosen_from(client: Any, stub: Stubber) -> None:
    document = _document("BoxUsage:inf2.xlarge", _offer("0.7000000000"), _offer("0.7582000000"))
    with pytest.raises(UnreadablePriceError, match=r"several prices: 0\.7, 0\.7582"):
        _read(client, stub, document)


_TABLE = {
    REGION: [
        {
            "date": "2025-01-26",
            "source": "copied",
            "verified": False,
            "usd": {"inf2.xlarge": 0.8, "ml.inf2.xlarge": 0.99, "kms_key": 1.0},
        }
    ]
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "prices.yaml"
    file.write_text(refreshing.table_text(_TABLE), encoding="utf-8")
    return file


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for four prices, not for a hundred."""
    monkeypatch.setattr(refreshing, "instance_types", lambda: ("inf2.xlarge", "inf2.8xlarge"))
    monkeypatch.setattr(refreshing, "RESOURCES", {"kms_key": catalog.RESOURCES["kms_key"]})


Answer = Callable[..., None]


@pytest.fixture
def answer(stub: Stubber) -> Answer:
    def add(*documents: str) -> None:
        stub.add_response("get_products", {"PriceList": list(documents)})

    return add


@pytest.mark.usefixtures("small")
def test_a_refresh_replaces_what_it_reads_and_keeps_what_it_cannot(client: Any, answer: Answer, path: Path) -> None:
    answer(_document("BoxUsage:inf2.xlarge", _offer("0.7582000000")))
    answer()  # inf2.8xlarge: nothing, and nothing known
    answer(_document("Host:ml.inf2.xlarge", _offer("0.9900000000")))
    answer()
    answer()  # kms_key: nothing, but an older price
    done = refreshing.refresh(lambda: client, today="2026-11-22", path=path)

    blocks = yaml.safe_load(path.read_text(encoding="utf-8"))["regions"][REGION]
    assert blocks == [
        {
            "date": "2026-11-22",
            "source": "AWS Price List API (pricing:GetProducts)",
            "verified": True,
            "usd": {"inf2.xlarge": 0.7582, "ml.inf2.xlarge": 0.99},
        },
        {"date": "2025-01-26", "source": "copied", "verified": False, "usd": {"kms_key": 1.0}},
    ]
    assert done.read == 2
    assert [(c.name, c.before, c.after) for c in done.changes] == [("inf2.xlarge", 0.8, 0.7582)]
    assert {(u.name, u.kept) for u in done.unread} == {
        ("inf2.8xlarge", None),
        ("ml.inf2.8xlarge", None),
        ("kms_key", 1.0),
    }
    assert {u.reason for u in done.unread} == {"not in the Price List"}


@pytest.mark.usefixtures("small")
def test_a_new_region_is_added_and_the_others_stay(client: Any, answer: Answer, path: Path) -> None:
    answer(_document("EU-BoxUsage:inf2.xlarge", _offer("0.8339"), region="eu-west-1"))
    for _ in range(4):
        answer()
    done = refreshing.refresh(lambda: client, today="2026-11-22", regions=["eu-west-1"], path=path)
    regions = yaml.safe_load(path.read_text(encoding="utf-8"))["regions"]
    assert regions[REGION] == _TABLE[REGION]
    assert regions["eu-west-1"][0]["usd"] == {"inf2.xlarge": 0.8339}
    assert done.changes[0].before is None


@pytest.mark.usefixtures("small")
def test_a_region_of_which_nothing_could_be_read_is_not_written(client: Any, answer: Answer, path: Path) -> None:
    for _ in range(5):
        answer()
    done = refreshing.refresh(lambda: client, today="2026-11-22", regions=["us-eats-1"], path=path)
    assert len(done.unread) == 5
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["regions"] == _TABLE


@pytest.mark.usefixtures("small")
def test_a_refusal_of_aws_leaves_the_file_as_it_was(client: Any, stub: Stubber, answer: Answer, path: Path) -> None:
    before = path.read_bytes()
    answer(_document("BoxUsage:inf2.xlarge", _offer("0.7582000000")))
    stub.add_client_error("get_products", "AccessDeniedException", "not authorized to perform: pricing:GetProducts")
    with pytest.raises(ModelzoneError, match="pricing:GetProducts"):
        refreshing.refresh(lambda: client, today="2026-11-22", path=path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_missing_credentials_are_an_error_of_the_users(path: Path) -> None:
    from botocore.exceptions import NoCredentialsError  # noqa: PLC0415

    def factory() -> Any:
        raise NoCredentialsError

    with pytest.raises(ModelzoneError, match="credentials"):
        refreshing.refresh(factory, today="2026-11-22", path=path)


@pytest.mark.usefixtures("small")
def test_a_file_that_cannot_be_written_is_an_error_of_the_users(
    client: Any, answer: Answer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(refreshing.os, "replace", refuse)
    before = path.read_bytes()
    for _ in range(5):
        answer()
    with pytest.raises(ModelzoneError, match="cannot be written: Permission denied"):
        refreshing.refresh(lambda: client, today="2026-11-22", path=path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_every_price_this_project_can_use_is_asked_for() -> None:
    wanted = refreshing._wanted()
    assert {"inf2.48xlarge", "ml.inf2.48xlarge", "ml.trn1.2xlarge", "g4dn.metal", *RESOURCES} <= set(wanted)
    assert "ml.g4dn.metal" not in wanted
