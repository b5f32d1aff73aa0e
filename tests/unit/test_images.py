"""The vendored image table."""

from __future__ import annotations

import pytest

from modelzone.engines import image_uri, known_image
from modelzone.errors import ModelzoneError


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


def test_an_unknown_region_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelzoneError, match="no image in region mars-1; it is published in: af-south-1"):
        image_uri(engine="tgi-neuronx", version="0.0.25", region="mars-1")


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
def test_nearly_right_is_unknown(change: object) -> None:
    assert callable(change)
    assert not known_image(change(image_uri(engine="tgi-neuronx", version="0.0.25", region="us-east-1")))
