"""Reads the shapes of instance types from EC2 and rewrites ``data/instances.yaml``.

Run ``python -m modelzone.hardware.refresh`` with AWS credentials that allow ``ec2:DescribeInstanceTypes``.

Which types there are to describe, their topologies and what SageMaker does with them is ``data/families.yaml``, which
is kept by hand. Imports the AWS SDK, so nothing but the refresh imports this module.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import boto3
import botocore
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from modelzone.errors import ModelzoneError
from modelzone.resources import data_path, read_data

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

__all__ = ["hosting_types", "main", "refresh_instances"]

_PACKAGE = "modelzone.hardware"
_HEADER = """\
# Shapes of instance types. Written from EC2's DescribeInstanceTypes; do not edit, what is kept by hand is in the other
# files here. `sagemaker`: whether the type is in SageMaker's API for endpoints.
date: {date}
source: {source}
instances:
"""


def hosting_types() -> frozenset[str]:
    """Return the instance types that SageMaker's API accepts for endpoints, from the SDK's own description of it."""
    shape = Session().get_service_model("sagemaker").shape_for("ProductionVariantInstanceType")
    return frozenset(shape.metadata["enum"])


def refresh_instances(client: EC2Client, *, offered: Collection[str], date: str, source: str) -> str:
    """Write the text of ``data/instances.yaml``.

    Parameters
    ----------
    client
        An EC2 client; its region must offer all types.
    offered
        SageMaker's names of the types it offers, `hosting_types`.
    date, source
        When and where this was read, for the file's head.

    Raises
    ------
    ModelzoneError
        EC2 does not know a type, or one has an accelerator that ``data/accelerators.yaml`` lacks.
    """
    wanted = [name for row in read_data(_PACKAGE, "families.yaml")["families"].values() for name in row["types"]]
    pages = client.get_paginator("describe_instance_types").paginate(InstanceTypes=wanted)
    found: dict[str, Mapping[str, Any]] = {
        row.get("InstanceType", ""): row for p in pages for row in p["InstanceTypes"]
    }
    if missing := [name for name in wanted if name not in found]:
        raise ModelzoneError(f"EC2 did not describe: {', '.join(missing)}")
    lines = [_line(name, found[name], offered=offered) for name in wanted]
    return _HEADER.format(date=date, source=source) + "".join(lines)


def _line(name: str, described: Mapping[str, Any], *, offered: Collection[str]) -> str:
    accelerator, count = _accelerator(name, described)
    return (
        f"  {name}: {{vcpus: {described['VCpuInfo']['DefaultVCpus']}, "
        f"memory_mib: {described['MemoryInfo']['SizeInMiB']}, "
        f"accelerator: {accelerator}, accelerators: {count}, "
        f"local_disk_gb: {described.get('InstanceStorageInfo', {}).get('TotalSizeInGB', 0)}, "
        f"sagemaker: {str(f'ml.{name}' in offered).lower()}}}\n"
    )


def _accelerator(name: str, described: Mapping[str, Any]) -> tuple[str, int]:
    seen: Iterable[Mapping[str, Any]] = (
        described.get("NeuronInfo", {}).get("NeuronDevices") or described.get("GpuInfo", {}).get("Gpus") or ()
    )
    for device in seen:
        size = device["MemoryInfo"]["SizeInMiB"]
        for ours, row in read_data(_PACKAGE, "accelerators.yaml")["accelerators"].items():
            if row["ec2"] == {"name": device["Name"], "memory_mib": size}:
                return ours, device["Count"]
    kinds = ", ".join(f"{d['Name']} with {d['MemoryInfo']['SizeInMiB']} MiB" for d in seen) or "none"
    raise ModelzoneError(f"{name}: its accelerator is not in modelzone/hardware/data/accelerators.yaml: {kinds}")


def main() -> int:
    """Rewrite the file from what us-east-1 says, which has all types."""
    path = data_path(_PACKAGE, "instances.yaml")
    try:
        text = refresh_instances(
            boto3.client("ec2", region_name="us-east-1"),
            offered=hosting_types(),
            date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            source=f"DescribeInstanceTypes of us-east-1; sagemaker from botocore {botocore.__version__}",
        )
    except (BotoCoreError, ClientError, ModelzoneError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
