"""Templates against CloudFormation's own schemas, and against the last ones that somebody looked at."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from cfnlint.api import lint
from cfnlint.core import get_rules
from cfnlint.rules import RulesCollection
from infrastructure.support import Zone
from syrupy.assertion import SnapshotAssertion

# Rule -> why it is not for us.
IGNORED_LINT = {
    "W3005": "the CDK writes dependencies on roles with their policies, and the references imply half of them",
    "W6001": "the compile commands are outputs and name resources of other stacks",
}
ASSET = re.compile(r"\b[0-9a-f]{64}\b")
# CloudFormation refuses templates above 1 MB and more than 200 parameters or 500 resources.
MOST_BYTES = 1_000_000
MOST_RESOURCES = 500


@pytest.fixture(scope="module")
def rules() -> RulesCollection:
    """Errors and warnings; loading them takes a second."""
    return get_rules(append_rules=[], ignore_rules=[], include_rules=["E", "W"])


def test_templates_satisfy_cfn_lint(zone: Zone, rules: RulesCollection) -> None:
    findings = [
        f"{name}: {match.rule.id} {match.message} at {'/'.join(map(str, match.path or []))}"
        for name, template in zone.templates.items()
        for match in lint(json.dumps(template), rules, [zone.plan.environment.region])
        if match.rule.id not in IGNORED_LINT
    ]
    assert findings == []


def test_cfn_lint_does_find_faults(rules: RulesCollection) -> None:
    queue = {"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": "x", "NoSuch": 1}}
    found = {match.rule.id for match in lint(json.dumps({"Resources": {"Queue": queue}}), rules, ["us-east-1"])}
    assert {"E3002", "E3012"} <= found


def test_templates_stay_far_from_cloudformations_limits(zone: Zone) -> None:
    for name, template in zone.templates.items():
        assert len(json.dumps(template)) < MOST_BYTES / 4, name
        assert len(template["Resources"]) < MOST_RESOURCES / 4, name
        # 74 parameters with conditions once took the CDK's validation a minute.
        assert len(template.get("Parameters", {})) <= 15, name
        assert "Conditions" not in template, name


def test_every_resource_that_can_is_tagged(zone: Zone) -> None:
    for resource in zone.resources():
        tags = resource.properties.get("Tags")
        if isinstance(tags, list):
            names = {tag["Key"]: tag["Value"] for tag in tags}
            assert names["project"] == "modelzone", resource.logical_id
            assert names["modelzone:environment"] == zone.name, resource.logical_id


@pytest.mark.parametrize("name", ["dev", "prod"])
def test_templates_are_as_last_reviewed(name: str, synthesise: Any, snapshot: SnapshotAssertion) -> None:
    """After a wanted change: ``pytest tests/infrastructure/test_templates.py --snapshot-update``, and read the diff."""
    zone = synthesise(name)
    masked = {
        stack: json.loads(ASSET.sub("<asset>", json.dumps(template))) for stack, template in zone.templates.items()
    }
    assert masked == snapshot(name=name)
