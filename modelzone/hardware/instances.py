"""Instance types and their families."""

from __future__ import annotations

from dataclasses import dataclass

from modelzone.resources import read_data

__all__ = ["Family", "Instance", "family", "find_instance", "instance_types"]

_PACKAGE = "modelzone.hardware"


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One accelerated instance type.

    Attributes
    ----------
    name
        EC2's name, ``inf2.24xlarge``; SageMaker's is ``ml_name``.
    memory_gib
        Host memory.
    accelerators, cores
        Chips (``/dev/neuron*`` devices) and NeuronCores on the instance.
    accelerator_memory_gib
        Memory of all accelerators together.
    tensor_parallel_degrees
        The degrees that the Neuron runtime's topology allows (AWS Neuron SDK, transformers-neuronx guide).
    ec2_usd_per_hour, ml_usd_per_hour
        On-demand prices in us-east-1 at the date of the data file.
    """

    name: str
    family: str
    vcpus: int
    memory_gib: int
    accelerators: int
    cores: int
    accelerator_memory_gib: int
    tensor_parallel_degrees: tuple[int, ...]
    ec2_usd_per_hour: float
    ml_usd_per_hour: float

    @property
    def ml_name(self) -> str:
        """SageMaker's name of the type."""
        return f"ml.{self.name}"

    @property
    def core_memory_gib(self) -> float:
        """Device memory that one core can use."""
        return self.accelerator_memory_gib / self.cores


@dataclass(frozen=True, kw_only=True)
class Family:
    """What all sizes of a family share. See the comments in ``data/instances.yaml``."""

    name: str
    takes_volume_size: bool
    inference_ami_version: str | None
    compile_ami_parameter: str


def instance_types() -> tuple[str, ...]:
    """EC2 names of all known types, smallest first within a family."""
    return tuple(read_data(_PACKAGE, "instances.yaml")["instances"])


def find_instance(name: str) -> Instance | None:
    """Look an instance type up by EC2's or SageMaker's name; None when it is unknown."""
    row = read_data(_PACKAGE, "instances.yaml")["instances"].get(name.removeprefix("ml."))
    if row is None:
        return None
    degrees = tuple(row["tensor_parallel_degrees"])
    return Instance(**{**row, "name": name.removeprefix("ml."), "tensor_parallel_degrees": degrees})


def family(name: str) -> Family:
    """Facts about a family that an `Instance` names."""
    return Family(name=name, **read_data(_PACKAGE, "instances.yaml")["families"][name])
