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

from botocore.exceptions import ClientError
from urllib3.exceptions import HTTPError

from compile_job.errors import StepError

from .checksums import Crc32
from .common import BLOCK, ChecksumError, Hasher, block_buffer, cores, part_size, sha256_of, transfers_of
from .crew import Crew
from .stream import filler

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["Fetch", "Fetched", "fetch_files"]

_Update = Callable[[memoryview], None]

_ATTEMPTS = 6
_CHANGED = 412
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
    """One fetch under way.

    `parts` are those that are written. `hasher` is of the file as far as it is hashed; `hashing` is whether a thread is
    at it. An `etag` says that S3's checksums of the parts are compared instead.
    """

    number: int
    item: Fetch
    descriptor: int = -1
    etag: str = ""
    step: int = 0
    count: int = 1
    parts: set[int] = field(default_factory=set)
    size: int = 0
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
    hashed: bool = False,
) -> list[Fetched]:
    """Fetch objects; files that are there with the same size and SHA-256 are left alone.

    A file has its name only once it is whole and right; until then it is `<name>.part`. Folders are made.

    What is right: the SHA-256 of every byte that came is the one asked for. An object that came to S3 in parts, each
    with a CRC-32, and has that SHA-256 in its metadata, is not hashed: each of its parts must come with the CRC-32
    that S3 has of it, all from one version of the object, and together have the size asked for. That is as good where
    `upload_files` sent it, which computes both sums of the same bytes, and S3 took each part only with its CRC-32. It
    finds what breaks by accident, on the way or on S3's disks; it does not find an object that somebody who may write
    to the bucket made to look like another. `hashed` does.

    Parameters
    ----------
    s3
        A client, best one with `client_config`. At most as many requests run as its pool has connections.
    stop
        Set it to end early.
    on_bytes
        Called with numbers that add up to the size of all files, those that were there included; never by two threads
        at a time.
    hashed
        Compare the SHA-256 of all objects.

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
    return _Fetches(s3, bucket, items, hashed=hashed).run(stop, on_bytes)


class _Fetches:
    def __init__(self, s3: S3Client, bucket: str, items: Sequence[Fetch], *, hashed: bool) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._items = items
        self._hashed = hashed
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
                for file in sorted(self._files, key=lambda file: -file.item.size):
                    self._crew.transfer(partial(self._begin, file))
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
        self._files.append(_File(number, item))

    def _begin(self, file: _File) -> None:
        item = file.item
        with _writing(item.path), file.lock:
            item.path.parent.mkdir(parents=True, exist_ok=True)
            file.descriptor = os.open(file.partial_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        file.step = part_size(item.size)
        if item.size > file.step:
            if item.sha256 and not self._hashed and self._begin_parts(file):
                return
            file.count = -(-item.size // file.step)
        for part in range(1, file.count):
            self._crew.transfer(partial(self._receive_range, file, part))
        self._receive_range(file, 0)

    def _begin_parts(self, file: _File) -> bool:
        """Fetch an object by the parts in which it came to S3, if there are checksums of them."""
        answer = self._get(file, PartNumber=1, ChecksumMode="ENABLED")
        checksum = answer.get("ChecksumCRC32", "")
        noted = answer.get("Metadata", {}).get("sha256")
        # A sum of sums, with the number of parts after a dash, would be the whole object's.
        if "PartsCount" not in answer or not checksum or "-" in checksum or noted != file.item.sha256:
            answer["Body"].close()
            return False
        file.etag, file.count = answer["ETag"], answer["PartsCount"]
        for part in range(1, file.count):
            self._crew.transfer(partial(self._receive_part, file, part))
        self._take_part(file, 0, answer)
        return True

    def _receive_part(self, file: _File, part: int) -> None:
        self._take_part(file, part, self._get(file, PartNumber=part + 1, ChecksumMode="ENABLED"))

    def _take_part(self, file: _File, part: int, answer: Any) -> None:
        start, end = _range_of(answer)
        crc = Crc32()
        self._copy(file, start, end, answer, crc.update)
        wanted = answer.get("ChecksumCRC32", "")
        if crc.text() != wanted:
            message = (
                f"part {part + 1} of s3://{self._bucket}/{file.item.key} arrived with the CRC-32 {crc.text()}, and S3 "
                f"says {wanted or 'none'}: check the network to S3, and run again"
            )
            raise ChecksumError(message)
        self._crew.count(end - start)
        with file.lock:
            file.parts.add(part)
            file.size += end - start
            complete = len(file.parts) == file.count
        if complete and file.size != file.item.size:
            raise self._wrong_size(file.item, file.size)
        if complete:
            self._finish(file, file.item.sha256)

    def _receive_range(self, file: _File, part: int) -> None:
        start = part * file.step
        end = min(start + file.step, file.item.size)
        answer = self._get(file, **({"Range": f"bytes={start}-{end - 1}"} if file.count > 1 else {}))
        self._copy(file, start, end, answer, file.hasher.update if file.count == 1 else None)
        self._crew.count(end - start)
        if file.count == 1:
            self._compare(file)
            return
        with file.lock:
            file.parts.add(part)
            if file.hashing or file.written_to() == file.hasher.offset:
                return
            file.hashing = True
        self._crew.hash(partial(self._hash, file))

    def _get(self, file: _File, **extra: Any) -> Any:
        if file.etag:
            extra["IfMatch"] = file.etag
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=file.item.key, **extra)
        except ClientError as error:
            if file.etag and error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == _CHANGED:
                message = f"s3://{self._bucket}/{file.item.key} was replaced while it was fetched: run again"
                raise StepError(message) from error
            raise
        ranged = answer.get("ContentRange", "").rpartition("/")[2]
        size = int(ranged or answer["ContentLength"])
        if size != file.item.size:
            answer["Body"].close()
            raise self._wrong_size(file.item, size)
        return answer

    def _copy(self, file: _File, start: int, end: int, answer: Any, update: _Update | None) -> None:
        """Write a range of an object to its file; go on where it broke off, as botocore retries requests only."""
        item = file.item
        failures = 0
        while True:
            # What is below botocore's own body, which would compute every checksum that it sees once more.
            with answer["Body"] as body:
                start = self._copy_body(file, start, end, filler(body), update)
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
            answer = self._get(file, Range=f"bytes={start}-{end - 1}")

    def _copy_body(
        self,
        file: _File,
        start: int,
        end: int,
        fill: Callable[[memoryview], int],
        update: _Update | None,
    ) -> int:
        """Write what one answer brings, and return the offset behind it."""
        buffer = block_buffer()
        while start < end:
            try:
                count = fill(buffer[: min(BLOCK, end - start)])
            except (HTTPError, OSError):
                break
            # After the waiting, so that nothing is written once all is over.
            self._crew.check()
            if not count:
                break
            block = buffer[:count]
            if update is not None:
                update(block)
            with _writing(file.item.path):
                _write(file.descriptor, block, start)
            start += count
        return start

    def _wrong_size(self, item: Fetch, size: int) -> ChecksumError:
        return ChecksumError(
            f"s3://{self._bucket}/{item.key} has {size} bytes and should have {item.size}: delete it, and let it be "
            "made again"
        )

    def _hash(self, file: _File) -> None:
        while True:
            with file.lock:
                end = file.written_to()
                if end == file.hasher.offset:
                    file.hashing = False
                    break
            file.hasher.read(file.descriptor, end, self._crew.check)
        if end == file.item.size:
            self._compare(file)

    def _compare(self, file: _File) -> None:
        item = file.item
        sha256 = file.hasher.hexdigest()
        if item.sha256 and sha256 != item.sha256:
            message = (
                f"s3://{self._bucket}/{item.key} has the SHA-256 {sha256} and should have {item.sha256}: delete it, "
                "and let it be made again"
            )
            raise ChecksumError(message)
        self._finish(file, sha256)

    def _finish(self, file: _File, sha256: str) -> None:
        item = file.item
        with _writing(item.path):
            os.close(file.descriptor)
            file.descriptor = -1
            file.partial_path.replace(item.path)
        self._fetched[file.number] = Fetched(item.key, item.path, item.size, sha256, fetched=True)


def _range_of(answer: Any) -> tuple[int, int]:
    """Return where what was answered begins in the object, and where it ends."""
    first, last = answer["ContentRange"].rpartition(" ")[2].partition("/")[0].split("-")
    return int(first), int(last) + 1


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror}): make room there, or choose another folder"
        raise StepError(message) from error


def _write(descriptor: int, left: memoryview, offset: int) -> None:
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
