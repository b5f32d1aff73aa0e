"""Transfers to a store that checks what S3 checks, and to one behind a socket that speaks S3's protocol."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
import urllib3
from botocore.exceptions import ClientError
from urllib3.exceptions import ProtocolError

from compile_job import transfer
from compile_job.errors import StepError, Stopped
from compile_job.transfer import (
    ChecksumError,
    Fetch,
    Stored,
    Upload,
    client_config,
    common,
    crew,
    fetch,
    fetch_files,
    stream,
    upload,
    upload_files,
)

MIB = 1024**2
BUCKET = "models"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def crc32(content: bytes) -> str:
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()


def refusal(code: str, operation: str, status: int = 400) -> ClientError:
    response = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, operation)  # type: ignore[arg-type]


class Store:
    """Objects in memory, with the checks of S3 and switches for what goes wrong."""

    def __init__(self) -> None:
        self.meta = SimpleNamespace(config=SimpleNamespace(max_pool_connections=4))
        self.objects: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.lock = threading.Lock()
        self.before: Callable[[str, dict[str, Any]], None] = lambda operation, arguments: None
        self.bodies: Callable[[bytes], Any] = io.BytesIO
        self.on_the_way: Callable[[bytes], bytes] = bytes
        self.page = 1000

    def _call(self, operation: str, arguments: dict[str, Any]) -> None:
        assert arguments["Bucket"] == BUCKET
        with self.lock:
            self.calls.append(operation)
        self.before(operation, arguments)

    @staticmethod
    def _content(arguments: dict[str, Any]) -> bytes:
        body = arguments["Body"]
        if isinstance(body, bytes):
            content = body
        else:
            content = b"".join(iter(lambda: bytes(body.read(16_384)), b""))
            # What botocore does before it sends, and before it sends once more.
            assert len(body) == len(content) == body.seek(0, 2) == body.tell()
            body.seek(0)
            assert bytes(body.read()) == content
        crc = arguments.get("ChecksumCRC32")
        whole = arguments.get("ChecksumSHA256")
        assert crc or whole, "S3 could not check this"
        if crc and crc != crc32(content):
            raise refusal("BadDigest", "UploadPart")
        if whole and base64.b64decode(whole) != hashlib.sha256(content).digest():
            raise refusal("BadDigest", "PutObject")
        return content

    def put_object(self, **arguments: Any) -> dict[str, Any]:
        self._call("put_object", arguments)
        content = self._content(arguments)
        self.objects[arguments["Key"]] = {
            "content": content,
            "metadata": arguments["Metadata"],
            "checksums": {"ChecksumSHA256": arguments["ChecksumSHA256"]},
        }
        return {"ETag": "e", **self.objects[arguments["Key"]]["checksums"]}

    def create_multipart_upload(self, **arguments: Any) -> dict[str, Any]:
        self._call("create_multipart_upload", arguments)
        upload_id = f"upload-{len(self.calls)}-{arguments['Key']}"
        self.uploads[upload_id] = {**arguments, "parts": {}}
        return {"UploadId": upload_id}

    def upload_part(self, **arguments: Any) -> dict[str, Any]:
        self._call("upload_part", arguments)
        content = self._content(arguments)
        self.uploads[arguments["UploadId"]]["parts"][arguments["PartNumber"]] = content
        return {"ETag": f"e{arguments['PartNumber']}"}

    def complete_multipart_upload(self, **arguments: Any) -> dict[str, Any]:
        self._call("complete_multipart_upload", arguments)
        begun = self.uploads.pop(arguments["UploadId"])
        told = arguments["MultipartUpload"]["Parts"]
        assert [part["PartNumber"] for part in told] == list(range(1, len(begun["parts"]) + 1))
        for part in told:
            content = begun["parts"][part["PartNumber"]]
            assert part["ChecksumCRC32"] == crc32(content)
        parts = [begun["parts"][part["PartNumber"]] for part in told]
        sums = b"".join(zlib.crc32(part).to_bytes(4, "big") for part in parts)
        self.objects[arguments["Key"]] = {
            "content": b"".join(parts),
            "metadata": begun["Metadata"],
            "checksums": {"ChecksumCRC32": f"{crc32(sums)}-{len(parts)}"},
            "parts": parts,
        }
        return {"ETag": "e", **self.objects[arguments["Key"]]["checksums"]}

    def abort_multipart_upload(self, **arguments: Any) -> None:
        self._call("abort_multipart_upload", arguments)
        del self.uploads[arguments["UploadId"]]

    def head_object(self, **arguments: Any) -> dict[str, Any]:
        self._call("head_object", arguments)
        found = self.objects.get(arguments["Key"])
        if found is None:
            raise refusal("404", "HeadObject")
        assert arguments["ChecksumMode"] == "ENABLED"
        return {"ContentLength": len(found["content"]), "Metadata": found["metadata"], **found["checksums"]}

    def list_objects_v2(self, **arguments: Any) -> dict[str, Any]:
        self._call("list_objects_v2", arguments)
        start = int(arguments.get("ContinuationToken", "0"))
        keys = sorted(key for key in self.objects if key.startswith(arguments["Prefix"]))
        page = [{"Key": key, "Size": len(self.objects[key]["content"])} for key in keys[start : start + self.page]]
        more = {"NextContinuationToken": str(start + self.page)} if start + self.page < len(keys) else {}
        return {**({"Contents": page} if page else {}), "IsTruncated": bool(more), **more}

    def get_object(self, **arguments: Any) -> dict[str, Any]:
        self._call("get_object", arguments)
        found = self.objects[arguments["Key"]]
        content = found["content"]
        etag = found.get("etag", "e")
        if arguments.get("IfMatch", etag) != etag:
            raise refusal("PreconditionFailed", "GetObject", 412)
        told = {"ETag": etag, "Metadata": found.get("metadata", {})}
        if "PartNumber" in arguments and "parts" in found:
            return {**told, **self._part(found, arguments["PartNumber"] - 1)}
        if "Range" not in arguments:
            sums = found.get("checksums", {})
            return {**told, **sums, "Body": self.bodies(content), "ContentLength": len(content)}
        first, last = (int(number) for number in arguments["Range"].removeprefix("bytes=").split("-"))
        assert first <= last < len(content)
        part = content[first : last + 1]
        return {
            **told,
            "Body": self.bodies(part),
            "ContentLength": len(part),
            "ContentRange": f"bytes {first}-{last}/{len(content)}",
        }

    def _part(self, found: dict[str, Any], number: int) -> dict[str, Any]:
        parts = found["parts"]
        first = sum(len(part) for part in parts[:number])
        return {
            "Body": self.bodies(self.on_the_way(parts[number])),
            "ContentLength": len(parts[number]),
            "ContentRange": f"bytes {first}-{first + len(parts[number]) - 1}/{len(found['content'])}",
            "PartsCount": len(parts),
            "ChecksumCRC32": crc32(parts[number]),
        }


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(common, "PART", MIB)
    for module in (common, fetch, upload):
        monkeypatch.setattr(module, "BLOCK", 100_000)
    monkeypatch.setattr(fetch, "_FIRST_PAUSE", 0.0)
    return Store()


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


def make(folder: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    contents = {name: os.urandom(size) for name, size in sizes.items()}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return contents


SIZES = {"empty": 0, "byte": 1, "part": MIB, "more": MIB + 1, "deep/large": 7 * MIB + 12345, "other": 3 * MIB}


def test_there_and_back(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    contents = make(tmp_path / "a", SIZES)
    counted: list[int] = []
    uploads = [Upload(tmp_path / "a" / name, f"x/{name}") for name in SIZES]
    stored = upload_files(store, BUCKET, uploads, stop=stop, on_bytes=counted.append)
    assert sum(counted) == sum(SIZES.values())
    assert [item.key for item in stored] == [f"x/{name}" for name in SIZES]
    for item, (name, content) in zip(stored, contents.items(), strict=True):
        expected = sha256(content)
        assert (item.size, item.sha256, item.sent) == (len(content), expected, True)
        assert store.objects[item.key] == {
            "content": content,
            "metadata": {"sha256": expected},
            "checksums": store.objects[item.key]["checksums"],
            **({"parts": store.objects[item.key]["parts"]} if len(content) > MIB else {}),
        }
        ((algorithm, checksum),) = store.objects[item.key]["checksums"].items()
        assert item.s3_checksum == f"{algorithm.removeprefix('Checksum')}:{checksum}"
        if len(content) <= MIB:
            assert item.s3_checksum == f"SHA256:{base64.b64encode(bytes.fromhex(expected)).decode()}", name
    assert not store.uploads

    counted.clear()
    items = [Fetch(item.key, tmp_path / "b" / item.key, item.size, item.sha256) for item in stored]
    fetched = fetch_files(store, BUCKET, items, stop=stop, on_bytes=counted.append)
    assert sum(counted) == sum(SIZES.values())
    assert all(item.fetched for item in fetched)
    assert [(item.key, item.path, item.size, item.sha256) for item in fetched] == [
        (item.key, item.path, item.size, item.sha256) for item in items
    ]
    assert {path.relative_to(tmp_path / "b").as_posix(): path.read_bytes() for path in files(tmp_path / "b")} == {
        f"x/{name}": content for name, content in contents.items()
    }


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_nothing_to_do(store: Any, stop: threading.Event) -> None:
    assert upload_files(store, BUCKET, [], stop=stop) == []
    assert fetch_files(store, BUCKET, [], stop=stop) == []


def test_what_is_there_is_not_sent_again(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    make(tmp_path, SIZES)
    uploads = [Upload(tmp_path / name, name) for name in SIZES]
    first = upload_files(store, BUCKET, uploads, stop=stop)
    store.objects["other"]["metadata"] = {"sha256": "0" * 64}
    store.objects["byte"]["content"] = b"xy"
    del store.objects["more"]
    counted: list[int] = []
    told: list[Stored] = []
    again = upload_files(store, BUCKET, uploads, stop=stop, on_bytes=counted.append, already=told.append)
    assert {item.key for item in again if item.sent} == {"other", "byte", "more"}
    assert sorted(item.key for item in told) == sorted(item.key for item in again if not item.sent)
    assert sum(counted) == sum(SIZES.values())
    assert [(item.key, item.sha256, item.s3_checksum) for item in again] == [
        (item.key, item.sha256, item.s3_checksum) for item in first
    ]


def test_a_known_sum_is_not_computed(
    store: Any, stop: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = make(tmp_path, {"large": 3 * MIB})["large"]
    monkeypatch.setattr(common.Hasher, "read", None)
    (stored,) = upload_files(store, BUCKET, [Upload(tmp_path / "large", "large", sha256(content))], stop=stop)
    assert store.objects["large"]["metadata"] == {"sha256": stored.sha256} == {"sha256": sha256(content)}


def test_the_checksum_of_a_store_that_tells_it_late(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    make(tmp_path, {"large": 3 * MIB})
    complete = store.complete_multipart_upload

    def with_checksum(**arguments: Any) -> Any:
        answer = complete(**arguments)
        del answer["ChecksumCRC32"]
        return answer

    store.complete_multipart_upload = with_checksum
    (stored,) = upload_files(store, BUCKET, [Upload(tmp_path / "large", "large")], stop=stop)
    assert stored.s3_checksum == f"CRC32:{store.objects['large']['checksums']['ChecksumCRC32']}"


def test_a_checksum_that_is_not_ours(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    make(tmp_path, {"large": 3 * MIB})
    complete = store.complete_multipart_upload
    store.complete_multipart_upload = lambda **arguments: {**complete(**arguments), "ChecksumCRC32": "AAAAAA==-3"}
    with pytest.raises(ChecksumError, match=r"s3://models/large has the checksum CRC32:AAAAAA==-3 in S3 and should"):
        upload_files(store, BUCKET, [Upload(tmp_path / "large", "large")], stop=stop)


@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_changes_unseen_is_refused(
    store: Any, stop: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """With the same size and time: S3 compares what arrives with what was hashed."""
    content = make(tmp_path, {"large": 3 * MIB})["large"]
    at = (tmp_path / "large").stat()

    def change(operation: str, arguments: dict[str, Any]) -> None:
        if operation == "upload_part" and arguments["PartNumber"] == 2:
            with (tmp_path / "large").open("r+b") as file:
                file.seek(MIB + 5)
                file.write(b"changed")
            os.utime(tmp_path / "large", ns=(at.st_atime_ns, at.st_mtime_ns))

    store.before = change
    # Another part's thread may look at the file before its time is set back.
    with pytest.raises((ClientError, StepError), match=r"BadDigest|changed while it was uploaded"):
        upload_files(store, BUCKET, [Upload(tmp_path / "large", "large", sha256(content) if known else "")], stop=stop)
    assert not store.objects


@pytest.mark.parametrize("page", [1000, 2])
def test_one_listing_instead_of_many_looks(store: Any, stop: threading.Event, tmp_path: Path, page: int) -> None:
    make(tmp_path, {str(number): number for number in range(8)})
    uploads = [Upload(tmp_path / str(number), f"x/{number}") for number in range(8)]
    store.page = page
    upload_files(store, BUCKET, uploads, stop=stop)
    assert [store.calls.count(name) for name in ("list_objects_v2", "head_object")] == [1, 0]
    store.calls.clear()
    del store.objects["x/1"]
    assert [item.key for item in upload_files(store, BUCKET, uploads, stop=stop) if item.sent] == ["x/1"]
    assert [store.calls.count(name) for name in ("list_objects_v2", "head_object")] == [-(-7 // page), 7]


@pytest.mark.parametrize("why", ["may not be listed", "holds much more"])
def test_what_cannot_be_listed_is_looked_at(store: Any, stop: threading.Event, tmp_path: Path, why: str) -> None:
    make(tmp_path, {str(number): number for number in range(8)})
    uploads = [Upload(tmp_path / str(number), f"x/{number}") for number in range(8)]
    upload_files(store, BUCKET, uploads, stop=stop)
    if why == "holds much more":
        store.page = 1
    else:
        listed = store.list_objects_v2
        store.list_objects_v2 = lambda **arguments: (_ for _ in ()).throw(refusal("AccessDenied", str(listed)))
    store.calls.clear()
    assert not any(item.sent for item in upload_files(store, BUCKET, uploads, stop=stop))
    assert store.calls.count("head_object") == 8


def test_files_that_cannot_be_read(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"gone cannot be read \(No such file or directory\)"):
        upload_files(store, BUCKET, [Upload(tmp_path / "gone", "gone")], stop=stop)


def test_a_file_that_changes(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    make(tmp_path, {"large": 3 * MIB})

    def change(operation: str, arguments: dict[str, Any]) -> None:
        if operation == "create_multipart_upload":
            (tmp_path / "large").write_bytes(bytes(3 * MIB))

    store.before = change
    with pytest.raises(StepError, match=r"large changed while it was uploaded"):
        upload_files(store, BUCKET, [Upload(tmp_path / "large", "large")], stop=stop)
    assert not store.uploads
    assert not store.objects


@pytest.mark.parametrize("operation", ["upload_part", "complete_multipart_upload"])
def test_a_refusal_takes_uploads_back(store: Any, stop: threading.Event, tmp_path: Path, operation: str) -> None:
    make(tmp_path, {f"large{number}": 3 * MIB for number in range(4)})

    def refuse(called: str, arguments: dict[str, Any]) -> None:
        if called == operation:
            raise refusal("AccessDenied", called)

    store.before = refuse
    with pytest.raises(ClientError, match="AccessDenied"):
        upload_files(store, BUCKET, [Upload(tmp_path / f"large{n}", f"large{n}") for n in range(4)], stop=stop)
    assert not store.uploads
    assert "abort_multipart_upload" in store.calls


def test_the_failure_is_told_when_taking_back_fails_too(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    make(tmp_path, {"large": 3 * MIB})

    def refuse(called: str, arguments: dict[str, Any]) -> None:
        if called in {"upload_part", "abort_multipart_upload"}:
            raise refusal("AccessDenied" if called == "upload_part" else "NoSuchUpload", called)

    store.before = refuse
    with pytest.raises(ClientError, match="AccessDenied"):
        upload_files(store, BUCKET, [Upload(tmp_path / "large", "large")], stop=stop)


def test_a_refused_look_is_no_absence(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    make(tmp_path, {"byte": 1})
    store.before = lambda operation, arguments: (_ for _ in ()).throw(refusal("403", operation))
    with pytest.raises(ClientError, match="403"):
        upload_files(store, BUCKET, [Upload(tmp_path / "byte", "byte")], stop=stop)


class Dripping:
    """A body that never comes to its end."""

    def __init__(self, content: bytes, entered: threading.Event) -> None:
        self.content = content
        self.entered = entered

    def __enter__(self) -> Dripping:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, size: int) -> bytes:
        self.entered.set()
        time.sleep(0.01)
        return self.content[:1]

    def close(self) -> None:
        pass


def stop_soon(entered: threading.Event, stop: threading.Event) -> None:
    def wait() -> None:
        entered.wait(10)
        stop.set()

    threading.Thread(target=wait).start()


def test_an_upload_is_stopped(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    make(tmp_path, {"large": 20 * MIB})
    entered = threading.Event()

    def slow(operation: str, arguments: dict[str, Any]) -> None:
        if operation == "upload_part":
            entered.set()
            while True:
                arguments["Body"].read(16_384)
                arguments["Body"].seek(0)
                time.sleep(0.01)

    store.before = slow
    stop_soon(entered, stop)
    started = time.monotonic()
    with pytest.raises(Stopped):
        upload_files(store, BUCKET, [Upload(tmp_path / "large", "large", "0" * 64)], stop=stop)
    assert time.monotonic() - started < 10
    assert not store.uploads
    assert not store.objects


def test_a_fetch_is_stopped(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    store.objects["large"] = {"content": bytes(5 * MIB)}
    entered = threading.Event()
    store.bodies = lambda content: Dripping(content, entered)
    stop_soon(entered, stop)
    started = time.monotonic()
    with pytest.raises(Stopped):
        fetch_files(store, BUCKET, [Fetch("large", tmp_path / "large", 5 * MIB, "0" * 64)], stop=stop)
    assert time.monotonic() - started < 10
    assert not files(tmp_path)


def test_a_signal_stops_too(store: Any, stop: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, {"large": 5 * MIB})
    entered = threading.Event()

    def hold(operation: str, arguments: dict[str, Any]) -> None:
        if operation == "upload_part":
            entered.set()
            while True:
                arguments["Body"].read(1)
                time.sleep(0.01)

    def interrupted(self: crew.Crew) -> None:
        assert entered.wait(10)
        raise Stopped

    store.before = hold
    monkeypatch.setattr(crew.Crew, "wait", interrupted)
    with pytest.raises(Stopped):
        upload_files(store, BUCKET, [Upload(tmp_path / "large", "large")], stop=stop)
    assert not store.uploads


def test_a_request_that_hangs_is_left_behind(
    store: Any, stop: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, {"large": 5 * MIB})
    monkeypatch.setattr(crew, "_PATIENCE_SECONDS", 0.2)
    entered, release = threading.Event(), threading.Event()

    def hang(operation: str, arguments: dict[str, Any]) -> None:
        if operation == "upload_part":
            entered.set()
            release.wait(20)
            raise refusal("NoSuchUpload", operation)

    store.before = hang
    stop_soon(entered, stop)
    started = time.monotonic()
    with pytest.raises(Stopped):
        upload_files(store, BUCKET, [Upload(tmp_path / "large", "large")], stop=stop)
    assert time.monotonic() - started < 10
    release.set()


@pytest.mark.parametrize("size", [10, 5 * MIB])
def test_wrong_content(store: Any, stop: threading.Event, tmp_path: Path, size: int) -> None:
    store.objects["x"] = {"content": b"a" * size}
    expected, found = sha256(b"b" * size), sha256(b"a" * size)
    with pytest.raises(ChecksumError, match=rf"s3://models/x has the SHA-256 {found} and should have {expected}"):
        fetch_files(store, BUCKET, [Fetch("x", tmp_path / "x", size, expected)], stop=stop)
    assert not files(tmp_path)


@pytest.mark.parametrize(("size", "wanted"), [(10, 9), (5 * MIB, 4 * MIB)])
def test_wrong_size(store: Any, stop: threading.Event, tmp_path: Path, size: int, wanted: int) -> None:
    store.objects["x"] = {"content": b"a" * size}
    with pytest.raises(ChecksumError, match=rf"s3://models/x has {size} bytes and should have {wanted}"):
        fetch_files(store, BUCKET, [Fetch("x", tmp_path / "x", wanted, "0" * 64)], stop=stop)
    assert not files(tmp_path)


def test_without_a_sum_it_is_told(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    store.objects["x"] = {"content": b"abc"}
    (fetched,) = fetch_files(store, BUCKET, [Fetch("x", tmp_path / "x", 3)], stop=stop)
    assert fetched.sha256 == sha256(b"abc")


def test_what_is_here_is_not_fetched_again(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    contents = make(tmp_path, {"same": 3 * MIB, "differs": 10, "shorter": 9})
    (tmp_path / "differs.part").write_bytes(b"the rest of an earlier run, longer than the object")
    for name, content in contents.items():
        store.objects[name] = {"content": content}
    store.objects["differs"] = {"content": b"0123456789"}
    store.objects["shorter"] = {"content": b"0123456789"}
    items = [
        Fetch(name, tmp_path / name, len(item["content"]), sha256(item["content"]))
        for name, item in store.objects.items()
    ]
    counted: list[int] = []
    fetched = fetch_files(store, BUCKET, items, stop=stop, on_bytes=counted.append)
    assert {item.key: item.fetched for item in fetched} == {"same": False, "differs": True, "shorter": True}
    assert sum(counted) == 3 * MIB + 20
    assert store.calls.count("get_object") == 2
    assert {path.name: path.read_bytes() for path in files(tmp_path)} == {
        name: item["content"] for name, item in store.objects.items()
    }


class Breaking(io.BytesIO):
    """A body that ends or fails in its middle."""

    def __init__(self, content: bytes, error: Exception | None) -> None:
        super().__init__(content[: len(content) // 2 + 1])
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        block = super().read(size)
        if not block and self.error:
            raise self.error
        return block


@pytest.mark.parametrize(
    "error",
    [None, ProtocolError("Connection broken: IncompleteRead"), ConnectionResetError()],
)
@pytest.mark.parametrize("size", [1000, 3 * MIB + 5])
def test_a_body_that_breaks_off_is_continued(
    store: Any, stop: threading.Event, tmp_path: Path, error: Exception | None, size: int
) -> None:
    content = os.urandom(size)
    store.objects["x"] = {"content": content}
    broken = iter(range(3))
    store.bodies = lambda part: Breaking(part, error) if next(broken, None) is not None else io.BytesIO(part)
    counted: list[int] = []
    items = [Fetch("x", tmp_path / "x", size, sha256(content))]
    fetch_files(store, BUCKET, items, stop=stop, on_bytes=counted.append)
    assert (tmp_path / "x").read_bytes() == content
    assert sum(counted) == size


def sent(store: Store, folder: Path, size: int, stop: threading.Event) -> tuple[bytes, Fetch]:
    """An object in parts, and what fetches it."""
    content = make(folder, {"source/x": size})["source/x"]
    (stored,) = upload_files(store, BUCKET, [Upload(folder / "source" / "x", "x")], stop=stop)  # type: ignore[arg-type]
    return content, Fetch("x", folder / "x", size, stored.sha256)


def test_parts_are_compared_with_what_s3_has_of_them(
    store: Any, stop: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, item = sent(store, tmp_path, 3 * MIB + 5, stop)
    monkeypatch.setattr(common.Hasher, "update", None)
    monkeypatch.setattr(common.Hasher, "read", None)
    (fetched,) = fetch_files(store, BUCKET, [item], stop=stop)
    assert (fetched.sha256, item.path.read_bytes()) == (sha256(content), content)
    assert store.calls.count("get_object") == 4


@pytest.mark.parametrize("part", [0, 1, 3])
def test_a_part_that_arrives_broken(store: Any, stop: threading.Event, tmp_path: Path, part: int) -> None:
    content, item = sent(store, tmp_path, 3 * MIB + 5, stop)
    wanted = content[part * MIB : (part + 1) * MIB]
    broken = bytes([wanted[0] ^ 1]) + wanted[1:]
    store.on_the_way = lambda found: broken if found == wanted else found
    message = (
        f"part {part + 1} of s3://models/x arrived with the CRC-32 {crc32(broken)}, and S3 says {crc32(wanted)}: check"
    )
    with pytest.raises(ChecksumError, match=re.escape(message)):
        fetch_files(store, BUCKET, [item], stop=stop)
    assert [path.name for path in files(tmp_path)] == ["x"]
    assert not item.path.exists()


@pytest.mark.parametrize("why", ["asked for", "no metadata", "no sums of parts", "a sum of sums"])
def test_when_parts_are_hashed_all_the_same(
    store: Any, stop: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    content, item = sent(store, tmp_path, 3 * MIB + 5, stop)
    if why == "no metadata":
        store.objects["x"]["metadata"] = {}
    elif why != "asked for":
        part_of = store._part
        told = {"ChecksumCRC32": "" if why == "no sums of parts" else "AAAAAA==-4"}
        store._part = lambda found, number: {**part_of(found, number), **told}
    compared: list[str] = []
    finish = common.Hasher.hexdigest
    monkeypatch.setattr(common.Hasher, "hexdigest", lambda self: compared.append(finish(self)) or compared[-1])
    fetch_files(store, BUCKET, [item], stop=stop, hashed=why == "asked for")
    assert compared == [sha256(content)]
    assert item.path.read_bytes() == content


def test_a_stored_object_that_is_another_is_found_by_its_hash(
    store: Any, stop: threading.Event, tmp_path: Path
) -> None:
    """Its checksums are in order, and its metadata claims the SHA-256 that is asked for."""
    content, item = sent(store, tmp_path, 3 * MIB + 5, stop)
    found = store.objects["x"]
    found["parts"] = [bytes(len(part)) for part in found["parts"]]
    found["content"] = bytes(len(content))
    with pytest.raises(ChecksumError, match="has the SHA-256"):
        fetch_files(store, BUCKET, [item], stop=stop, hashed=True)


@pytest.mark.parametrize("what", ["the metadata", "a part is missing"])
def test_parts_of_something_else(store: Any, stop: threading.Event, tmp_path: Path, what: str) -> None:
    content, item = sent(store, tmp_path, 3 * MIB + 5, stop)
    if what == "the metadata":
        item = replace(item, sha256="0" * 64)
        expected = f"s3://models/x has the SHA-256 {sha256(content)} and should have {'0' * 64}"
    else:
        store.objects["x"]["parts"].pop()
        expected = f"s3://models/x has {3 * MIB} bytes and should have {3 * MIB + 5}"
    with pytest.raises(ChecksumError, match=expected):
        fetch_files(store, BUCKET, [item], stop=stop)
    assert not item.path.exists()


def test_an_object_that_is_replaced_meanwhile(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    _, item = sent(store, tmp_path, 3 * MIB, stop)

    def replace_it(operation: str, arguments: dict[str, Any]) -> None:
        if arguments.get("PartNumber") == 2:
            store.objects["x"]["etag"] = "another"

    store.before = replace_it
    with pytest.raises(StepError, match="s3://models/x was replaced while it was fetched: run again"):
        fetch_files(store, BUCKET, [item], stop=stop)
    assert not item.path.exists()


def test_a_part_that_breaks_off_is_continued(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    content, item = sent(store, tmp_path, 3 * MIB + 5, stop)
    broken = iter(range(3))
    store.bodies = lambda part: Breaking(part, None) if next(broken, None) is not None else io.BytesIO(part)
    fetch_files(store, BUCKET, [item], stop=stop)
    assert item.path.read_bytes() == content


@pytest.mark.parametrize(
    ("recorded", "told", "same"),
    [
        ("", "", True),
        ("", "CRC32:AAAAAA==-2", True),
        ("CRC32:AAAAAA==-2", "CRC32:AAAAAA==-2", True),
        ("CRC32:AAAAAA==-2", "CRC32:AAAAAB==-2", False),
        ("CRC32:AAAAAA==", "SHA256:AAAAAA==", False),
        ("SHA256:47DEQ=", "", False),
        ("47DEQ=", "SHA256:47DEQ=", True),
        ("47DEQ=", "CRC32:47DEQ=", False),
    ],
)
def test_which_checksums_agree(recorded: str, told: str, same: bool) -> None:
    assert transfer.same_checksum(recorded, told) is same
    algorithm, _, value = told.partition(":")
    assert transfer.checksum_of({f"Checksum{algorithm}": value} if told else {"ETag": "e"}) == told


def test_a_body_that_always_breaks_off(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    store.objects["x"] = {"content": bytes(MIB)}
    store.bodies = lambda part: io.BytesIO(b"")
    with pytest.raises(StepError, match=r"s3://models/x broke off 6 times, last at byte 0 of 1048576"):
        fetch_files(store, BUCKET, [Fetch("x", tmp_path / "x", MIB, "0" * 64)], stop=stop)
    assert not files(tmp_path)


def test_no_room(store: Any, stop: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.objects["x"] = {"content": bytes(3 * MIB)}
    monkeypatch.setattr(fetch.os, "pwrite", full)
    with pytest.raises(StepError, match=r"/x cannot be written \(No space left on device\): make room"):
        fetch_files(store, BUCKET, [Fetch("x", tmp_path / "x", 3 * MIB, "0" * 64)], stop=stop)


def test_parts_are_at_most_ten_thousand() -> None:
    gib = 1024**3
    for size in (0, 1, 100 * gib, 320_000 * MIB, 320_001 * MIB, 5 * 1024 * gib):
        step = common.part_size(size)
        assert step >= 32 * MIB
        assert step % MIB == 0
        assert -(-size // step) <= 10_000


def test_no_more_requests_than_connections(store: Any, stop: threading.Event, tmp_path: Path) -> None:
    store.meta.config.max_pool_connections = 2
    running: list[int] = []
    most: list[int] = []

    def count(operation: str, arguments: dict[str, Any]) -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()

    store.before = count
    make(tmp_path, {str(number): 1 for number in range(12)})
    upload_files(store, BUCKET, [Upload(tmp_path / str(n), str(n)) for n in range(12)], stop=stop)
    assert max(most) <= 2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    program = Path(__file__).resolve().parents[2] / "benchmarks" / "artifacts_server.py"
    command = [sys.executable, str(program), f"--folder={tmp_path / 'server'}", "--processes=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        process.terminate()


@pytest.mark.parametrize("sent", [0, 10, 300_000, 500_000])
def test_a_body_is_read_past_the_buffers_and_its_connection_kept(sent: int) -> None:
    """Until it breaks off: then what came is told, and the connection is not used again."""
    content = os.urandom(500_000)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(head + content[:sent])

        server = threading.Thread(target=answer)
        server.start()
        with urllib3.HTTPConnectionPool("127.0.0.1", listener.getsockname()[1]) as pool:
            body = pool.request("GET", "/", preload_content=False, retries=False)
            fill = stream.filler(body)
            buffer = memoryview(bytearray(len(content)))
            filled = 0
            while filled < len(content) and (count := fill(buffer[filled : filled + 100_000])):
                filled += count
            assert bytes(buffer[:filled]) == content[:sent]
            assert (body.connection is None) is (sent == len(content))
            body.close()
        server.join()


def test_over_a_socket(server: str, stop: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "PART", MIB)
    s3 = boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=server,
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=client_config(),
    )
    contents = make(tmp_path / "a", SIZES)
    uploads = [Upload(tmp_path / "a" / name, f"x/{name}") for name in SIZES]
    try:
        stored = upload_files(s3, BUCKET, uploads, stop=stop)
        assert all(item.sent for item in stored)
        assert not any(item.sent for item in upload_files(s3, BUCKET, uploads, stop=stop))
        items = [Fetch(item.key, tmp_path / "b" / item.key, item.size, item.sha256) for item in stored]
        fetch_files(s3, BUCKET, items, stop=stop)
        head = s3.head_object(Bucket=BUCKET, Key="x/deep/large", ChecksumMode="ENABLED")
    finally:
        s3.close()
    assert transfer.checksum_of(head) == next(item.s3_checksum for item in stored if item.key == "x/deep/large")
    assert transfer.checksum_of(head).endswith("-8")
    assert head["Metadata"] == {"sha256": sha256(contents["deep/large"])}
    assert {item.path.read_bytes() for item in items} == set(contents.values())
