"""The vendored image table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelzone.engines import image_account, image_uri, known_image
from modelzone.errors import ModelzoneError
from modelzone.resources import read_data

TABLE = read_data("modelzone.engines", "images.json")["engines"]
EVERY = [(engine, version) for engine, versions in TABLE.items() for version in versions]


@pytest.mark.parametrize(
    ("region", "registry"),
    [
        ("us-east-1", "763104351884.dkr.ecr.us-east-1.amazonaws.com"),
        ("ap-east-1", "871362719292.dkr.ecr.ap-east-1.amazonaws.com"),
        ("cn-north-1", "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_uri_of_a_region(region: str, registry: str) -> None:
    uri = image_uri(engine="tgi-neuronx", version="0.0.25", region=region)
    tag = "2.1.2-optimum0.0.25-neuronx-py310-ubuntu22.04"
    assert uri == f"{registry}/huggingface-pytorch-tgi-inference:{tag}"
    assert known_image(uri)


@pytest.mark.parametrize(
    ("engine", "version", "image"),
    [
        (
            "tgi-neuronx",
            "3.3.6",
            "huggingface-pytorch-tgi-inference:2.7.0-optimum3.3.6-neuronx-py310-ubuntu22.04",
        ),
        (
            "vllm-neuronx",
            "0.4.4",
            "huggingface-vllm-inference-neuronx:0.11.0-optimum0.4.4-neuronx-py310-sdk2.26.1-ubuntu22.04",
        ),
        ("lmi-vllm", "0.26.0", "djl-inference:0.26.0-deepspeed0.12.6-cu121"),
        ("lmi-vllm", "0.38.0", "djl-inference:0.38.0-lmi29.0.0-cu130"),
        ("lmi-trtllm", "0.26.0", "djl-inference:0.26.0-tensorrtllm0.7.1-cu122"),
        ("lmi-trtllm", "0.33.0", "djl-inference:0.33.0-tensorrtllm0.21.0-cu128"),
        ("lmi-neuronx", "0.26.0", "djl-inference:0.26.0-neuronx-sdk2.16.0"),
        ("lmi-neuronx", "0.30.0", "djl-inference:0.30.0-neuronx-sdk2.20.1"),
        (
            "clip-neuronx",
            "2.8.0",
            "huggingface-pytorch-inference-neuronx:2.8.0-transformers4.55.4-neuronx-py310-sdk2.26.0-ubuntu22.04",
        ),
    ],
)
def test_images_that_were_read_in_aws_s_own_lists(engine: str, version: str, image: str) -> None:
    found = image_uri(engine=engine, version=version, region="us-west-2")
    assert found == f"763104351884.dkr.ecr.us-west-2.amazonaws.com/{image}"


@pytest.mark.parametrize(("engine", "version"), EVERY)
def test_every_image_is_known(engine: str, version: str) -> None:
    assert known_image(image_uri(engine=engine, version=version, region="us-east-1"))


def test_an_image_outside_aws_has_no_account_and_no_regions() -> None:
    assert image_account(engine="lorax", region="us-east-1") is None
    uri = "ghcr.io/predibase/lorax:0.12.1"
    assert {image_uri(engine="lorax", version="0.12.1", region=region) for region in ("us-east-1", "mars-1")} == {uri}
    assert known_image(uri)
    assert not known_image("ghcr.io/predibase/lorax:main")


def test_accounts_are_those_of_the_version() -> None:
    # LMI's later images are in more regions than its earlier ones.
    assert image_account(engine="lmi-neuronx", region="us-iso-east-1", version="0.29.0")
    with pytest.raises(ModelzoneError, match=r"engine lmi-neuronx 0\.26\.0 has no image in region us-iso-east-1"):
        image_account(engine="lmi-neuronx", region="us-iso-east-1", version="0.26.0")


def test_vllm_for_neuron_is_in_few_regions() -> None:
    assert len(TABLE["vllm-neuronx"]["0.4.4"]["registries"]) == 11
    with pytest.raises(ModelzoneError, match="no image in region eu-north-1"):
        image_uri(engine="vllm-neuronx", version="0.4.4", region="eu-north-1")


def test_an_unknown_region_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelzoneError, match=r"no image in region mars-1; it is published in: af-south-1"):
        image_uri(engine="tgi-neuronx", version="0.0.25", region="mars-1")


def test_an_unknown_version_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelzoneError, match=r"known versions: 0\.0\.25, 0\.0\.28, 3\.3\.6"):
        image_uri(engine="tgi-neuronx", version="0.0.99", region="us-east-1")


@pytest.mark.parametrize(
    "change",
    [
        lambda u: u.replace("763104351884", "123456789012"),
        lambda u: u.replace("us-east-1", "ap-east-1"),
        lambda u: u.replace("0.0.25", "0.0.99"),
        lambda u: u.replace("amazonaws.com", "amazonaws.com.cn"),
        lambda u: u.split("/")[1],
    ],
)
def test_nearly_right_is_unknown(change: Callable[[str], str]) -> None:
    assert not known_image(change(image_uri(engine="tgi-neuronx", version="0.0.25", region="us-east-1")))
