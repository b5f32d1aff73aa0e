"""A bucket's lifecycle property in the shape of the S3 API."""

from __future__ import annotations

from typing import Any

import pytest

from modelzone.local.emulator.fixes import lifecycle_rule


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({"ExpirationInDays": 5}, {"Expiration": {"Days": 5}}),
        ({"ExpiredObjectDeleteMarker": True}, {"Expiration": {"ExpiredObjectDeleteMarker": True}}),
        ({"Prefix": "tmp/"}, {"Filter": {"Prefix": "tmp/"}}),
        (
            {"Prefix": "tmp/", "TagFilters": [{"Key": "a", "Value": "b"}]},
            {"Filter": {"And": {"Prefix": "tmp/", "Tags": [{"Key": "a", "Value": "b"}]}}},
        ),
        (
            {"Transitions": [{"TransitionInDays": 1, "StorageClass": "GLACIER"}]},
            {"Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]},
        ),
        (
            {"NoncurrentVersionTransitions": [{"TransitionInDays": 2, "StorageClass": "GLACIER"}]},
            {"NoncurrentVersionTransitions": [{"NoncurrentDays": 2, "StorageClass": "GLACIER"}]},
        ),
        (
            {"NoncurrentVersionExpiration": {"NoncurrentDays": 3}},
            {"NoncurrentVersionExpiration": {"NoncurrentDays": 3}},
        ),
    ],
)
def test_rules_are_converted(rule: dict[str, Any], wanted: dict[str, Any]) -> None:
    made = lifecycle_rule({"Id": "r", "Status": "Enabled", **rule})
    assert made == {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, **wanted}


def test_a_rule_without_a_name_gets_one() -> None:
    assert lifecycle_rule({"Status": "Disabled"})["ID"]
