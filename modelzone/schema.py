"""What all settings share: frozen structures that are checked when they are read.

msgspec checks them as strictly as this project needs and is imported in a quarter of pydantic's time, which every
``cdk synth`` would pay.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["Identifier", "Settings"]

# Becomes part of CloudFormation stack names, SSM parameter names and construct ids.
Identifier = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=32)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen structure that refuses unknown keys and does not turn one type into another.

    Constraints hold when the value is read from data (``msgspec.convert``), not when a class is called; what depends
    on several fields is checked in ``__post_init__``, which raises `ValueError`.
    """
