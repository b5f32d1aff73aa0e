"""An environment that uses the model store of another."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from infrastructure.support import Zone, expected_order


@pytest.fixture(scope="module")
def borrows(synthesise: Callable[[str], Zone]) -> Zone:
    return synthesise("borrows")


def test_it_has_no_bucket_key_or_token_of_its_own(borrows: Zone) -> None:
    kinds = {resource.type for resource in borrows.resources(stack="ModelStoreStack")}
    assert not kinds & {"AWS::S3::Bucket", "AWS::KMS::Key", "AWS::SecretsManager::Secret"}
    assert "AWS::Lambda::Function" in kinds, "it checks artifacts itself"


def test_it_imports_what_the_owner_exports(borrows: Zone, dev: Zone) -> None:
    exported = {
        output["Export"]["Name"]
        for output in dev.templates["ModelStoreStack"]["Outputs"].values()
        if output.get("Export", {}).get("Name", "").count(":Exports") == 0 and "Export" in output
    }
    assert exported == {f"modelzone-dev-model-store:{name}" for name in ("BucketName", "KeyArn", "HubTokenArn")}
    imported = set(re.findall(r'"Fn::ImportValue": "(modelzone-dev-[^"]+)"', json.dumps(borrows.templates)))
    assert imported == exported


def test_every_owner_exports(zone: Zone) -> None:
    names = {output.get("Export", {}).get("Name") for output in zone.templates["ModelStoreStack"]["Outputs"].values()}
    own = zone.plan.environment.model_store is None
    assert (f"modelzone-{zone.name}-model-store:BucketName" in names) is own


def test_both_environments_mean_the_same_artifact(borrows: Zone, dev: Zone) -> None:
    """What one has compiled, the other finds."""
    (ours,), (theirs,) = borrows.plan.deployments, dev.plan.deployments
    assert ours.artifact_prefix == theirs.artifact_prefix
    order = expected_order(borrows, "mixtral")
    assert order["job"]["bucket"] == "<modelzone-dev-model-store:BucketName>"
    check = borrows.one("Custom::CompiledArtifact")
    assert check.properties["Bucket"] == {"Fn::ImportValue": "modelzone-dev-model-store:BucketName"}


def test_hosts_prefer_what_the_environment_names(borrows: Zone) -> None:
    order = expected_order(borrows, "mixtral")
    assert order["purchase"] == "spot"
    assert [host["instance_type"] for host in order["hosts"]] == ["inf2.24xlarge", "inf2.48xlarge"]
