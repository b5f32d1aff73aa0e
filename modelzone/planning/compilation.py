"""What a compilation needs of its host."""

from __future__ import annotations

from dataclasses import dataclass

from modelzone.architectures import Clip, Decoder
from modelzone.hardware import Instance, find_instance, instance_types
from modelzone.planning.assumptions import assumption
from modelzone.planning.memory import GIB, weight_bytes
from modelzone.prices import instance_price

__all__ = ["CompileNeeds", "compile_memory", "compile_needs"]


@dataclass(frozen=True, kw_only=True)
class CompileNeeds:
    """The host that compiles, and why.

    Attributes
    ----------
    instance
        Cheapest type of the family with the devices and the memory; None when no type has enough.
    host_memory_bytes, disk_gib, root_volume_gib
        Memory that the compiler takes, disk that must be free when it starts, and the volume that has it.
    """

    instance: Instance | None
    host_memory_bytes: int
    disk_gib: int
    root_volume_gib: int
    command: tuple[str, ...]


def compile_memory(architecture: Decoder | Clip) -> int:
    """Bytes of host memory that compiling takes."""
    weights = weight_bytes(architecture) * assumption("compile", "host_memory_per_weight_byte").value
    return int(weights + assumption("compile", "host_memory_bytes").value)


def compile_needs(
    architecture: Decoder | Clip,
    *,
    serving_instance: Instance,
    tensor_parallel_degree: int,
    command: tuple[str, ...],
    region: str,
) -> CompileNeeds:
    """Work out what the host of a compilation must have.

    The serving instance's own type is taken where its host memory suffices: it is known to have the devices.
    """
    weights = weight_bytes(architecture)
    memory = compile_memory(architecture)
    disk = weights * assumption("compile", "disk_per_weight_byte").value + assumption("compile", "image_bytes").value
    disk_gib = int(disk / GIB) + 1
    return CompileNeeds(
        instance=_host(serving_instance, tensor_parallel_degree, memory, region),
        host_memory_bytes=memory,
        disk_gib=disk_gib,
        root_volume_gib=disk_gib + int(assumption("compile", "system_bytes").value / GIB),
        command=command,
    )


# Of a type's memory, what the host sees: firmware and kernel keep the rest.
_VISIBLE = 0.95


def _host(serving: Instance, degree: int, memory: int, region: str) -> Instance | None:
    memory = int(memory / _VISIBLE)
    if serving.memory_bytes >= memory:
        return serving
    candidates = [
        other
        for name in instance_types()
        if (other := find_instance(name))
        and other.family == serving.family
        and degree in other.tensor_parallel_degrees
        and other.memory_bytes >= memory
    ]

    def cost(instance: Instance) -> tuple[float, int]:
        price = instance_price(instance.name, region=region)
        return (price.usd if price else float("inf"), instance.memory_bytes)

    return min(candidates, key=cost, default=None)
