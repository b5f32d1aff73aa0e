"""Plans: published sizes come out right, and what does not fit is refused with numbers."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from modelzone.errors import SettingsError
from modelzone.planning import plan_deployment, plan_environment
from modelzone.settings import apply_overrides, load_environment, load_profile

ROOT = Path(__file__).resolve().parents[2]


def test_the_articles_deployment() -> None:
    (plan,) = plan_environment(ROOT, "dev").deployments
    assert plan.stack_id == "InferentiaMixtralStack"
    assert plan.image_uri == (
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:"
        "2.1.2-optimum0.0.25-neuronx-py310-ubuntu22.04"
    )
    assert plan.inference_ami_version == "al2-ami-sagemaker-inference-neuron-2"
    assert plan.volume_size_gib == 512
    assert plan.serving.health_check_timeout_seconds == 2400
    assert plan.facts.as_dict() == {
        "engine": "tgi-neuronx",
        "engine_version": "0.0.25",
        "model_id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "model_revision": "41bd4c9e7e4fb318ca40e721131d4933966c2cc1",
        "instance_family": "inf2",
        "tensor_parallel_degree": "8",
        "batch_size": "1",
        "sequence_length": "1024",
        "dtype": "fp16",
    }
    assert plan.allowed_tensor_parallel_degrees == {"ml.inf2.24xlarge": (8,), "ml.inf2.48xlarge": (8, 24)}
    assert plan.maximum_sequence_length == 32768
    assert plan.target_concurrency == plan.serving.batch_size
    # Weights of 93.4 GB, their export and the image have to fit on the compile host's disk.
    assert plan.compile.root_volume_gib > 2 * 87 + 40
    assert plan.compile.hosts[0].devices == 6
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.region = "eu-west-1"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("engine", "'tgi'", "use one of: tgi-neuronx"),
        ("engine_version", "0.0.99", "is not a supported version of tgi-neuronx"),
        ("instance_type", "ml.inf2.2xlarge", "use one of: ml.inf2.xlarge"),
        ("instance_type", "inf2.24xlarge", "did you mean ml.inf2.24xlarge?"),
        ("tensor_parallel_degree", "16", "is not possible on ml.inf2.24xlarge, which has 12 NeuronCores"),
        ("tensor_parallel_degree", "4", "27.19 GiB of 16.00 GiB a NeuronCore"),
        ("instance_type", "ml.inf2.xlarge", "is not possible on ml.inf2.xlarge"),
        ("sequence_length", "40000", "use at most 32768"),
        ("batch_size", "256", ""),
        ("image_uri", "example.com/image:1", "is not the image of tgi-neuronx 0.0.25 in us-east-1"),
    ],
)
def test_what_cannot_run_is_refused_at_synth(field: str, value: str, says: str) -> None:
    overrides = {"mixtral": {field: value}}
    if field == "batch_size":
        overrides["mixtral"]["sequence_length"] = "4096"
    with pytest.raises(SettingsError) as refused:
        plan_environment(ROOT, "dev", overrides=overrides)
    assert says in str(refused.value)
    assert "deployments.mixtral." in refused.value.key
    assert "environments/dev.yaml -c deployment.mixtral." in refused.value.source


def test_a_misfit_names_what_would_fit() -> None:
    with pytest.raises(
        SettingsError, match=r"ml\.inf2\.24xlarge with degree 8 \(\$7.79/h.*\); or ml\.inf2\.48xlarge with degree 8, 24"
    ):
        plan_environment(ROOT, "dev", overrides={"mixtral": {"tensor_parallel_degree": "4"}})


def test_a_region_without_the_image_is_refused() -> None:
    environment = replace(load_environment(ROOT, "dev"), region="xx-nowhere-1")
    profile = load_profile(ROOT, "mixtral-8x7b-instruct")
    with pytest.raises(SettingsError, match="'xx-nowhere-1' has no image of tgi-neuronx"):
        plan_deployment(environment, "mixtral", profile, source="dev.yaml")


def test_two_deployments_must_not_share_a_stack(tmp_path: Path) -> None:
    for folder in ("environments", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    path = tmp_path / "environments" / "dev.yaml"
    data = yaml.safe_load(path.read_text())
    data["deployments"] = {name: {"profile": "mixtral-8x7b-instruct"} for name in ("mixtral-1", "mixtral1")}
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(SettingsError, match="mixtral-1 and mixtral1 would both become InferentiaMixtral1Stack"):
        plan_environment(tmp_path, "dev")


def test_overrides_change_the_artifacts_identity() -> None:
    prefixes = {
        plan_environment(ROOT, "dev", overrides={"mixtral": {"batch_size": str(size)}}).deployments[0].artifact_prefix
        for size in (1, 4, 8)
    }
    assert len(prefixes) == 3


def test_applying_no_overrides_changes_nothing() -> None:
    environment = load_environment(ROOT, "dev")
    assert apply_overrides(environment, {}) == environment


def test_other_partitions_are_refused() -> None:
    environment = replace(load_environment(ROOT, "dev"), region="cn-north-1")
    profile = load_profile(ROOT, "mixtral-8x7b-instruct")
    with pytest.raises(SettingsError, match="'cn-north-1' is not in AWS's commercial partition"):
        plan_deployment(environment, "mixtral", profile, source="dev.yaml")


def test_an_endpoints_name_must_not_grow_too_long() -> None:
    environment = load_environment(ROOT, "dev")
    long = replace(environment, name="e" * 32, deployments={"d" * 32: environment.deployments["mixtral"]})
    profile = load_profile(ROOT, "mixtral-8x7b-instruct")
    with pytest.raises(SettingsError, match="shorten the names of environment and deployment by 21"):
        plan_deployment(long, "d" * 32, profile, source="dev.yaml")


def test_a_profile_that_does_not_exist_is_refused_where_it_is_named() -> None:
    with pytest.raises(SettingsError, match="did you mean mixtral-8x7b-instruct") as refused:
        plan_environment(ROOT, "dev", overrides={"mixtral": {"profile": "mixtral-8x7b-instrct"}})
    assert refused.value.key == "deployments.mixtral.profile"
    assert "environments/dev.yaml" in refused.value.source
