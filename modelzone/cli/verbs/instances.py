"""``modelzone instances``: accelerated instance types."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzone.cli.formats import gib, usd
from modelzone.cli.options import JsonOption, RegionOption, examples
from modelzone.cli.output import write_json, write_table
from modelzone.cli.regions import DEFAULT_REGION
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.hardware import Instance
    from modelzone.prices import Price

_GB = 10**9


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    lines = (
        "modelzone instances",
        "modelzone instances --family inf2 --region eu-west-1",
        "modelzone instances --json",
    )
    app.command("instances", short_help="List instance types and their prices.", epilog=examples(*lines))(instances)


def _complete_family(incomplete: str) -> list[str]:
    from modelzone.hardware import families  # noqa: PLC0415

    return [name for name in families() if name.startswith(incomplete)]


def instances(
    *,
    family: Annotated[
        str | None,
        typer.Option("--family", metavar="FAMILY", help="Only this family.", autocompletion=_complete_family),
    ] = None,
    region: RegionOption = DEFAULT_REGION,
    as_json: JsonOption = False,
) -> None:
    """List instance types: accelerators, memory, tensor parallel degrees and on-demand prices."""
    from modelzone.hardware import families, find_instance, instance_types  # noqa: PLC0415

    if family is not None and family not in families():
        near = difflib.get_close_matches(family, families(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ModelzoneError(f"there is no instance family {family!r}; {hint}known: {', '.join(families())}")
    found = [instance for name in instance_types() if (instance := find_instance(name))]
    rows = [_row(instance, region) for instance in found if family in {None, instance.family}]
    if as_json:
        write_json({"region": region, "instances": rows})
        return
    columns = ["INSTANCE", "ACCELERATORS", "DEVICES>", "GIB/DEVICE>", "GB/S/DEVICE>", "HOST GIB>", "DEGREES"]
    write_table([*columns, "EC2 USD/H>", "SAGEMAKER USD/H>"], [_line(row) for row in rows])


def _row(instance: Instance, region: str) -> dict[str, Any]:
    from modelzone.prices import instance_price  # noqa: PLC0415

    return {
        "name": instance.name,
        "family": instance.family,
        "vcpus": instance.vcpus,
        "memory_bytes": instance.memory_bytes,
        "accelerator": instance.accelerator.name,
        "accelerators": instance.accelerators,
        "device": instance.device_name,
        "devices": instance.devices,
        "device_memory_bytes": instance.device_memory_bytes,
        "device_bandwidth_bytes_per_second": instance.device_bandwidth_bytes_per_second,
        "tensor_parallel_degrees": list(instance.tensor_parallel_degrees),
        "local_disk_bytes": instance.local_disk_bytes,
        "sagemaker": instance.sagemaker,
        "ec2_price": _price(instance_price(instance.name, region=region)),
        "sagemaker_price": _price(instance_price(instance.ml_name, region=region)) if instance.sagemaker else None,
    }


def _price(price: Price | None) -> dict[str, Any] | None:
    if price is None:
        return None
    return {"usd_per_hour": price.usd, "date": price.date, "source": price.source, "verified": price.verified}


def _line(row: dict[str, Any]) -> list[str]:
    ec2, hosted = row["ec2_price"], row["sagemaker_price"]
    return [
        row["name"],
        f"{row['accelerators']} x {row['accelerator']}",
        f"{row['devices']}",
        gib(row["device_memory_bytes"]),
        f"{row['device_bandwidth_bytes_per_second'] / _GB:,.0f}",
        gib(row["memory_bytes"]),
        ", ".join(map(str, row["tensor_parallel_degrees"])),
        usd(ec2 and ec2["usd_per_hour"]),
        usd(hosted and hosted["usd_per_hour"]) if row["sagemaker"] else "not offered",
    ]
