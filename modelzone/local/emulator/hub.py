"""A model hub for containers on emulated hosts: what ``huggingface_hub`` asks of the Hugging Face Hub.

Every repository holds the small Mixtral that the model server ships with, at whatever commit is asked for. Repositories
whose profile says ``gated`` want a token; any that begins with ``hf_`` will do. Each request goes to ``hub.jsonl`` in
the logs, without its token.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

from modelzone.local.emulator.asgi import Receive, Scope, Send, headers_of, json_reply, read_body, reply
from modelzone.local.emulator.environment import package_root
from modelzone.local.host.faults import Faults
from modelzone.local.model_server.export import SHIPPED_MODEL

__all__ = ["HUB_PATH", "Hub", "HubFile", "shipped_files"]

HUB_PATH = "/_modelzone/hub"

_API = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(/(?P<kind>revision|tree|paths-info)/(?P<revision>[^/]+)(/.*)?)?")
_FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_REVISION = re.compile(r"[0-9a-f]{40}")
_RANGE = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d*)")
_LARGE = (".safetensors", ".bin")
_POINTER_BYTES = 134
_CHUNK, _SLOW_CHUNK, _SLOW_PAUSE_S = 1 << 20, 1 << 16, 0.1


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a repository. Large ones carry the SHA-256 of their content, the others git's id."""

    name: str
    data: bytes

    @property
    def large(self) -> bool:
        """Whether the hub keeps it in its large file storage."""
        return self.name.endswith(_LARGE)

    @property
    def sha256(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob_id(self) -> str:
        """The id that git gives the content."""
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data, usedforsecurity=False).hexdigest()

    @property
    def etag(self) -> str:
        """What the hub names the content by."""
        return self.sha256 if self.large else self.blob_id

    def described(self, *, blobs: bool) -> dict[str, Any]:
        """An entry of a repository's ``siblings``."""
        row: dict[str, Any] = {"rfilename": self.name}
        if blobs:
            row |= {"size": len(self.data), "blobId": self.blob_id}
            if self.large:
                row["lfs"] = {"sha256": self.sha256, "size": len(self.data), "pointerSize": _POINTER_BYTES}
        return row

    def in_tree(self) -> dict[str, Any]:
        """An entry of a repository's tree."""
        row: dict[str, Any] = {"type": "file", "oid": self.blob_id, "size": len(self.data), "path": self.name}
        if self.large:
            row["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": _POINTER_BYTES}
        return row


@cache
def shipped_files() -> Mapping[str, HubFile]:
    """The small model's files by name."""
    return {
        path.name: HubFile(name=path.name, data=path.read_bytes())
        for path in sorted(SHIPPED_MODEL.iterdir())
        if path.is_file() and path.suffix != ".py"
    }


@cache
def _gated() -> frozenset[str]:
    """Repositories whose terms have to be accepted, from the project's model profiles."""
    found = set()
    for path in (package_root() / "models").glob("*.yaml"):
        model = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
        if model.get("gated"):
            found.add(model["hub_id"])
    return frozenset(found)


class Hub:
    """The hub's API and its files."""

    def __init__(self, *, faults: Callable[[], Faults], log: Path) -> None:
        self._faults, self._log = faults, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request below `HUB_PATH`."""
        path, headers = unquote(scope["path"]).removeprefix(HUB_PATH), headers_of(scope)
        await read_body(receive)
        started = time.time()
        status, sent = await self._answer(scope, path, headers, send)
        row = {
            "time": started,
            "method": scope["method"],
            "path": path,
            "range": headers.get("range"),
            "status": status,
            "bytes": sent,
            "with_token": "authorization" in headers,
        }
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")

    async def _answer(self, scope: Scope, path: str, headers: Mapping[str, str], send: Send) -> tuple[int, int]:
        faults = self._faults()
        token = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if token and (not token.startswith("hf_") or faults.hub == "bad-token"):
            return await _refuse(send, 401, "", "Invalid credentials in Authorization header")
        if match := _FILE.fullmatch(path):
            return await self._file(scope, match, headers, send, token=token, faults=faults)
        match = _API.fullmatch(path)
        if match is None:
            return await _refuse(send, 404, "RepoNotFound", "Repository not found")
        commit = _commit(match["id"], match["revision"] or "main")
        if commit is None:
            return await _refuse(send, 404, "RevisionNotFound", f"Invalid rev id: {match['revision']}")
        if match["kind"] in {"tree", "paths-info"}:
            await json_reply(send, 200, [file.in_tree() for file in shipped_files().values()])
            return 200, 0
        blobs = parse_qs(scope.get("query_string", b"").decode()).get("blobs", ["false"])[0].lower() in {"true", "1"}
        document = {
            "_id": commit[:24],
            "id": match["id"],
            "modelId": match["id"],
            "author": match["id"].partition("/")[0],
            "sha": commit,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "private": False,
            "gated": "manual" if match["id"] in _gated() else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [file.described(blobs=blobs) for file in shipped_files().values()],
        }
        await json_reply(send, 200, document, [("x-repo-commit", commit)])
        return 200, 0

    async def _file(
        self,
        scope: Scope,
        match: re.Match[str],
        headers: Mapping[str, str],
        send: Send,
        *,
        token: str,
        faults: Faults,
    ) -> tuple[int, int]:
        commit, file = _commit(match["id"], match["revision"]), shipped_files().get(match["file"])
        refusal = _refusal(match["id"], token=token, faults=faults)
        if refusal is None and commit is None:
            refusal = (404, "RevisionNotFound", f"Invalid rev id: {match['revision']}")
        if refusal is None and file is None:
            refusal = (404, "EntryNotFound", "Entry not found")
        if refusal is not None:
            return await _refuse(send, *refusal)
        assert commit is not None  # noqa: S101 - refused above
        assert file is not None  # noqa: S101 - refused above
        data = file.data
        if faults.corrupt == "weights" and file.large:
            data = data[:-1] + bytes([data[-1] ^ 1])
        common = [
            ("etag", f'"{file.etag}"'),
            ("x-repo-commit", commit),
            ("accept-ranges", "bytes"),
            ("content-type", "application/octet-stream"),
        ]
        if file.large:
            common += [("x-linked-etag", f'"{file.etag}"'), ("x-linked-size", str(len(file.data)))]
        status, part = 200, data
        if asked := _RANGE.fullmatch(headers.get("range", "")):
            first, last = int(asked["first"]), int(asked["last"] or len(data) - 1)
            if first >= len(data):
                return await _refuse(send, 416, "", "Range not satisfiable", ("content-range", f"bytes */{len(data)}"))
            part, status = data[first : last + 1], 206
            common.append(("content-range", f"bytes {first}-{first + len(part) - 1}/{len(data)}"))
        if scope["method"] == "HEAD":
            await _head(send, status, [*common, ("content-length", str(len(part)))])
            return status, 0
        await _head(send, status, [*common, ("content-length", str(len(part)))], more=True)
        async for chunk in _chunks(part, slow=faults.hub == "slow" and file.large):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return status, len(part)


def _refusal(model: str, *, token: str, faults: Faults) -> tuple[int, str, str] | None:
    """Status, code and message for who may not have a model's files."""
    restricted = f"Access to model {model} is restricted"
    if model in _gated() and not token:
        why = f"{restricted}. You must have access to it and be authenticated to access it. Please log in."
        return 401, "GatedRepo", why
    if faults.hub == "gated":
        page = f"https://huggingface.co/{model}"
        return 403, "GatedRepo", f"{restricted} and you are not in the authorized list. Visit {page} to ask for access."
    return None


def _commit(model: str, revision: str) -> str | None:
    """The commit that a revision means: itself, or always the same one for ``main``."""
    if _REVISION.fullmatch(revision):
        return revision
    if revision != "main":
        return None
    return hashlib.sha1(model.encode(), usedforsecurity=False).hexdigest()


async def _chunks(data: bytes, *, slow: bool) -> AsyncIterator[bytes]:
    size = _SLOW_CHUNK if slow else _CHUNK
    for start in range(0, len(data), size):
        yield data[start : start + size]
        if slow:
            await asyncio.sleep(_SLOW_PAUSE_S)


async def _head(send: Send, status: int, headers: list[tuple[str, str]], *, more: bool = False) -> None:
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    if not more:
        await send({"type": "http.response.body", "body": b""})


async def _refuse(send: Send, status: int, code: str, message: str, *more: tuple[str, str]) -> tuple[int, int]:
    headers = [("x-error-message", message), *([("x-error-code", code)] if code else []), *more]
    body = json.dumps({"error": message}).encode()
    await reply(send, status, [("content-type", "application/json"), *headers], body)
    return status, 0
