"""What compiling takes: which hosts, from where the weights, whose store."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from modelzone.errors import SettingsError
from modelzone.hosts import debug_host_tags, lifetime_user_data
from modelzone.planning import EnvironmentPlan, plan_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("environments", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def planned(project: Path, change: Callable[[dict], object], name: str = "dev") -> EnvironmentPlan:
    path = project / "environments" / f"{name}.yaml"
    data = yaml.safe_load(path.read_text())
    change(data)
    path.write_text(yaml.safe_dump(data))
    return plan_environment(project, name)


def hosts(plan: EnvironmentPlan) -> list[str]:
    return [host.instance_type for host in plan.deployments[0].compile.hosts]


def test_other_types_that_suffice_follow_the_planned_one() -> None:
    (mixtral,) = plan_environment(ROOT, "dev").deployments
    assert [(host.instance_type, host.devices) for host in mixtral.compile.hosts] == [
        ("inf2.24xlarge", 6),
        ("inf2.48xlarge", 12),
    ]
    assert mixtral.compile.instance_type == "inf2.24xlarge"
    assert mixtral.compile.mirror_instance_type == "inf2.xlarge"
    assert (mixtral.compile.accelerator, mixtral.compile.layout) == ("neuron", "neuron-config-key")


def test_the_types_to_try_can_be_named(project: Path) -> None:
    assert hosts(planned(project, lambda d: d.update(compile={"instance_types": ["inf2.24xlarge"]}))) == [
        "inf2.24xlarge"
    ]


@pytest.mark.parametrize("name", ["inf2.xlarge", "g6.48xlarge", "inf3.48xlarge"])
def test_a_type_that_cannot_compile_it_is_refused(project: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} cannot compile it") as refused:
        planned(project, lambda d: d.update(compile={"instance_types": [name]}))
    assert refused.value.key == "compile.instance_types"
    assert "inf2.24xlarge or inf2.48xlarge" in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"instance_types": ["inf2.24xlarge", "inf2.24xlarge"]}, "names inf2.24xlarge twice"),
        ({"notify": ["ops"]}, "notify"),
        ({"max_hours": 13}, "max_hours"),
        ({"purchase": "reserved"}, "purchase"),
    ],
)
def test_settings_of_compiling_are_checked(project: Path, settings: dict, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        planned(project, lambda d: d.update(compile=settings))


def test_the_command_keeps_the_shapes_open() -> None:
    """They may be given when the stack is deployed; the job fills them from the facts."""
    (mixtral,) = plan_environment(ROOT, "dev").deployments
    assert {"{batch_size}", "{sequence_length}", "{tensor_parallel_degree}"} <= set(mixtral.compile.export_command)


def test_without_egress_weights_come_from_the_store() -> None:
    (dev,) = plan_environment(ROOT, "dev").deployments
    (prod,) = plan_environment(ROOT, "prod").deployments
    assert (dev.compile.weights_source, prod.compile.weights_source) == ("hub", "s3")
    assert dev.compile_hint == "Compile it: modelzone compile mixtral -e dev."
    assert "--weights-only" in prod.compile_hint


def test_a_store_is_shared_within_region_and_account(project: Path) -> None:
    assert plan_environment(project, "prod").store_owner == "prod"
    shared = planned(project, lambda d: d.update(model_store={"shared_with": "dev"}), "prod")
    assert shared.store_owner == "dev"


@pytest.mark.parametrize(
    ("owner", "ours", "says"),
    [
        ({}, {"model_store": {"shared_with": "devel"}}, "no environment named 'devel'"),
        ({}, {"model_store": {"shared_with": "prod"}}, "the environment itself"),
        ({"region": "us-west-2"}, {"model_store": {"shared_with": "dev"}}, "dev has region us-west-2"),
        ({"account": "123456789012"}, {"model_store": {"shared_with": "dev"}}, "dev has account 123456789012"),
        (
            {"model_store": {"shared_with": "prod"}},
            {"model_store": {"shared_with": "dev"}},
            "uses that of prod",
        ),
    ],
)
def test_a_store_that_cannot_be_shared_is_refused(project: Path, owner: dict, ours: dict, says: str) -> None:
    path = project / "environments" / "dev.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **owner}))
    with pytest.raises(SettingsError, match=says):
        planned(project, lambda d: d.update(ours), "prod")


def test_a_host_ends_itself() -> None:
    script = lifetime_user_data(7)
    assert "OnBootSec=7h" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    with pytest.raises(ValueError, match="hours is 0"):
        lifetime_user_data(0)


def test_a_debugging_host_says_until_when() -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    tags = debug_host_tags(environment="dev", deployment="mixtral", hours=4, now=now)
    assert tags["modelzone:until"] == "2026-11-21T16:00:00Z"
    assert tags["modelzone:role"] == "debug-host"
