"""Facts about instance types, as data with dates and sources (``data/*.yaml``)."""

from modelzone.hardware.instances import (
    Accelerator,
    Family,
    Instance,
    accelerators,
    families,
    family,
    find_instance,
    instance_types,
)

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
