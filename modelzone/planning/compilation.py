"""What a compilation needs of its host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelzone.architectures import Clip, Decoder
from modelzone.engines.shapes import fill_shapes
from modelzone.hardware import Instance, find_instance, instance_types
from modelzone.planning.assumptions import assumption
from modelzone.planning.memory import GIB, weight_bytes
from modelzone.prices import instance_price

__all__ = ["CompileNeeds", "compile_hosts", "compile_memory", "compile_needs", "mirror_host"]


@dataclass(frozen=True, kw_only=True)
class CompileNeeds:
    """The host that compiles, and why.

    Attributes
    ----------
    instance
        Cheapest type of the family with the devices and the memory; None when no type has enough.
    host_memory_bytes, disk_gib, root_volume_gib
        Memory that the compiler takes, disk that must be free when it starts, and the volume that has it.
    template
        The command that compiles, with placeholders for folders and for the shapes.
    command
        The same with the shapes as planned.
    """

    instance: Instance | None
    host_memory_bytes: int
    disk_gib: int
    root_volume_gib: int
    template: tuple[str, ...]
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
    template: tuple[str, ...],
    shapes: Mapping[str, str],
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
        template=template,
        command=fill_shapes(template, shapes),
    )


# Of a type's memory, what the host sees: firmware and kernel keep the rest.
_VISIBLE = 0.95


def _host(serving: Instance, degree: int, memory: int, region: str) -> Instance | None:
    if serving.memory_bytes >= memory / _VISIBLE:
        return serving
    return next(_candidates(serving.family, degree, memory, region), None)


def compile_hosts(
    needs: CompileNeeds, *, tensor_parallel_degree: int, region: str, preferred: tuple[str, ...]
) -> tuple[Instance, ...]:
    """Instance types that can compile, in the order in which they are tried where capacity is scarce.

    Parameters
    ----------
    preferred
        Types to try after the planned one; without them, all others that suffice, cheapest first.

    Raises
    ------
    ValueError
        A preferred type does not exist or does not suffice; the text says why.
    """
    if needs.instance is None:
        return ()
    first = needs.instance
    fitting = list(_candidates(first.family, tensor_parallel_degree, needs.host_memory_bytes, region))
    if not preferred:
        return (first, *(other for other in fitting if other != first))
    named = {other.name: other for other in fitting}
    for name in preferred:
        if name != first.name and name not in named:
            raise ValueError(
                f"{name} cannot compile it: that takes a {first.family} with tensor parallel degree "
                f"{tensor_parallel_degree} and {needs.host_memory_bytes / _VISIBLE / GIB:.0f} GiB of memory; use "
                f"{' or '.join(sorted({first.name, *named}))}"
            )
    return (first, *(named[name] for name in preferred if name != first.name))


def mirror_host(family: str, *, region: str) -> Instance:
    """The cheapest type of a family, for a job that only copies weights to S3 and asks for no accelerator."""
    return min(_instances(family), key=lambda instance: _cost(instance, region))


def _candidates(family: str, degree: int, memory: int, region: str) -> Iterator[Instance]:
    suffice = [
        instance
        for instance in _instances(family)
        if degree in instance.tensor_parallel_degrees and instance.memory_bytes >= memory / _VISIBLE
    ]
    yield from sorted(suffice, key=lambda instance: _cost(instance, region))


def _instances(family: str) -> Iterator[Instance]:
    for name in instance_types():
        found = find_instance(name)
        if found is not None and found.family == family:
            yield found


def _cost(instance: Instance, region: str) -> tuple[float, int]:
    price = instance_price(instance.name, region=region)
    return (price.usd if price else float("inf"), instance.memory_bytes)
