"""What shall go wrong in the embedded AWS: a file that tests and the drill write, read at each use.

``faults.json`` in the state folder, every key optional::

    {"no_capacity": [{"subnet_id": "subnet-1" | null, "instance_type": "inf2.24xlarge" | null}],
     "ecr_pull": "denied", "hub": "gated" | "bad-token" | "slow", "disk_free_gib": 3,
     "export": "oom" | "disk-full" | "slow" | "fail", "devices": 0, "corrupt": "weights", "kms": "denied",
     "spot": "notice", "agent": "lost" | "never", "slow_seconds": 0.5}
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["FAULTS_VARIABLE", "Faults"]

FAULTS_VARIABLE = "MODELZONE_FAULTS"
"""Names the file on emulated hosts and in their containers."""

_TEXTS = {
    "ecr_pull": ("denied",),
    "hub": ("gated", "bad-token", "slow"),
    "export": ("oom", "disk-full", "slow", "fail"),
    "corrupt": ("weights",),
    "kms": ("denied",),
    "spot": ("notice",),
    "agent": ("lost", "never"),
}
_ATTEMPTS, _PAUSE_S = 20, 0.01
_NUMBERS = ("disk_free_gib", "devices", "slow_seconds")


def _load(file: Path) -> Any:
    """Parse the file; whoever writes it may be in the middle of that."""
    text = ""
    for _ in range(_ATTEMPTS):
        text = file.read_text(encoding="utf-8")
        try:
            return json.loads(text)
        except ValueError:
            time.sleep(_PAUSE_S)
    raise ValueError(f"{file} is not JSON: {text!r}")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """The faults that hold now; nothing goes wrong without any."""

    no_capacity: tuple[Mapping[str, str | None], ...] = field(default=())
    ecr_pull: str = ""
    hub: str = ""
    disk_free_gib: float | None = None
    export: str = ""
    devices: int | None = None
    corrupt: str = ""
    kms: str = ""
    spot: str = ""
    agent: str = ""
    slow_seconds: float = 0.0

    @classmethod
    def read(cls, file: Path) -> Faults:
        """Read a fault file; none means no faults.

        Raises
        ------
        ValueError
            The file names a fault that does not exist: a test would prove nothing.
        """
        try:
            found = _load(file)
        except FileNotFoundError:
            return cls()
        if not isinstance(found, dict):
            raise TypeError(f"{file}: expected an object, got {found!r}")
        for name, value in found.items():
            if name in _TEXTS:
                if value not in _TEXTS[name]:
                    raise ValueError(f"{file}: {name} is {value!r}, expected one of {', '.join(_TEXTS[name])}")
            elif name not in {*_NUMBERS, "no_capacity"}:
                raise ValueError(f"{file}: there is no fault {name!r}")
        return cls(**{**found, "no_capacity": tuple(found.get("no_capacity") or ())})

    @classmethod
    def of_host(cls) -> Faults:
        """The faults that a stand-in on an emulated host has to play."""
        file = os.environ.get(FAULTS_VARIABLE)
        return cls.read(Path(file)) if file else cls()

    def lacks_capacity(self, *, subnet_id: str, instance_type: str) -> bool:
        """Whether EC2 shall have none of these instances left in this subnet's zone."""
        wanted = {"subnet_id": subnet_id, "instance_type": instance_type}
        return any(all(rule.get(name) in {None, value} for name, value in wanted.items()) for rule in self.no_capacity)

    def pause(self) -> None:
        """Wait as long as every stand-in shall take longer."""
        if self.slow_seconds:
            time.sleep(self.slow_seconds)
