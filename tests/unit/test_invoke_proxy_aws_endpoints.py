"""Addresses of services: botocore's own, or what the SDKs' variables say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from invoke_proxy.aws.endpoints import Address, Service, address_of, bucket_address

REGIONS = [
    "us-east-1",
    "eu-central-1",
    "me-south-1",
    "cn-north-1",
    "us-gov-west-1",
    "us-iso-east-1",
    "us-isob-east-1",
    "us-isof-south-1",
    "eu-isoe-west-1",
    "eusc-de-east-1",
]
SERVICES: list[Service] = ["sagemaker-runtime", "ssm", "dynamodb", "s3"]
# Old clients go to another address in us-east-1.
REGIONAL = Config(s3={"us_east_1_regional_endpoint": "regional"})
CUSTOM = "http://localhost:4566"


@pytest.mark.parametrize("service", SERVICES)
def test_every_partition_as_botocore_has_it(service: Service) -> None:
    session = boto3.session.Session(aws_access_key_id="x", aws_secret_access_key="x")
    for region in REGIONS:
        client = session.client(service, region_name=region, config=REGIONAL)
        address = address_of(service, region=region, environ={})

        assert f"https://{address.host_header}" == client.meta.endpoint_url


@pytest.mark.parametrize("bucket", ["plain-bucket", "with.dots", "a" * 63])
@pytest.mark.parametrize(
    ("region", "url"), [("us-east-1", None), ("eu-central-1", None), ("cn-north-1", None), ("x", f"{CUSTOM}/prefix")]
)
def test_objects_are_where_botocore_looks_for_them(bucket: str, region: str, url: str | None) -> None:
    style: Any = {"addressing_style": "path" if url else "auto"}
    client = boto3.session.Session(aws_access_key_id="x", aws_secret_access_key="x").client(
        "s3",
        region_name=region,
        endpoint_url=url,
        config=REGIONAL.merge(Config(s3={**REGIONAL.s3, **style})),  # type: ignore[attr-defined]
    )
    theirs: list[str] = []

    def send(request: Any, **_: Any) -> AWSResponse:
        theirs.append(request.url)
        return AWSResponse(request.url, 204, {}, SimpleNamespace(stream=lambda: iter([b""])))

    client.meta.events.register("before-send.s3.DeleteObject", send)
    client.delete_object(Bucket=bucket, Key="key")

    address = bucket_address(bucket, region=region, environ={"AWS_ENDPOINT_URL": url} if url else {})

    scheme = "https" if address.tls else "http"
    assert [f"{scheme}://{address.host_header}{address.base_path}/key"] == theirs


def test_a_service_s_own_variable_comes_first() -> None:
    environ = {"AWS_ENDPOINT_URL": CUSTOM, "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": "https://[::1]:99/base/"}

    assert address_of("ssm", region="x", environ=environ) == Address(host="localhost", port=4566, tls=False)
    own = address_of("sagemaker-runtime", region="x", environ=environ)
    assert own == Address(host="::1", port=99, tls=True, base_path="/base")
    assert own.host_header == "[::1]:99"


@pytest.mark.parametrize("name", ["SSM", "DYNAMODB", "S3", "SAGEMAKER_RUNTIME"])
def test_each_service_has_a_variable(name: str) -> None:
    service = next(service for service in SERVICES if service.upper().replace("-", "_") == name)

    assert address_of(service, region="x", environ={f"AWS_ENDPOINT_URL_{name}": CUSTOM}).port == 4566


def test_the_variables_can_be_switched_off() -> None:
    environ = {"AWS_ENDPOINT_URL": CUSTOM, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "True"}

    assert address_of("ssm", region="us-east-1", environ=environ).host == "ssm.us-east-1.amazonaws.com"
    assert bucket_address("b", region="us-east-1", environ=environ).host == "b.s3.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("http://h", "h"),
        ("http://h:80", "h"),
        ("http://h:443", "h:443"),
        ("https://h:443", "h"),
        ("https://h:80", "h:80"),
        ("http://H.Example", "h.example"),
    ],
)
def test_the_host_header_names_no_usual_port(url: str, header: str) -> None:
    assert address_of("ssm", region="x", environ={"AWS_ENDPOINT_URL": url}).host_header == header


@pytest.mark.parametrize("url", ["localhost:4566", "ftp://h", "http://", "http://h:x", "http://h/?q", "http://h:99999"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="AWS_ENDPOINT_URL must be a URL"):
        address_of("ssm", region="x", environ={"AWS_ENDPOINT_URL": url})
