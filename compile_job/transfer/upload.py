"""Files to S3."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from compile_job.errors import StepError

from .checksums import Crc32, checksum_of, composite_crc32
from .common import BLOCK, ChecksumError, Hasher, block_buffer, cores, part_size, transfers_of
from .crew import Crew
from .listing import Listing

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["Stored", "Upload", "upload_files"]

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_METADATA = "sha256"
# For the parts of large objects. Each byte is hashed once for the metadata. Where the processor has no SHA instructions
# a second SHA-256 adds half of an upload's processor time, a CRC-32 a twentieth, and S3 checks the part just as well.
_ALGORITHM: Any = "CRC32"


@dataclass(frozen=True)
class Upload:
    """A file and where it goes. A SHA-256 that is known already saves reading the file once more."""

    path: Path
    key: str
    sha256: str = ""


@dataclass(frozen=True)
class Stored:
    """An object as it lies in S3.

    `s3_checksum` is S3's own as HeadObject answers it, ``<ALGORITHM>:<value>`` ("" when the store tells none); `sent`
    is False when it was there already.
    """

    path: Path
    key: str
    size: int
    sha256: str
    s3_checksum: str
    sent: bool


@dataclass
class _File:
    """One upload under way. `sums` has the CRC-32 of each part, if the file was read before."""

    number: int
    upload: Upload
    size: int
    modified: int
    sha256: str
    sums: list[str] = field(default_factory=list)
    upload_id: str = ""
    parts: dict[int, tuple[str, str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, number: int, upload: Upload) -> _File:
        """Look at a file."""
        with _reading(upload.path):
            found = upload.path.stat()
        return cls(number, upload, found.st_size, found.st_mtime_ns, upload.sha256)


class _Part:
    """A part of a file as a body that is read when botocore sends it.

    Block by block: a block stays in the core's cache from the disk to the network, and a stop need not wait for the
    part's end.
    """

    def __init__(self, descriptor: int, start: int, size: int, check: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size = size
        self._check = check
        self._offset = 0

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> memoryview | bytes:
        """Return a block, whatever was asked for: http.client asks for 16 KiB, 2000 times a part.

        It is good until this thread reads the next.
        """
        self._check()
        wanted = self._size - self._offset
        if size >= 0:
            wanted = min(wanted, max(size, BLOCK))
        buffer = block_buffer() if wanted <= BLOCK else memoryview(bytearray(wanted))
        count = os.preadv(self._descriptor, [buffer[:wanted]], self._start + self._offset) if wanted else 0
        self._offset += count
        return buffer[:count]

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset; botocore begins a retry with that."""
        base = {0: 0, 1: self._offset, 2: self._size}[whence]
        self._offset = base + offset
        return self._offset

    def tell(self) -> int:
        """Return the offset."""
        return self._offset


def upload_files(
    s3: S3Client,
    bucket: str,
    uploads: Sequence[Upload],
    *,
    stop: threading.Event,
    on_bytes: Callable[[int], None] | None = None,
    already: Callable[[Stored], None] | None = None,
) -> list[Stored]:
    """Upload files; those that are there with the same size and SHA-256 are not sent again.

    S3 checks what it receives: an object that is sent whole against its SHA-256, each part of a larger one against a
    CRC-32. Where the SHA-256 is not known before, both are computed of the same bytes, so that S3 refuses a part of a
    file that changed after it was hashed. Only whole objects are ever visible.

    Parameters
    ----------
    s3
        A client, best one with `client_config`. At most as many requests run as its pool has connections.
    stop
        Set it to end early.
    on_bytes
        Called with numbers that add up to the size of all files, those that were there included; never by two threads
        at a time.
    already
        Called for each file that was there, likewise.

    Returns
    -------
    list[Stored]
        In the order of `uploads`.

    Raises
    ------
    Stopped
        When `stop` was set. Unfinished uploads are taken back, then and after every other failure.
    StepError
        When a file cannot be read or changes meanwhile.
    botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError
        When S3 refuses or cannot be reached.
    """
    return _Uploads(s3, bucket, uploads, already).run(stop, on_bytes)


class _Uploads:
    def __init__(
        self, s3: S3Client, bucket: str, uploads: Sequence[Upload], already: Callable[[Stored], None] | None
    ) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._uploads = uploads
        self._already = already
        self._listing = Listing(s3, bucket, [upload.key for upload in uploads])
        self._stored: dict[int, Stored] = {}
        self._begun: dict[str, str] = {}
        self._lock = threading.Lock()
        self._crew: Crew

    def run(self, stop: threading.Event, on_bytes: Callable[[int], None] | None) -> list[Stored]:
        files = [_File.of(number, upload) for number, upload in enumerate(self._uploads)]
        # The largest first, since one thread can hash a file; meanwhile the small ones are sent.
        files.sort(key=lambda file: -file.size)
        self._crew = Crew(transfers=transfers_of(self._s3), hashers=cores(), stop=stop, on_bytes=on_bytes)
        try:
            with self._crew:
                for file in files:
                    if file.size <= part_size(file.size):
                        self._crew.transfer(partial(self._send_whole, file))
                    elif file.sha256:
                        self._crew.transfer(partial(self._begin, file))
                    else:
                        self._crew.hash(partial(self._prepare, file))
                if files:
                    self._crew.wait()
        except BaseException:
            self._take_back()
            raise
        return [self._stored[number] for number in range(len(files))]

    def _prepare(self, file: _File) -> None:
        """Compute all sums of a large file before it is sent.

        S3 wants the metadata when an upload begins. So the file is hashed while others are sent, and read once more
        when its turn comes, from the page cache.
        """
        step = part_size(file.size)
        hasher = Hasher()
        with _reading(file.upload.path), file.upload.path.open("rb", buffering=0) as source:
            for end in range(step, file.size + step, step):
                crc = Crc32()
                hasher.read(source.fileno(), min(end, file.size), self._crew.check, crc.update)
                file.sums.append(crc.text())
        if hasher.offset != file.size:
            raise _changed(file.upload.path)
        file.sha256 = hasher.hexdigest()
        self._crew.transfer(partial(self._begin, file))

    def _there(self, file: _File) -> bool:
        if not self._listing.may_have(file.upload.key, file.size):
            return False
        head = self._head(file.upload.key)
        if head is None or head["ContentLength"] != file.size or head.get("Metadata", {}).get(_METADATA) != file.sha256:
            return False
        self._finish(file, checksum_of(head), sent=False)
        self._crew.count(file.size)
        return True

    def _begin(self, file: _File) -> None:
        if self._there(file):
            return
        begun = self._s3.create_multipart_upload(
            Bucket=self._bucket,
            Key=file.upload.key,
            ChecksumAlgorithm=_ALGORITHM,
            Metadata={_METADATA: file.sha256},
        )
        file.upload_id = begun["UploadId"]
        with self._lock:
            self._begun[file.upload_id] = file.upload.key
        step = part_size(file.size)
        count = -(-file.size // step)
        for part in range(count):
            self._crew.transfer(partial(self._send_part, file, part, step, count))

    def _send_whole(self, file: _File) -> None:
        content = _read(file)
        file.sha256 = file.sha256 or hashlib.sha256(content).hexdigest()
        if self._there(file):
            return
        answer = self._s3.put_object(
            Bucket=self._bucket,
            Key=file.upload.key,
            Body=content,
            ChecksumSHA256=base64.b64encode(bytes.fromhex(file.sha256)).decode(),
            Metadata={_METADATA: file.sha256},
        )
        self._finish(file, checksum_of(answer), sent=True)
        self._crew.count(file.size)

    def _send_part(self, file: _File, part: int, step: int, count: int) -> None:
        start, size = part * step, min(step, file.size - part * step)
        with _open(file) as descriptor:
            checksum = file.sums[part] if file.sums else self._crc32(descriptor, start, size)
            try:
                answer = self._s3.upload_part(
                    Bucket=self._bucket,
                    Key=file.upload.key,
                    UploadId=file.upload_id,
                    PartNumber=part + 1,
                    Body=_body(descriptor, start, size, self._crew.check),
                    ChecksumCRC32=checksum,
                )
            finally:
                _check_unchanged(file, descriptor)
        self._crew.count(size)
        with file.lock:
            file.parts[part + 1] = (answer["ETag"], checksum)
            complete = len(file.parts) == count
        if complete:
            self._crew.check()
            self._complete(file)

    def _complete(self, file: _File) -> None:
        parts = sorted(file.parts.items())
        answer = self._s3.complete_multipart_upload(
            Bucket=self._bucket,
            Key=file.upload.key,
            UploadId=file.upload_id,
            MultipartUpload={
                "Parts": [
                    {"PartNumber": number, "ETag": etag, "ChecksumCRC32": checksum}
                    for number, (etag, checksum) in parts
                ]
            },
        )
        with self._lock:
            del self._begun[file.upload_id]
        told = checksum_of(answer)
        wanted = f"{_ALGORITHM}:{composite_crc32(checksum for _, (_, checksum) in parts)}"
        if told.startswith(f"{_ALGORITHM}:") and told != wanted:
            message = (
                f"s3://{self._bucket}/{file.upload.key} has the checksum {told} in S3 and should have {wanted}: delete "
                "it, and run again"
            )
            raise ChecksumError(message)
        self._finish(file, told, sent=True)

    def _crc32(self, descriptor: int, start: int, size: int) -> str:
        crc = Crc32()
        body = _Part(descriptor, start, size, self._crew.check)
        while block := body.read(BLOCK):
            crc.update(block)
        return crc.text()

    def _finish(self, file: _File, checksum: str, *, sent: bool) -> None:
        if sent and not checksum:
            checksum = checksum_of(self._head(file.upload.key) or {})
        stored = Stored(file.upload.path, file.upload.key, file.size, file.sha256, checksum, sent)
        with self._lock:
            self._stored[file.number] = stored
            if not sent and self._already is not None:
                self._already(stored)

    def _head(self, key: str) -> Any:
        try:
            return self._s3.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        except ClientError as error:
            if str(error.response.get("Error", {}).get("Code", "")) in _ABSENT:
                return None
            raise

    def _take_back(self) -> None:
        for upload_id, key in list(self._begun.items()):
            with contextlib.suppress(ClientError, BotoCoreError):
                self._s3.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)


def _body(descriptor: int, start: int, size: int, check: Callable[[], None]) -> Any:
    """Return the body of a part; as `Any`, since botocore's types want a file."""
    return _Part(descriptor, start, size, check)


def _read(file: _File) -> bytes:
    with _open(file) as descriptor:
        # One byte more than there should be: a file that grew is one that changed.
        content = os.pread(descriptor, file.size + 1, 0)
        _check_unchanged(file, descriptor)
    if len(content) != file.size:
        raise _changed(file.upload.path)
    return content


@contextlib.contextmanager
def _open(file: _File) -> Iterator[int]:
    with _reading(file.upload.path):
        descriptor = os.open(file.upload.path, os.O_RDONLY)
    try:
        _check_unchanged(file, descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def _check_unchanged(file: _File, descriptor: int) -> None:
    found = os.fstat(descriptor)
    if (found.st_size, found.st_mtime_ns) != (file.size, file.modified):
        raise _changed(file.upload.path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror})"
        raise StepError(message) from error


def _changed(path: Path) -> StepError:
    return StepError(f"{path} changed while it was uploaded: let nothing write there, and run again")
