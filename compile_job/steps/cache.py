"""The compiler's cache of graphs in S3: a new host goes on where the last one was stopped, instead of compiling again.

Best effort: what fails here is warned about, and the export compiles.

libneuronxla keeps each graph in a folder ``MODULE_*``: ``model.done`` says that it was compiled, ``model.log`` that
this failed, and then it refuses to try again ("Got a cached failed neff"), on a larger host as well. Such folders are
neither sent nor fetched, and those that are here go. Read in aws-neuron-sdk's issue 1023: NOT VERIFIED on a device.
"""

from __future__ import annotations

import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from compile_job.errors import StepError
from compile_job.events import emit
from compile_job.snapshot import check_path
from compile_job.transfer import Fetch, Upload, fetch_files, upload_files

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["CompileCache"]

_Item = TypeVar("_Item")

# Held by the compiler while it works; on another host they would only be waited for.
_LOCKS = (".lock", ".part")
_MODULE = "MODULE_"
_DONE, _FAILED = "model.done", "model.log"
_FAILURES = (StepError, ClientError, BotoCoreError, Boto3Error, OSError)


@dataclass(frozen=True)
class CompileCache:
    """Of one artifact's key."""

    s3: S3Client
    bucket: str
    key: str
    folder: Path

    @property
    def prefix(self) -> str:
        """Where it is in the bucket."""
        return f"cache/{self.key}/"

    def restore(self, stop: threading.Event) -> None:
        """Fetch what the bucket has; what is here already is not fetched again.

        Graphs that are here and were not compiled to their end are deleted, before and after.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        removed = self._remove_unfinished()
        try:
            items = self._listed()
            done = [
                item
                for group in _done_last(items, lambda item: item.path.name)
                for item in fetch_files(self.s3, self.bucket, group, stop=stop)
            ]
        except _FAILURES as error:
            emit("warning", message=f"the compiler's cache could not be fetched from {self.prefix}: {error}")
            self._remove_unfinished()
            return
        emit("cache", restored=sum(item.fetched for item in done), objects=len(done), removed=removed)

    def save(self, stop: threading.Event) -> None:
        """Upload what the bucket lacks."""
        try:
            files = self._files()
            names = _finished(name for name in files if files[name].suffix not in _LOCKS)
            uploads = [Upload(files[name], self.prefix + name) for name in names]
            done = [
                item
                for group in _done_last(uploads, lambda upload: upload.path.name)
                for item in upload_files(self.s3, self.bucket, group, stop=stop)
            ]
        except _FAILURES as error:
            emit("warning", message=f"the compiler's cache could not be saved to {self.prefix}: {error}")
            return
        emit("cache", saved=sum(item.sent for item in done), objects=len(done))

    def _listed(self) -> list[Fetch]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        names = [
            check_path(item["Key"].removeprefix(self.prefix)) for page in pages for item in page.get("Contents", [])
        ]
        found = []
        for name in _finished(names):
            head = self.s3.head_object(Bucket=self.bucket, Key=self.prefix + name)
            sha256 = head.get("Metadata", {}).get("sha256", "")
            found.append(Fetch(self.prefix + name, self.folder / name, head["ContentLength"], sha256))
        return found

    def _files(self) -> dict[str, Path]:
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in found}

    def _remove_unfinished(self) -> int:
        """Delete folders of graphs that were not compiled to their end, and return how many."""
        try:
            unfinished = _unfinished(self._files())
            for name in unfinished:
                shutil.rmtree(self.folder / name)
        except OSError as error:
            emit("warning", message=f"what failed before could not be deleted from the compiler's cache: {error}")
            return 0
        return len(unfinished)


def _finished(names: Iterable[str]) -> list[str]:
    """Return the files that are of no graph, or of one that was compiled to its end."""
    names = list(names)
    unfinished = _unfinished(names)
    return [name for name in names if _module(name) not in unfinished]


def _unfinished(names: Iterable[str]) -> set[str]:
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        if module := _module(name):
            found[module].add(PurePosixPath(name).name)
    return {module for module, files in found.items() if _FAILED in files or _DONE not in files}


def _module(name: str) -> str:
    """Return the folder of the graph that a file belongs to; empty if it belongs to none."""
    folders = PurePosixPath(name).parent.parts
    for number, part in enumerate(folders, 1):
        if part.startswith(_MODULE):
            return "/".join(folders[:number])
    return ""


def _done_last(items: Iterable[_Item], name_of: Callable[[_Item], str]) -> list[list[_Item]]:
    """Return two groups, to be moved one after the other: what is stopped half way must not look finished."""
    groups: tuple[list[_Item], list[_Item]] = ([], [])
    for item in items:
        groups[name_of(item) == _DONE].append(item)
    return [group for group in groups if group]
