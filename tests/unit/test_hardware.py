"""Instance types: the vendored file is what a refresh writes, and says what AWS says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.stub import Stubber
from moto import mock_aws

from modelzone.errors import ModelzoneError
from modelzone.hardware import accelerators, families, family, find_instance, instance_types, refresh
from modelzone.hardware.refresh import hosting_types, refresh_instances
from modelzone.resources import data_path, read_data

GIB = 1024**3
_REGION: Any = {"region_name": "us-east-1", "aws_access_key_id": "x", "aws_secret_access_key": "x"}


def _vendored(name: str) -> str:
    return data_path("modelzone.hardware", name).read_text(encoding="utf-8")


def test_the_vendored_file_is_what_a_refresh_writes() -> None:
    head = read_data("modelzone.hardware", "instances.yaml")
    with mock_aws():
        written = refresh_instances(
            boto3.client("ec2", **_REGION), offered=hosting_types(), date=str(head["date"]), source=head["source"]
        )
    assert written == _vendored("instances.yaml")


def test_the_command_rewrites_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "data_path", lambda _, name: tmp_path / name)
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "x")
    with mock_aws():
        assert refresh.main() == 0
    written = yaml.safe_load((tmp_path / "instances.yaml").read_text(encoding="utf-8"))
    assert written["instances"] == read_data("modelzone.hardware", "instances.yaml")["instances"]


def test_a_type_that_ec2_does_not_describe_is_named() -> None:
    client = boto3.client("ec2", **_REGION)
    with Stubber(client) as stub:
        stub.add_response("describe_instance_types", {"InstanceTypes": []})
        with pytest.raises(ModelzoneError, match=r"did not describe: inf2\.xlarge"):
            refresh_instances(client, offered=(), date="2026-11-21", source="test")


def test_an_accelerator_that_is_not_in_the_file_is_named() -> None:
    described = [
        {
            "InstanceType": name,
            "VCpuInfo": {"DefaultVCpus": 4},
            "MemoryInfo": {"SizeInMiB": 16384},
            "GpuInfo": {"Gpus": [{"Name": "B300", "Count": 1, "MemoryInfo": {"SizeInMiB": 1}}]},
        }
        for name in instance_types()
    ]
    client = boto3.client("ec2", **_REGION)
    with Stubber(client) as stub:
        stub.add_response("describe_instance_types", {"InstanceTypes": described})
        with pytest.raises(ModelzoneError, match="B300 with 1 MiB"):
            refresh_instances(client, offered=(), date="2026-11-21", source="test")


def test_both_names_find_a_type() -> None:
    instance = find_instance("ml.inf2.24xlarge")
    assert instance == find_instance("inf2.24xlarge")
    assert instance is not None
    assert (instance.name, instance.ml_name, instance.vcpus) == ("inf2.24xlarge", "ml.inf2.24xlarge", 96)
    assert find_instance("inf2.2xlarge") is None


@pytest.mark.parametrize(
    ("name", "devices", "device_gib", "host_gib", "degrees", "device"),
    [
        ("inf2.xlarge", 2, 16, 16, (1, 2), "NeuronCore"),
        ("inf2.8xlarge", 2, 16, 128, (1, 2), "NeuronCore"),
        ("inf2.24xlarge", 12, 16, 384, (1, 2, 4, 8), "NeuronCore"),
        ("inf2.48xlarge", 24, 16, 768, (1, 2, 4, 8, 24), "NeuronCore"),
        ("trn1.2xlarge", 2, 16, 32, (1, 2), "NeuronCore"),
        ("trn1.32xlarge", 32, 16, 512, (1, 2, 8, 16, 32), "NeuronCore"),
        ("g5.12xlarge", 4, 22888 / 1024, 192, (1, 2, 4), "GPU"),
        ("g6.2xlarge", 1, 22888 / 1024, 32, (1,), "GPU"),
        ("g6.48xlarge", 8, 22888 / 1024, 768, (1, 2, 4, 8), "GPU"),
        ("p4d.24xlarge", 8, 40, 1152, (1, 2, 4, 8), "GPU"),
    ],
)
def test_shapes(
    name: str, devices: int, device_gib: float, host_gib: int, degrees: tuple[int, ...], device: str
) -> None:
    instance = find_instance(name)
    assert instance is not None
    assert instance.devices == devices
    assert instance.device_memory_bytes == device_gib * GIB
    assert instance.memory_bytes == host_gib * GIB
    assert instance.tensor_parallel_degrees == degrees
    assert instance.device_name == device


def test_a_core_has_half_of_its_chips_bandwidth() -> None:
    instance = find_instance("inf2.xlarge")
    assert instance is not None
    assert instance.device_bandwidth_bytes_per_second == pytest.approx(410 * GIB, rel=1e-6)


def test_only_families_without_disks_take_a_volume_size() -> None:
    assert [name for name in families() if family(name).takes_volume_size] == ["inf2"]
    for name in instance_types():
        instance = find_instance(name)
        assert instance is not None
        assert family(instance.family).takes_volume_size == (instance.local_disk_bytes == 0), name


def test_neuron_families_ask_for_the_newer_driver_and_gpus_leave_it_to_the_engine() -> None:
    for name in families():
        row = family(name)
        neuron = name in {"inf2", "trn1"}
        assert row.inference_ami_version == ("al2-ami-sagemaker-inference-neuron-2" if neuron else None)
        assert row.compile_ami_parameter.startswith("/aws/service/" + ("neuron/" if neuron else "deeplearning/"))


def test_sagemakers_api_knows_all_but_the_bare_metal_type() -> None:
    offered = hosting_types()
    for name in instance_types():
        instance = find_instance(name)
        assert instance is not None
        assert instance.sagemaker == (f"ml.{name}" in offered)
    assert [n for n in instance_types() if f"ml.{n}" not in offered] == ["g4dn.metal"]


def test_every_accelerator_is_used_and_has_a_source() -> None:
    used = {instance.accelerator.name for n in instance_types() if (instance := find_instance(n))}
    assert used == set(accelerators())
    data = read_data("modelzone.hardware", "accelerators.yaml")
    for row in data["accelerators"].values():
        assert set(row["source"].split(" and ")) <= set(data["sources"])
    assert {a.compute_capability for a in accelerators().values() if a.kind == "neuron"} == {None}
    assert all(a.compute_capability for a in accelerators().values() if a.kind == "gpu")
