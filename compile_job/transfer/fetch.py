"""Objects from S3 to files."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import HTTPClientError, IncompleteReadError

from compile_job.errors import StepError

from .common import BLOCK, ChecksumError, Hasher, cores, part_size, sha256_of, transfers_of
from .crew import Crew

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["Fetch", "Fetched", "fetch_files"]

_ATTEMPTS = 6
_FIRST_PAUSE = 0.5


@dataclass(frozen=True)
class Fetch:
    """An object and where it goes. Without a SHA-256 only the size is compared."""

    key: str
    path: Path
    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Fetched:
    """A file as it lies here; `fetched` is False when it was there already."""

    key: str
    path: Path
    size: int
    sha256: str
    fetched: bool


@dataclass
class _File:
    """One fetch under way. `parts` are those that are written; `hashing` is whether a thread hashes it."""

    number: int
    item: Fetch
    step: int
    count: int
    descriptor: int = -1
    parts: set[int] = field(default_factory=set)
    hasher: Hasher = field(default_factory=Hasher)
    hashing: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def partial_path(self) -> Path:
        """Where the bytes are until they are all there."""
        return self.item.path.with_name(self.item.path.name + ".part")

    def written_to(self) -> int:
        """Return the offset up to which nothing is missing, from the part that is being hashed."""
        part = self.hasher.offset // self.step
        while part in self.parts:
            part += 1
        return min(part * self.step, self.item.size)


def fetch_files(
    s3: S3Client,
    bucket: str,
    items: Sequence[Fetch],
    *,
    stop: threading.Event,
    on_bytes: Callable[[int], None] | None = None,
) -> list[Fetched]:
    """Fetch objects; files that are there with the same size and SHA-256 are left alone.

    A file has its name only once it is whole and its SHA-256 is right; until then it is `<name>.part`. Folders are
    made.

    Parameters
    ----------
    s3
        A client, best one with `client_config`. At most as many requests run as its pool has connections.
    stop
        Set it to end early.
    on_bytes
        Called with numbers that add up to the size of all files, those that were there included; never by two threads
        at a time.

    Returns
    -------
    list[Fetched]
        In the order of `items`.

    Raises
    ------
    ChecksumError
        When an object is not what `items` says; it names the object and both sums.
    Stopped
        When `stop` was set.
    StepError
        When a file cannot be written.
    botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError
        When S3 refuses or cannot be reached.
    """
    return _Fetches(s3, bucket, items).run(stop, on_bytes)


class _Fetches:
    def __init__(self, s3: S3Client, bucket: str, items: Sequence[Fetch]) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._items = items
        self._fetched: dict[int, Fetched] = {}
        self._files: list[_File] = []
        self._stop: threading.Event
        self._crew: Crew

    def run(self, stop: threading.Event, on_bytes: Callable[[int], None] | None) -> list[Fetched]:
        workers = transfers_of(self._s3)
        self._stop = stop
        try:
            # Twice: a file that was there is not to wait behind those that are fetched, nor they behind it.
            with Crew(transfers=0, hashers=cores(), stop=stop, on_bytes=on_bytes) as self._crew:
                for number, item in enumerate(self._items):
                    self._crew.hash(partial(self._look, number, item))
                if self._items:
                    self._crew.wait()
            with Crew(transfers=workers, hashers=cores(), stop=stop, on_bytes=on_bytes) as self._crew:
                for file, part in _in_turn(self._files, group=max(4, cores())):
                    self._crew.transfer(partial(self._receive, file, part))
                if self._files:
                    self._crew.wait()
        except BaseException:
            for file in self._files:
                _discard(file)
            raise
        return [self._fetched[number] for number in range(len(self._items))]

    def _look(self, number: int, item: Fetch) -> None:
        with contextlib.suppress(OSError):
            if item.path.is_file() and item.path.stat().st_size == item.size:
                _, sha256 = sha256_of(item.path, self._crew.check)
                if sha256 == item.sha256:
                    self._fetched[number] = Fetched(item.key, item.path, item.size, sha256, fetched=False)
                    self._crew.count(item.size)
                    return
        step = part_size(item.size)
        self._files.append(_File(number, item, step, max(1, -(-item.size // step))))

    def _receive(self, file: _File, part: int) -> None:
        start = part * file.step
        end = min(start + file.step, file.item.size)
        with _writing(file.item.path), file.lock:
            if file.descriptor < 0:
                file.item.path.parent.mkdir(parents=True, exist_ok=True)
                file.descriptor = os.open(file.partial_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._read(file, start, end)
        self._crew.count(end - start)
        if file.count == 1:
            self._finish(file)
            return
        with file.lock:
            file.parts.add(part)
            if file.hashing or file.written_to() == file.hasher.offset:
                return
            file.hashing = True
        self._crew.hash(partial(self._hash, file))

    def _read(self, file: _File, start: int, end: int) -> None:
        """Write a range of an object to its file; go on where it broke off, as botocore retries requests only."""
        item = file.item
        failures = 0
        while True:
            extra: dict[str, Any] = {} if file.count == 1 and not start else {"Range": f"bytes={start}-{end - 1}"}
            answer = self._s3.get_object(Bucket=self._bucket, Key=item.key, **extra)
            self._compare_size(item, answer)
            with contextlib.closing(answer["Body"]) as body:
                while start < end:
                    try:
                        block = body.read(min(BLOCK, end - start))
                    except (HTTPClientError, IncompleteReadError):
                        block = b""
                    # After the waiting, so that nothing is written once all is over.
                    self._crew.check()
                    if not block:
                        break
                    with _writing(item.path):
                        _write(file.descriptor, block, start)
                    if file.count == 1:
                        file.hasher.update(block)
                    start += len(block)
            if start >= end:
                return
            failures += 1
            if failures == _ATTEMPTS:
                message = (
                    f"s3://{self._bucket}/{item.key} broke off {_ATTEMPTS} times, last at byte {start} of {item.size}: "
                    "check the network to S3, and run again"
                )
                raise StepError(message)
            self._stop.wait(_FIRST_PAUSE * 2**failures)

    def _compare_size(self, item: Fetch, answer: Any) -> None:
        ranged = answer.get("ContentRange", "").rpartition("/")[2]
        size = int(ranged or answer["ContentLength"])
        if size != item.size:
            message = (
                f"s3://{self._bucket}/{item.key} has {size} bytes and should have {item.size}: delete it, and let it "
                "be made again"
            )
            raise ChecksumError(message)

    def _hash(self, file: _File) -> None:
        while True:
            with file.lock:
                end = file.written_to()
                if end == file.hasher.offset:
                    file.hashing = False
                    break
            file.hasher.read(file.descriptor, end, self._crew.check)
        if end == file.item.size:
            self._finish(file)

    def _finish(self, file: _File) -> None:
        item = file.item
        sha256 = file.hasher.hexdigest()
        if item.sha256 and sha256 != item.sha256:
            message = (
                f"s3://{self._bucket}/{item.key} has the SHA-256 {sha256} and should have {item.sha256}: delete it, "
                "and let it be made again"
            )
            raise ChecksumError(message)
        with _writing(item.path):
            os.close(file.descriptor)
            file.descriptor = -1
            file.partial_path.replace(item.path)
        self._fetched[file.number] = Fetched(item.key, item.path, item.size, sha256, fetched=True)


def _in_turn(files: list[_File], *, group: int) -> Iterator[tuple[_File, int]]:
    """Return all parts in the order in which they are asked for.

    One thread can hash a file, and only from its beginning: so some files are fetched side by side, always the one
    with the most to come. Not all of them, or the page cache would have to hold what waits to be hashed.
    """
    files = sorted(files, key=lambda file: -file.count)
    for first in range(0, len(files), group):
        some = files[first : first + group]
        parts = [(file.count - part, file, part) for file in some for part in range(file.count)]
        parts.sort(key=lambda entry: -entry[0])
        for _, file, part in parts:
            yield file, part


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror}): make room there, or choose another folder"
        raise StepError(message) from error


def _write(descriptor: int, block: bytes, offset: int) -> None:
    left = memoryview(block)
    while left:
        count = os.pwrite(descriptor, left, offset)
        left = left[count:]
        offset += count


def _discard(file: _File) -> None:
    with file.lock, contextlib.suppress(OSError):
        if file.descriptor >= 0:
            os.close(file.descriptor)
            file.descriptor = -1
            file.partial_path.unlink()
