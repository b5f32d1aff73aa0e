"""Settings are refused with file, key, value and fix, and are what the files say otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from modelzone.errors import SettingsError
from modelzone.settings import (
    apply_overrides,
    deployment_overrides,
    load_environment,
    load_profile,
    merge_serving,
)

ROOT = Path(__file__).resolve().parents[2]
EDIT = Callable[[dict], object]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("environments", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def edit(path: Path, change: EDIT) -> None:
    data = yaml.safe_load(path.read_text())
    change(data)
    path.write_text(yaml.safe_dump(data))


@pytest.mark.parametrize("name", [p.stem for p in (ROOT / "environments").glob("*.yaml")])
def test_every_shipped_environment_loads_with_its_profiles(name: str) -> None:
    environment = load_environment(ROOT, name)
    for deployment in environment.deployments.values():
        assert load_profile(ROOT, deployment.profile).name == deployment.profile


def test_settings_are_frozen() -> None:
    environment = load_environment(ROOT, "dev")
    with pytest.raises(AttributeError):
        environment.region = "eu-west-1"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "key", "says", "fix"),
    [
        (lambda d: d.update(regoin="x"), "regoin", "not a known key", "did you mean region?"),
        (lambda d: d.update(region="Virginia"), "region", "'Virginia'", "must match"),
        (lambda d: d.update(account=123456789012), "account", "123456789012", "in quotes"),
        (lambda d: d.pop("region"), "region", "required", "add the key region"),
        (lambda d: d["gateway"].update(burst_limit="40"), "gateway.burst_limit", "'40'", "a whole number"),
        (lambda d: d["gateway"].update(burst_limit=0), "gateway.burst_limit", "0 is refused", "at least 1"),
        (lambda d: d["gateway"].update(burst=1), "gateway.burst", "not a known key", "did you mean burst_limit?"),
        (lambda d: d.update(log_retention_days=31), "log_retention_days", "31", "use one of"),
        (lambda d: d["network"].update(egress="proxy"), "network.egress", "'proxy'", "'nat' or 'none'"),
        (lambda d: d["network"]["new_vpc"].update(cidr="8.0.0.0/16"), "network.new_vpc", "cidr 8.0.0.0/16", ""),
        (lambda d: d["network"]["new_vpc"].update(cidr="10.0.0.1/16"), "network.new_vpc", "cidr 10.0.0.1/16", ""),
        (
            lambda d: d["network"]["new_vpc"].update(availability_zones=["us-west-2a", "us-west-2b"]),
            "",
            "availability zone us-west-2a is not in region us-east-1",
            "",
        ),
        (lambda d: d["network"].pop("new_vpc"), "network", "either new_vpc or existing_vpc", ""),
        (lambda d: d.update(deployments={}), "deployments", "at least 1", ""),
        (
            lambda d: d["deployments"]["mixtral"].update(batch=1),
            "deployments.mixtral.batch",
            "not a known key",
            "did you mean batch_size?",
        ),
        (
            lambda d: d["deployments"]["mixtral"].update(health_check_timeout_seconds=3601),
            "deployments.mixtral.health_check_timeout_seconds",
            "3601",
            "at most 3600",
        ),
        (
            lambda d: d["deployments"]["mixtral"]["scaling"].update(min_instances=3),
            "deployments.mixtral.scaling",
            "min_instances 3 is more than max_instances 2",
            "",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_fix(
    project: Path, change: EDIT, key: str, says: str, fix: str
) -> None:
    path = project / "environments" / "dev.yaml"
    edit(path, change)
    with pytest.raises(SettingsError) as refused:
        load_environment(project, "dev")
    assert refused.value.source == str(path)
    assert refused.value.key == key
    assert says in refused.value.problem
    assert fix in refused.value.fix
    assert "`" not in str(refused.value)


def test_an_existing_vpc_needs_a_zone_and_a_route_table_for_each_subnet(project: Path) -> None:
    path = project / "environments" / "dev.yaml"
    vpc = {
        "vpc_id": "vpc-0123456789abcdef0",
        "availability_zones": ["us-east-1a", "us-east-1b"],
        "private_subnet_ids": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
        "private_route_table_ids": ["rtb-0123456789abcdef0", "rtb-0123456789abcdef1"],
        "create_endpoints": True,
        "vpc_cidr": "10.0.0.0/16",
    }
    edit(path, lambda d: d.update(network={"existing_vpc": vpc}))
    assert load_environment(project, "dev").network.existing_vpc is not None
    edit(path, lambda d: d["network"]["existing_vpc"].pop("vpc_cidr"))
    with pytest.raises(SettingsError, match="give vpc_cidr when, and only when, it is true"):
        load_environment(project, "dev")
    for cidr in ("0.0.0.0/0", "10.0.0.0/8", "10.0.0.1/16", "anywhere"):
        edit(path, lambda d, cidr=cidr: d["network"]["existing_vpc"].update(vpc_cidr=cidr))
        with pytest.raises(SettingsError, match=r"network\.existing_vpc: vpc_cidr"):
            load_environment(project, "dev")
    edit(path, lambda d: d["network"]["existing_vpc"].update(vpc_cidr="10.0.0.0/16"))
    edit(path, lambda d: d["network"]["existing_vpc"]["availability_zones"].pop())
    with pytest.raises(SettingsError, match="1 entries and private_subnet_ids 2"):
        load_environment(project, "dev")


def test_an_unknown_environment_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="did you mean prod"):
        load_environment(ROOT, "prd")
    with pytest.raises(SettingsError, match="no environment named"):
        load_environment(ROOT, "../models/mixtral-8x7b-instruct")


def test_broken_yaml_and_a_wrong_name_are_refused(project: Path) -> None:
    path = project / "environments" / "dev.yaml"
    edit(path, lambda d: d.update(name="other"))
    with pytest.raises(SettingsError, match="make it the file's name, 'dev'"):
        load_environment(project, "dev")
    path.write_text("name: dev\nregion: [")
    with pytest.raises(SettingsError, match=r"not valid YAML.*line 2"):
        load_environment(project, "dev")
    path.write_text("- name: dev\n")
    with pytest.raises(SettingsError, match="does not hold a mapping"):
        load_environment(project, "dev")
    path.write_text("name: dev\nname: dev\n")
    with pytest.raises(SettingsError, match="'name' is given twice"):
        load_environment(project, "dev")


def test_a_profile_must_add_up(project: Path) -> None:
    path = project / "models" / "mixtral-8x7b-instruct.yaml"
    edit(path, lambda d: d["model"]["architecture"].update(key_value_heads=7))
    with pytest.raises(SettingsError, match="attention_heads 32 is not a multiple of key_value_heads 7"):
        load_profile(project, "mixtral-8x7b-instruct")
    edit(path, lambda d: d["model"]["architecture"].update(key_value_heads=8))
    edit(path, lambda d: d["model"].update(revision="main"))
    with pytest.raises(SettingsError, match="'main' is refused"):
        load_profile(project, "mixtral-8x7b-instruct")


def test_overrides_are_merged_over_file_and_profile() -> None:
    environment = load_environment(ROOT, "dev")
    context = {
        "deployment.mixtral.batch_size": "4",
        "deployment.mixtral.scaling.max_instances": "5",
        "deployment.mixtral.volume_size_gib": "null",
        "environment": "dev",
        "@aws-cdk/core:something": True,
    }
    environment = apply_overrides(environment, deployment_overrides(context))
    profile = load_profile(ROOT, "mixtral-8x7b-instruct")
    serving = merge_serving(profile, environment.deployments["mixtral"], source="dev")
    assert serving.batch_size == 4
    assert serving.volume_size_gib is None
    assert (serving.scaling.min_instances, serving.scaling.max_instances) == (1, 5)
    assert serving.sequence_length == profile.serving.sequence_length


@pytest.mark.parametrize(
    ("context", "says"),
    [
        ({"deployment.mixtral.batchsize": "4"}, "did you mean batch_size?"),
        ({"deployment.mixtral.batch_size": "many"}, "'many' is refused"),
        ({"deployment.mixtral.batch_size": "0"}, "at least 1"),
        ({"deployment.mixtrel.batch_size": "1"}, "its deployments are: mixtral"),
        ({"deployment.mixtral": "1"}, "names no field"),
        ({"deployments.mixtral.batch_size": "1"}, "is not an override"),
        ({"enviroment": "prod"}, "is not an override"),
        ({"deployment.mixtral.profile.x": "1"}, "has no keys of its own"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_typed(context: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        apply_overrides(load_environment(ROOT, "dev"), deployment_overrides(context))
    (key, value) = next(iter(context.items()))
    assert refused.value.source == f"-c {key}={value}"
    assert says in str(refused.value)


def test_an_override_is_checked_against_the_whole_deployment() -> None:
    environment = apply_overrides(
        load_environment(ROOT, "dev"), deployment_overrides({"deployment.mixtral.sequence_length": "512"})
    )
    with pytest.raises(SettingsError, match="max_input_tokens 512 leaves no room for an answer"):
        merge_serving(
            load_profile(ROOT, "mixtral-8x7b-instruct"), environment.deployments["mixtral"], source="dev.yaml"
        )


def test_variables_and_options_are_merged_one_by_one(project: Path) -> None:
    edit(
        project / "models" / "mixtral-8x7b-instruct.yaml",
        lambda d: d["serving"].update(environment={"LOG_LEVEL": "info", "A": "1"}, options={"max_loras": 2}),
    )
    overrides = {"mixtral": {"environment.LOG_LEVEL": "debug", "environment.B": "4", "options.max_loras": "3"}}
    environment = apply_overrides(load_environment(project, "dev"), overrides)
    serving = merge_serving(
        load_profile(project, "mixtral-8x7b-instruct"), environment.deployments["mixtral"], source="dev"
    )
    assert serving.environment == {"LOG_LEVEL": "debug", "A": "1", "B": "4"}
    assert serving.options == {"max_loras": 3}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("environment", {"B": "1", "A-B": "1"}, "the key 'A-B' is refused"),
        ("environment", {"A": 1}, "must be text in quotes"),
        ("quantization", "awk", "'awq'"),
        ("adapters", {"count": 0}, "at least 1"),
    ],
)
def test_a_wrong_serving_value_is_named(project: Path, key: str, value: object, says: str) -> None:
    path = project / "models" / "mixtral-8x7b-instruct.yaml"
    edit(path, lambda d: d["serving"].update({key: value}))
    with pytest.raises(SettingsError) as refused:
        load_profile(project, "mixtral-8x7b-instruct")
    assert refused.value.key.startswith(f"serving.{key}")
    assert says in str(refused.value)


@pytest.mark.parametrize("order", [1, -1])
def test_overrides_that_belong_together_are_checked_together(order: int) -> None:
    context = {"deployment.mixtral.scaling.min_instances": "3", "deployment.mixtral.scaling.max_instances": "4"}
    overrides = deployment_overrides(dict(list(context.items())[::order]))
    serving = merge_serving(
        load_profile(ROOT, "mixtral-8x7b-instruct"),
        apply_overrides(load_environment(ROOT, "dev"), overrides).deployments["mixtral"],
        source="dev",
    )
    assert (serving.scaling.min_instances, serving.scaling.max_instances) == (3, 4)


def test_of_several_overrides_the_wrong_one_is_named() -> None:
    context = {"deployment.mixtral.batch_size": "4", "deployment.mixtral.dtype": "fp8"}
    with pytest.raises(SettingsError) as refused:
        apply_overrides(load_environment(ROOT, "dev"), deployment_overrides(context))
    assert refused.value.source == "-c deployment.mixtral.dtype=fp8"
    context = {"deployment.mixtral.scaling.min_instances": "5", "deployment.mixtral.batch_size": "4"}
    with pytest.raises(SettingsError) as refused:
        apply_overrides(load_environment(ROOT, "dev"), deployment_overrides(context))
    assert refused.value.source == "-c deployment.mixtral.scaling.min_instances=5"


def test_values_of_variables_are_not_repeated_in_messages() -> None:
    overrides = {"mixtral": {"environment.HF_TOKEN": "hf_planted", "environment.A-B": "hf_other"}}
    with pytest.raises(SettingsError) as refused:
        apply_overrides(load_environment(ROOT, "dev"), overrides)
    assert "hf_" not in str(refused.value)


@pytest.mark.parametrize("text", ["region: 2026-13-45\n", "? [a]\n: b\n", "a: " + "[" * 3000])
def test_what_the_yaml_library_lets_through_is_refused_too(project: Path, text: str) -> None:
    (project / "environments" / "dev.yaml").write_text(text)
    with pytest.raises(SettingsError, match="not valid YAML"):
        load_environment(project, "dev")


def test_an_override_that_only_looks_like_a_date_is_text() -> None:
    with pytest.raises(SettingsError, match="dtype"):
        apply_overrides(load_environment(ROOT, "dev"), {"mixtral": {"dtype": "2026-13-45"}})
