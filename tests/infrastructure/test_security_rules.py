"""cdk-nag's AwsSolutions rules over every environment; accepted findings are acknowledged where they arise."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Stack, Validations
from aws_cdk import aws_s3 as s3
from cdk_nag import AwsSolutionsChecks
from infrastructure.support import CONTEXT, ENVIRONMENTS

from modelzone.planning import plan_environment
from stacks.environment import build_environment

REPORT = "validation-report.json"


def _check(app: App) -> list[tuple[str, str]]:
    """Rule and construct of every finding that nobody accepted, warnings included."""
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    folder = Path(app.outdir)
    with contextlib.suppress(RuntimeError):  # synth fails on findings; the report says which
        app.synth()
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return [
        (violation["ruleName"], construct.get("constructPath", ""))
        for plugin in report["pluginReports"]
        for violation in plugin["violations"]
        for construct in violation["violatingConstructs"]
    ]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_finding_is_left(name: str, root: Path, tmp_path: Path) -> None:
    app = App(context=CONTEXT, outdir=str(tmp_path), analytics_reporting=False)
    build_environment(app, plan=plan_environment(root, name))
    assert _check(app) == []


def test_the_rules_do_run(tmp_path: Path) -> None:
    app = App(context=CONTEXT, outdir=str(tmp_path))
    s3.Bucket(Stack(app, "Careless"), "Bucket")
    rules = {rule.partition("[")[0].removeprefix("AwsSolutions::") for rule, _ in _check(app)}
    assert {"AwsSolutions-S1", "AwsSolutions-S10"} <= rules


def test_findings_are_accepted_on_single_resources_with_a_reason(root: Path, tmp_path: Path) -> None:
    """Never on a stack or on the whole app, where one acceptance would hide findings to come."""
    app = App(context=CONTEXT, outdir=str(tmp_path), analytics_reporting=False)
    build_environment(app, plan=plan_environment(root, "dev"))
    accepted = list(_acknowledged(app))
    assert accepted
    for path, rules in accepted:
        construct = app.node.find_child(path.split("/")[0])
        for part in path.split("/")[1:]:
            construct = construct.node.find_child(part)
        assert not Stack.is_stack(construct), path
        resources = [c for c in construct.node.find_all() if c.node.id == "Resource" or c.node.default_child is None]
        assert resources, path
        for rule, reason in rules.items():
            assert rule, path
            assert len(reason) > 40, f"{path}: {rule} needs a real reason"


def _acknowledged(app: App) -> Iterator[tuple[str, dict[str, Any]]]:
    key = Validations.ACKNOWLEDGED_RULES_METADATA_KEY
    for construct in app.node.find_all():
        for entry in construct.node.metadata:
            if entry.type == key:
                yield construct.node.path, entry.data
