"""Files to S3."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from compile_job.errors import StepError

from .common import BLOCK, cores, part_size, sha256_of, transfers_of
from .crew import Crew

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["Stored", "Upload", "upload_files"]

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_METADATA = "sha256"
# For the parts of large objects. Each byte is hashed once for the metadata. Where the processor has no SHA instructions
# a second SHA-256 adds half of an upload's processor time, a CRC-32 a twentieth, and S3 checks the part just as well.
_ALGORITHM: Any = "CRC32"

_local = threading.local()


@dataclass(frozen=True)
class Upload:
    """A file and where it goes. A SHA-256 that is known already saves reading the file once more."""

    path: Path
    key: str
    sha256: str = ""


@dataclass(frozen=True)
class Stored:
    """An object as it lies in S3.

    `s3_checksum` is S3's own ("" when the store tells none); `sent` is False when it was there already.
    """

    path: Path
    key: str
    size: int
    sha256: str
    s3_checksum: str
    sent: bool


@dataclass
class _File:
    """One upload under way."""

    number: int
    upload: Upload
    size: int
    modified: int
    sha256: str
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
    """A part in memory as a body that botocore sends block by block, so that a stop need not wait for its end."""

    def __init__(self, content: memoryview, check: Callable[[], None]) -> None:
        self._content = content
        self._check = check
        self._offset = 0

    def __len__(self) -> int:
        return len(self._content)

    def read(self, size: int = -1) -> memoryview:
        """Return at least a block, whatever was asked for: http.client asks for 16 KiB, 2000 times a part."""
        self._check()
        wanted = len(self._content) if size < 0 else max(size, BLOCK)
        block = self._content[self._offset : self._offset + wanted]
        self._offset += len(block)
        return block

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset; botocore begins a retry with that."""
        base = {0: 0, 1: self._offset, 2: len(self._content)}[whence]
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
    CRC-32 (S3 then tells no SHA-256 of its own). Only whole objects are ever visible.

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
        """Hash a large file before it is sent.

        S3 wants the metadata when an upload begins. So the file is hashed while others are sent, and read once more
        when its turn comes, from the page cache.
        """
        with _reading(file.upload.path):
            size, file.sha256 = sha256_of(file.upload.path, self._crew.check)
        if size != file.size:
            raise _changed(file.upload.path)
        self._crew.transfer(partial(self._begin, file))

    def _there(self, file: _File) -> bool:
        head = self._head(file.upload.key)
        if head is None or head["ContentLength"] != file.size or head.get("Metadata", {}).get(_METADATA) != file.sha256:
            return False
        self._finish(file, head.get("ChecksumSHA256", ""), sent=False)
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
        content = _read(file, 0, file.size)
        file.sha256 = file.sha256 or hashlib.sha256(content).hexdigest()
        if self._there(file):
            return
        answer = self._s3.put_object(
            Bucket=self._bucket,
            Key=file.upload.key,
            Body=self._body(content),
            ChecksumSHA256=base64.b64encode(bytes.fromhex(file.sha256)).decode(),
            Metadata={_METADATA: file.sha256},
        )
        self._finish(file, answer.get("ChecksumSHA256", ""), sent=True)
        self._crew.count(file.size)

    def _send_part(self, file: _File, part: int, step: int, count: int) -> None:
        content = _read(file, part * step, min(step, file.size - part * step))
        checksum = _crc32(content)
        answer = self._s3.upload_part(
            Bucket=self._bucket,
            Key=file.upload.key,
            UploadId=file.upload_id,
            PartNumber=part + 1,
            Body=self._body(content),
            ChecksumCRC32=checksum,
        )
        self._crew.count(len(content))
        with file.lock:
            file.parts[part + 1] = (answer["ETag"], checksum)
            complete = len(file.parts) == count
        if not complete:
            return
        self._crew.check()
        done = self._s3.complete_multipart_upload(
            Bucket=self._bucket,
            Key=file.upload.key,
            UploadId=file.upload_id,
            MultipartUpload={
                "Parts": [
                    {"PartNumber": number, "ETag": etag, "ChecksumCRC32": checksum}
                    for number, (etag, checksum) in sorted(file.parts.items())
                ]
            },
        )
        with self._lock:
            del self._begun[file.upload_id]
        self._finish(file, done.get("ChecksumSHA256", ""), sent=True)

    def _body(self, content: memoryview) -> Any:
        return _Part(content, self._crew.check) if len(content) > BLOCK else bytes(content)

    def _finish(self, file: _File, checksum: str, *, sent: bool) -> None:
        if sent and not checksum:
            checksum = (self._head(file.upload.key) or {}).get("ChecksumSHA256", "")
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


def _crc32(content: memoryview) -> str:
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()


def _read(file: _File, offset: int, size: int) -> memoryview:
    buffer: memoryview | None = getattr(_local, "part", None)
    if buffer is None or len(buffer) < size:
        buffer = _local.part = memoryview(bytearray(size))
    content = buffer[:size]
    with _reading(file.upload.path), file.upload.path.open("rb", buffering=0) as source:
        filled = 0
        while filled < size and (count := os.preadv(source.fileno(), [content[filled:]], offset + filled)):
            filled += count
        found = os.fstat(source.fileno())
    if filled < size or (found.st_size, found.st_mtime_ns) != (file.size, file.modified):
        raise _changed(file.upload.path)
    return content


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror})"
        raise StepError(message) from error


def _changed(path: Path) -> StepError:
    return StepError(f"{path} changed while it was uploaded: let nothing write there, and run again")
