"""The smallest S3 that a transfer can be measured against; `artifacts.py` starts it.

It verifies nothing, neither signatures nor checksums: its processor time is what remains for a socket, TLS and a file
in memory. Processes share one listening socket; a connection has a thread; objects lie as files in a folder, those of
a multipart upload as the parts that came, beside the checksums that came with them. It knows what boto3, awscli and
s5cmd say when they copy files, and no more.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import sys
import threading
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

_BUFFER = 1024**2
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_MAX_HEAD = 65_536
_KEPT = ("x-amz-checksum-", "x-amz-meta-", "content-type")


class _GoneError(Exception):
    """The other side closed the connection."""


@dataclass
class _Request:
    method: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]


class _Connection:
    """One connection: reads requests, writes answers."""

    def __init__(self, connection: socket.socket, root: Path, *, tls: bool) -> None:
        self._socket = connection
        self._root = root
        self._tls = tls
        self._buffer = memoryview(bytearray(_BUFFER))
        self._ahead = b""

    def serve(self) -> None:
        """Answer until the other side goes."""
        with contextlib.suppress(_GoneError, OSError), self._socket:
            while True:
                self._answer(self._read_request())

    def _read_request(self) -> _Request:
        while b"\r\n\r\n" not in self._ahead:
            self._ahead += self._receive()
            if len(self._ahead) > _MAX_HEAD:
                raise _GoneError
        head, _, self._ahead = self._ahead.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        parts = urlsplit(target)
        path = unquote(parts.path).lstrip("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if headers.get("expect", "").lower() == "100-continue":
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return _Request(method, path.partition("/")[2], query, headers)

    def _receive(self) -> bytes:
        block = self._socket.recv(65_536)
        if not block:
            raise _GoneError
        return block

    def _blocks(self, size: int) -> Iterator[memoryview]:
        """Return the next bytes of the connection, in the buffer."""
        if self._ahead and size:
            block, self._ahead = self._ahead[:size], self._ahead[size:]
            size -= len(block)
            yield memoryview(block)
        while size:
            count = self._socket.recv_into(self._buffer, min(size, _BUFFER))
            if not count:
                raise _GoneError
            size -= count
            yield self._buffer[:count]

    def _line(self) -> bytes:
        while b"\r\n" not in self._ahead:
            self._ahead += self._receive()
        line, _, self._ahead = self._ahead.partition(b"\r\n")
        return line

    def _body(self, request: _Request) -> Iterator[memoryview]:
        """Return the body. Botocore sends frames within frames: `aws-chunked` inside of HTTP's own chunks."""
        if request.headers.get("transfer-encoding", "") == "chunked":
            raw = self._chunks()
        else:
            raw = self._blocks(int(request.headers.get("content-length", "0")))
        return _without_frames(raw) if "x-amz-decoded-content-length" in request.headers else raw

    def _chunks(self) -> Iterator[memoryview]:
        while size := int(self._line(), 16):
            yield from self._blocks(size)
            self._line()
        while self._line():
            pass

    def _answer(self, request: _Request) -> None:
        query = request.query
        if request.method == "PUT":
            self._put(request)
        elif request.method == "POST" and "uploads" in query:
            self._create(request)
        elif request.method == "POST" and "uploadId" in query:
            self._complete(request)
        elif request.method == "DELETE":
            self._send(204)
        elif request.method in {"GET", "HEAD"} and request.key:
            self._get(request)
        elif "location" in query:
            self._send(200, f'<LocationConstraint xmlns="{_NAMESPACE}"/>'.encode())
        else:
            self._list(request)

    def _put(self, request: _Request) -> None:
        upload = request.query.get("uploadId")
        part = f"{int(request.query['partNumber']):05}" if upload else "00001"
        folder = self._root / "parts" / (upload or uuid.uuid4().hex)
        if not upload:
            folder.mkdir()
        size = 0
        with (folder / part).open("wb", buffering=0) as file:
            for block in self._body(request):
                file.write(block)
                size += len(block)
        kept = {name: value for name, value in request.headers.items() if name.startswith(_KEPT)}
        if upload:
            (folder / f"{part}.json").write_text(json.dumps(kept), encoding="utf-8")
        else:
            self._store(request.key, folder.name, kept, [(part, size)])
        checksums = {name: value for name, value in kept.items() if name.startswith("x-amz-checksum-")}
        self._send(200, headers={"ETag": f'"{part}"', **checksums})

    def _store(self, key: str, folder: str, headers: dict[str, str], parts: list[tuple[str, int]]) -> None:
        entry = {"folder": folder, "headers": headers, "parts": parts, "size": sum(size for _, size in parts)}
        path = self._root / "objects" / quote(key, safe="")
        draft = self._root / "parts" / folder / "object"
        draft.write_text(json.dumps(entry), encoding="utf-8")
        draft.replace(path)

    def _create(self, request: _Request) -> None:
        upload = uuid.uuid4().hex
        folder = self._root / "parts" / upload
        folder.mkdir()
        kept = {name: value for name, value in request.headers.items() if name.startswith(_KEPT)}
        kept.pop("x-amz-checksum-algorithm", None)
        (folder / "headers").write_text(json.dumps(kept), encoding="utf-8")
        list(self._body(request))
        text = f"<Bucket>b</Bucket><Key>{escape(request.key)}</Key><UploadId>{upload}</UploadId>"
        self._send_xml("InitiateMultipartUploadResult", text)

    def _complete(self, request: _Request) -> None:
        asked = b"".join(bytes(block) for block in self._body(request)).decode()
        folder = self._root / "parts" / request.query["uploadId"]
        headers = json.loads((folder / "headers").read_text(encoding="utf-8"))
        names = [f"{int(number):05}" for number in re.findall(r"<PartNumber>(\d+)<", asked)]
        checksum = _composite([_kept(folder / name) for name in names])
        headers |= checksum
        parts = [(name, (folder / name).stat().st_size) for name in names]
        self._store(request.key, folder.name, headers, parts)
        text = f'<Bucket>b</Bucket><Key>{escape(request.key)}</Key><ETag>"0-{len(parts)}"</ETag>'
        for header, value in checksum.items():
            tag = f"Checksum{header.rpartition('-')[2].upper()}"
            text += f"<{tag}>{value}</{tag}>"
        self._send_xml("CompleteMultipartUploadResult", text)

    def _get(self, request: _Request) -> None:
        path = self._root / "objects" / quote(request.key, safe="")
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._send(404, b"" if request.method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>")
            return
        size: int = entry["size"]
        first, last, status = 0, size - 1, 200
        headers = {"ETag": f'"{entry["folder"]}"', "Last-Modified": formatdate(usegmt=True), **entry["headers"]}
        if (asked := request.headers.get("range")) and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", asked)):
            first = int(found[1])
            last = min(int(found[2] or last), last)
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            headers = {name: value for name, value in headers.items() if not name.startswith("x-amz-checksum-")}
        elif asked := request.query.get("partNumber"):
            number = int(asked)
            first = sum(length for _, length in entry["parts"][: number - 1])
            name, length = entry["parts"][number - 1]
            last = first + length - 1
            status = 206
            headers = {header: value for header, value in headers.items() if not header.startswith("x-amz-checksum-")}
            headers |= _kept(self._root / "parts" / entry["folder"] / name)
            headers |= {
                "Content-Range": f"bytes {first}-{last}/{size}",
                "x-amz-mp-parts-count": str(len(entry["parts"])),
            }
        self._send(status, headers=headers, length=last - first + 1)
        if request.method == "HEAD":
            return
        start = 0
        for name, length in entry["parts"]:
            low, high = max(first, start), min(last + 1, start + length)
            if low < high:
                self._send_file(self._root / "parts" / entry["folder"] / name, low - start, high - low)
            start += length

    def _send_file(self, path: Path, offset: int, size: int) -> None:
        with path.open("rb", buffering=0) as file:
            if not self._tls:
                self._socket.sendfile(file, offset, size)
                return
            while size:
                count = os.preadv(file.fileno(), [self._buffer[: min(size, _BUFFER)]], offset)
                self._socket.sendall(self._buffer[:count])
                offset += count
                size -= count

    def _list(self, request: _Request) -> None:
        prefix = request.query.get("prefix", "")
        entries = []
        for path in sorted((self._root / "objects").iterdir()):
            key = unquote(path.name)
            if key.startswith(prefix):
                size = json.loads(path.read_text(encoding="utf-8"))["size"]
                entries.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                    f'<ETag>"0"</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>'
                )
        text = f"<Name>b</Name><KeyCount>{len(entries)}</KeyCount><IsTruncated>false</IsTruncated>{''.join(entries)}"
        self._send_xml("ListBucketResult", text)

    def _send_xml(self, name: str, text: str) -> None:
        self._send(200, f'<?xml version="1.0"?><{name} xmlns="{_NAMESPACE}">{text}</{name}>'.encode())

    def _send(
        self, status: int, body: bytes = b"", *, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)


def _kept(part: Path) -> dict[str, str]:
    """Return the headers that came with a part; none when the object came whole."""
    try:
        kept: dict[str, str] = json.loads(part.with_name(f"{part.name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return kept


def _composite(parts: list[dict[str, str]]) -> dict[str, str]:
    """Return the header with the checksum of the parts' checksums."""
    for header in ("x-amz-checksum-sha256", "x-amz-checksum-crc32"):
        sums = [base64.b64decode(part[header]) for part in parts if header in part]
        if sums and len(sums) == len(parts):
            raw = b"".join(sums)
            whole = hashlib.sha256(raw).digest() if header.endswith("sha256") else zlib.crc32(raw).to_bytes(4, "big")
            return {header: f"{base64.b64encode(whole).decode()}-{len(sums)}"}
    return {}


def _without_frames(raw: Iterator[memoryview]) -> Iterator[memoryview]:
    """Return what `aws-chunked` holds, and read its trailer to the end."""
    frame = bytearray()
    left = 0
    ended = False
    for received in raw:
        block = received
        while block and not ended:
            if left:
                content = block[:left]
                left -= len(content)
                block = block[len(content) :]
                yield content
                continue
            # The end of the frame before, if there was one, and the size of the next.
            end = bytes(block[:128]).find(b"\n") + 1
            frame += block[: end or len(block)]
            block = block[end or len(block) :]
            if end and frame.strip():
                left = int(frame.partition(b";")[0], 16)
                ended = not left
            if end:
                frame.clear()


def _work(listener: socket.socket, root: Path, context: ssl.SSLContext | None) -> None:
    def talk(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            wrapped = context.wrap_socket(connection, server_side=True) if context else connection
            _Connection(wrapped, root, tls=context is not None).serve()

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=talk, args=(connection,), daemon=True).start()


def main() -> None:
    """Serve until SIGTERM; print the port first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    for name in ("objects", "parts"):
        (options.folder / name).mkdir(parents=True)
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    children = []
    for _ in range(options.processes):
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _work(listener, options.folder, context)
        children.append(child)

    def end(*_: object) -> None:
        for child in children:
            os.kill(child, signal.SIGTERM)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    print(json.dumps({"port": listener.getsockname()[1], "processes": children}), flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
