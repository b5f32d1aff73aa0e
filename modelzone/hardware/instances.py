"""Instance types, their accelerators and their families."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from modelzone.resources import read_data

__all__ = [
    "Accelerator",
    "Family",
    "Instance",
    "accelerators",
    "families",
    "family",
    "find_instance",
    "instance_types",
]

_PACKAGE = "modelzone.hardware"
_MIB = 1024**2
_GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One chip or GPU.

    Attributes
    ----------
    cores
        NeuronCores of a chip, which share its memory in equal parts; 1 for a GPU.
    memory_bytes
        What a program can use of the whole accelerator's memory.
    bandwidth_bytes_per_second, tflops_16bit
        Peak values of the whole accelerator, TFLOPS without sparsity.
    compute_capability
        CUDA's, ``8.9``; None for Neuron.
    """

    name: str
    kind: Literal["neuron", "gpu"]
    cores: int
    memory_bytes: int
    bandwidth_bytes_per_second: float
    tflops_16bit: float
    compute_capability: str | None


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One accelerated instance type.

    A *device* is what one tensor parallel rank runs on: a NeuronCore or a GPU.

    Attributes
    ----------
    name
        EC2's name, ``inf2.24xlarge``; SageMaker's is ``ml_name``.
    memory_bytes
        Host memory.
    accelerators
        How many of `accelerator` there are: ``/dev/neuron*`` devices, or GPUs.
    tensor_parallel_degrees
        Degrees that the topology allows.
    local_disk_bytes
        NVMe disks of the host, 0 without.
    sagemaker
        Whether SageMaker's API knows it for endpoints.
    """

    name: str
    family: str
    vcpus: int
    memory_bytes: int
    accelerator: Accelerator
    accelerators: int
    tensor_parallel_degrees: tuple[int, ...]
    local_disk_bytes: int
    sagemaker: bool

    @property
    def ml_name(self) -> str:
        """SageMaker's name of the type."""
        return f"ml.{self.name}"

    @property
    def devices(self) -> int:
        """NeuronCores or GPUs on the instance."""
        return self.accelerators * self.accelerator.cores

    @property
    def device_name(self) -> str:
        """What a device is called."""
        return "NeuronCore" if self.accelerator.kind == "neuron" else "GPU"

    @property
    def device_memory_bytes(self) -> int:
        """Memory that one device can use."""
        return self.accelerator.memory_bytes // self.accelerator.cores

    @property
    def device_bandwidth_bytes_per_second(self) -> float:
        """One device's share of its accelerator's memory bandwidth."""
        return self.accelerator.bandwidth_bytes_per_second / self.accelerator.cores


@dataclass(frozen=True, kw_only=True)
class Family:
    """What all sizes of a family share. See the comments in ``data/families.yaml``."""

    name: str
    takes_volume_size: bool
    inference_ami_version: str | None
    compile_ami_parameter: str


@cache
def _families() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = read_data(_PACKAGE, "families.yaml")["families"]
    return rows


@cache
def accelerators() -> dict[str, Accelerator]:
    """Return all known accelerators by name. Do not modify the result."""
    return {
        name: Accelerator(
            name=name,
            kind=row["kind"],
            cores=row["cores"],
            memory_bytes=row["memory_mib"] * _MIB,
            bandwidth_bytes_per_second=row["bandwidth_gb_per_second"] * _GB,
            tflops_16bit=row["tflops_16bit"],
            compute_capability=row["compute_capability"],
        )
        for name, row in read_data(_PACKAGE, "accelerators.yaml")["accelerators"].items()
    }


@cache
def _instances() -> dict[str, Instance]:
    return {name: _instance(name, row) for name, row in read_data(_PACKAGE, "instances.yaml")["instances"].items()}


def _instance(name: str, row: dict[str, Any]) -> Instance:
    family_name = name.partition(".")[0]
    accelerator = accelerators()[row["accelerator"]]
    devices = row["accelerators"] * accelerator.cores
    return Instance(
        name=name,
        family=family_name,
        vcpus=row["vcpus"],
        memory_bytes=row["memory_mib"] * _MIB,
        accelerator=accelerator,
        accelerators=row["accelerators"],
        tensor_parallel_degrees=tuple(d for d in _families()[family_name]["degrees"] if d <= devices),
        local_disk_bytes=row["local_disk_gb"] * _GB,
        sagemaker=row["sagemaker"],
    )


@cache
def instance_types() -> tuple[str, ...]:
    """EC2 names of all known types, family by family, smallest first."""
    return tuple(_instances())


@cache
def find_instance(name: str) -> Instance | None:
    """Look an instance type up by EC2's or SageMaker's name; None when it is unknown."""
    return _instances().get(name.removeprefix("ml."))


@cache
def families() -> tuple[str, ...]:
    """Names of all known families."""
    return tuple(_families())


@cache
def family(name: str) -> Family:
    """Facts about a family that an `Instance` names."""
    row = _families()[name]
    return Family(
        name=name,
        takes_volume_size=row["takes_volume_size"],
        inference_ami_version=row["inference_ami_version"],
        compile_ami_parameter=row["compile_ami_parameter"],
    )
