"""Whether a file in the safetensors format is whole, without reading its tensors.

Eight bytes tell the header's length, the header where each tensor lies; the last one ends where the file does.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from compile_job.errors import StepError

__all__ = ["check_whole"]

_PREFIX = 8
_LONGEST_HEADER = 100 * 1024**2


def check_whole(path: Path) -> None:
    """Compare the header of a file with its size.

    Raises
    ------
    StepError
        With both numbers.
    """
    size = path.stat().st_size
    try:
        header, length = _header(path, size)
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        message = f"{path} is no whole file of safetensors ({size} bytes, its header cannot be read): export again"
        raise StepError(message) from error
    expected = _PREFIX + length + max(ends, default=0)
    if expected != size:
        message = f"{path} has {size} bytes and should have {expected} by its header: it was cut off; export again"
        raise StepError(message)


def _header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(_PREFIX))
        # A wrong length must not make us read gigabytes.
        found = json.loads(file.read(min(length, _LONGEST_HEADER, size)))
    return found, length
