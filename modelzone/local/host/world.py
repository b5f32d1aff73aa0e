"""How an emulated host's processes know about their host: variables that the emulator gives every one of them."""

from __future__ import annotations

import json
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CONTAINER_VARIABLE", "HOST_VARIABLE", "KEPT_IN_CONTAINERS", "HostWorld"]

HOST_VARIABLE = "MODELZONE_HOST"
"""Instance id; marks every process of a host, so that none outlives the instance."""

CONTAINER_VARIABLE = "MODELZONE_CONTAINER"
"""Name; marks every process of a container."""

_FOLDER_VARIABLE = "MODELZONE_HOST_FOLDER"
_TYPE_VARIABLE = "MODELZONE_HOST_TYPE"
_EMULATOR_VARIABLE = "MODELZONE_EMULATOR"
_DISK_VARIABLE = "MODELZONE_HOST_DISK_GIB"
_MEMORY_VARIABLE = "MODELZONE_HOST_MEMORY_GIB"

KEPT_IN_CONTAINERS = (
    HOST_VARIABLE,
    _FOLDER_VARIABLE,
    _TYPE_VARIABLE,
    _EMULATOR_VARIABLE,
    _DISK_VARIABLE,
    _MEMORY_VARIABLE,
    "MODELZONE_FAULTS",
    "MODELZONE_LOCAL_STATE",
)
"""What a process in a container keeps of its host's environment: the marks, and nothing else."""

_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class HostWorld:
    """One emulated host as its processes see it."""

    instance_id: str
    instance_type: str
    folder: Path
    emulator: str
    disk_gib: int
    memory_gib: float

    @classmethod
    def current(cls) -> HostWorld:
        """The host of this process.

        Raises
        ------
        KeyError
            This process runs on no emulated host.
        """
        return cls(
            instance_id=os.environ[HOST_VARIABLE],
            instance_type=os.environ[_TYPE_VARIABLE],
            folder=Path(os.environ[_FOLDER_VARIABLE]),
            emulator=os.environ[_EMULATOR_VARIABLE],
            disk_gib=int(os.environ[_DISK_VARIABLE]),
            memory_gib=float(os.environ[_MEMORY_VARIABLE]),
        )

    def variables(self) -> dict[str, str]:
        """The variables that `current` reads."""
        return {
            HOST_VARIABLE: self.instance_id,
            _TYPE_VARIABLE: self.instance_type,
            _FOLDER_VARIABLE: str(self.folder),
            _EMULATOR_VARIABLE: self.emulator,
            _DISK_VARIABLE: str(self.disk_gib),
            _MEMORY_VARIABLE: f"{self.memory_gib:g}",
        }

    def post(self, path: str, document: Any) -> Any:
        """Send a document to the emulator, under ``/_modelzone/``.

        Raises
        ------
        urllib.error.HTTPError
            The emulator refuses.
        """
        request = urllib.request.Request(  # noqa: S310 - the emulator's own address
            f"{self.emulator}/_modelzone/{path}",
            data=json.dumps(document).encode(),
            headers={"content-type": "application/json"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return json.load(answer)
