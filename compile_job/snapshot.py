"""The files of a model at one revision: what they must be, and whether they are it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .errors import StepError

__all__ = ["File", "Hashes", "check_path", "hashes_of"]

_BLOCK = 1024**2


@dataclass(frozen=True)
class File:
    """A file as the hub or the mirror's manifest tells it.

    Attributes
    ----------
    sha256
        Empty for small files on the hub, of which it tells the Git blob's id only.
    """

    path: str
    size: int
    sha256: str = ""
    blob_id: str = ""


@dataclass(frozen=True)
class Hashes:
    """What a file on the disk is."""

    size: int
    sha256: str
    blob_id: str

    def match(self, file: File) -> bool:
        """Return whether this is that file."""
        if self.size != file.size:
            return False
        if file.sha256:
            return self.sha256 == file.sha256
        return not file.blob_id or self.blob_id == file.blob_id


def hashes_of(path: Path, check: Callable[[], None]) -> Hashes:
    """Read a file; `check` is called between blocks and may raise."""
    sha256, size = hashlib.sha256(), path.stat().st_size
    # Git's own sum, of the content behind a header.
    blob = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    small = size <= _BLOCK * 64
    read = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            check()
            sha256.update(block)
            if small:
                blob.update(block)
            read += len(block)
    return Hashes(read, sha256.hexdigest(), blob.hexdigest() if small else "")


def check_path(path: object) -> str:
    """Return a path inside a snapshot as it is.

    Raises
    ------
    StepError
        When it leads elsewhere.
    """
    text = str(path)
    if not text or text.startswith("/") or ".." in PurePosixPath(text).parts:
        message = f"{text!r} is no path inside a snapshot of a model"
        raise StepError(message)
    return text
