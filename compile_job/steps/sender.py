"""Sends each finished download to the mirror while the next one is downloaded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path

from compile_job.errors import Stopped
from compile_job.snapshot import File, Hashes, hashes_of
from compile_job.transfer import ChecksumError, Upload, upload_files

from .mirror import Mirror, MirroredFile

__all__ = ["Sender"]

_LOOK_SECONDS = 0.2
_PATIENCE_SECONDS = 15.0


class Sender:
    """A thread with a queue of files.

    Parameters
    ----------
    keep
        Whether a file of weights stays on the disk when it is in the mirror.
    """

    def __init__(self, mirror: Mirror, folder: Path, *, keep: bool, on_bytes: Callable[[int], None]) -> None:
        self.sent: dict[str, MirroredFile] = {}
        self._mirror = mirror
        self._folder = folder
        self._keep = keep
        self._on_bytes = on_bytes
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._files: queue.SimpleQueue[tuple[File, Hashes | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def send(self, file: File, hashes: Hashes | None = None) -> None:
        """Hand in a file that is whole; it is compared with what it must be, unless that was done already."""
        self._files.put((file, hashes))

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def finish(self, check: Callable[[], None]) -> None:
        """Wait until everything is sent; `check` is called meanwhile and may raise."""
        self._files.put(None)
        while self._thread.is_alive():
            self._thread.join(_LOOK_SECONDS)
            check()
        self.check()

    def cancel(self) -> None:
        """End the thread; unfinished uploads are taken back."""
        self._stop.set()
        self._files.put(None)
        self._thread.join(_PATIENCE_SECONDS)

    def _run(self) -> None:
        try:
            while (item := self._files.get()) is not None:
                self._send(*item)
        except Stopped as error:
            if not self._stop.is_set():
                self._error = error
        except BaseException as error:
            self._error = error

    def _send(self, file: File, hashes: Hashes | None) -> None:
        path = self._folder / file.path
        hashes = hashes or hashes_of(path, self._check_stop)
        if not hashes.match(file):
            # What is wrong must not be taken for right by whoever looks at sizes only.
            path.unlink(missing_ok=True)
            raise ChecksumError(_mismatch(file, hashes))
        upload = Upload(path, self._mirror.key(file.path), hashes.sha256)
        (stored,) = upload_files(
            self._mirror.s3, self._mirror.bucket, [upload], stop=self._stop, on_bytes=self._on_bytes
        )
        if not self._keep and file.sha256:
            path.unlink(missing_ok=True)
        self.sent[file.path] = MirroredFile(stored.size, stored.sha256, stored.s3_checksum)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped


def _mismatch(file: File, found: Hashes) -> str:
    if file.sha256:
        sums = f"its sha256 is {found.sha256}, the hub says {file.sha256}"
    else:
        sums = (
            f"it has {found.size} bytes and the Git blob {found.blob_id}, the hub says {file.size} and {file.blob_id}"
        )
    return (
        f"checksum mismatch: {file.path} did not arrive as it is on the hub: {sums}. It was deleted: run again; if it "
        "comes back, look for a proxy that changes downloads"
    )
