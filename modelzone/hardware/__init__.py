"""Facts about instance types, as data with a date (``data/instances.yaml``)."""

from modelzone.hardware.instances import Family, Instance, family, find_instance, instance_types

__all__ = ["Family", "Instance", "family", "find_instance", "instance_types"]
