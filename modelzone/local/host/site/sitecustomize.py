"""Python on an emulated host sees the disk and the memory of the instance, not of the machine that emulates it.

On ``PYTHONPATH`` of those hosts only. Stand-alone: it runs before everything else, in every interpreter there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from typing import Any

_GIB = 1024**3
# What the system and a pulled image would take of a real volume.
_USED_GIB = 40
_Usage = namedtuple("_Usage", ["total", "used", "free"])


def _fault() -> Any:
    try:
        with open(os.environ["MODELZONE_FAULTS"], encoding="utf-8") as file:  # noqa: PTH123 - few imports here
            return json.load(file).get("disk_free_gib")
    except (KeyError, OSError, ValueError):
        return None


def _install() -> None:
    disk = int(os.environ["MODELZONE_HOST_DISK_GIB"])
    memory = float(os.environ["MODELZONE_HOST_MEMORY_GIB"])
    sysconf = os.sysconf

    def disk_usage(_path: Any) -> _Usage:
        given = _fault()
        free = int((max(disk - _USED_GIB, 1) if given is None else given) * _GIB)
        return _Usage(disk * _GIB, disk * _GIB - free, free)

    def of_instance(name: Any) -> int:
        if name in {"SC_PHYS_PAGES", os.sysconf_names["SC_PHYS_PAGES"]}:
            return int(memory * _GIB) // sysconf("SC_PAGE_SIZE")
        return sysconf(name)

    shutil.disk_usage = disk_usage  # type: ignore[assignment]
    os.sysconf = of_instance


if "MODELZONE_HOST_DISK_GIB" in os.environ:
    _install()
