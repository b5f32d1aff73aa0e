"""Get the weights at a pinned revision, from where they are nearest, and keep the mirror in S3 whole.

A file that lies in the work folder and is right stays; else one that lies in the mirror comes from S3; else it is
downloaded from the hub and goes to the mirror as soon as it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from compile_job.errors import StepError
from compile_job.job import Job
from compile_job.progress import Progress
from compile_job.snapshot import File, Hashes, hashes_of
from compile_job.stopping import Stop
from compile_job.transfer import fetch_files

from .complete import check_index, check_names
from .hub import Hub
from .mirror import Listing, Mirror, MirroredFile
from .sender import Sender

__all__ = ["Snapshot", "get_weights"]

_PINNED_DIGITS = 40
_PARALLEL = 4
# Notes of the hub's client in the folder: the export would copy them into the artifact.
_NOTES = (".cache", ".huggingface")


@dataclass(frozen=True)
class Snapshot:
    """What was done; numbers of files, and of bytes that were downloaded from the hub."""

    revision: str
    files: int
    kept: int
    from_mirror: int
    from_hub: int
    sent: int
    downloaded_bytes: int


def get_weights(
    job: Job, folder: Path, *, mirror: Mirror, hub: Callable[[], Hub], progress: Progress, stop: Stop
) -> Snapshot:
    """Make folder and mirror whole; for a job that only mirrors, the mirror alone.

    Parameters
    ----------
    hub
        Makes what asks the hub; not called where the hub is not needed.

    Raises
    ------
    StepError
        With the remedy when it is known.
    """
    return _Weights(job, folder, mirror=mirror, hub=hub, progress=progress, stop=stop).get()


class _Weights:
    def __init__(
        self, job: Job, folder: Path, *, mirror: Mirror, hub: Callable[[], Hub], progress: Progress, stop: Stop
    ) -> None:
        self._job = job
        self._folder = folder
        self._mirror = mirror
        self._hub = hub
        self._progress = progress
        self._stop = stop
        self._here: dict[str, Hashes] = {}
        self._there: dict[str, MirroredFile] = {}

    def get(self) -> Snapshot:
        self._folder.mkdir(parents=True, exist_ok=True)
        manifest = self._mirror.manifest()
        commit, files = self._list(manifest)
        what = f"{self._job.weights.model_id} at {commit}"
        check_names([file.path for file in files], layout=self._job.layout, what=what)
        self._remove_others(files)
        self._here = self._look_here(files)
        kept = len(self._here)
        # Small files have no SHA-256 on the hub: what the mirror has of them is compared when it is here.
        fetched = self._fetch_from_mirror(
            [file for file in files if file.path not in self._here and self._needed_here(file)]
        )
        missing = [file for file in files if file.path not in self._here and not self._only_there(file)]
        if missing and self._job.weights.source == "s3":
            names = ", ".join(file.path for file in missing[:3])
            message = f"the mirror {self._mirror.uri} lacks {names}: mirror the weights again where the hub is reached"
            raise StepError(message)
        unsent = [file for file in files if file.path in self._here and not self._is_there(file)]
        if manifest is not None and (missing or unsent):
            self._mirror.forget()
        self._bring(commit, missing, unsent)
        check_index(self._folder, [file.path for file in files], what=what)
        listing = Listing(commit, {file.path: self._there[file.path] for file in files})
        # Also where objects are the same, but S3's own sums of them have changed.
        if listing != manifest or missing or unsent:
            self._mirror.write_manifest(listing)
        for name in _NOTES:
            shutil.rmtree(self._folder / name, ignore_errors=True)
        return Snapshot(
            revision=commit,
            files=len(files),
            kept=kept,
            from_mirror=fetched,
            from_hub=len(missing),
            sent=len(missing) + len(unsent),
            downloaded_bytes=sum(file.size for file in missing),
        )

    def _list(self, manifest: Listing | None) -> tuple[str, list[File]]:
        """Return the commit and its files: a pinned revision never changes, so the mirror's word for it is enough."""
        pinned = len(self._job.weights.revision) == _PINNED_DIGITS
        from_s3 = self._job.weights.source == "s3"
        if manifest is not None and (pinned or from_s3):
            self._there = self._mirror.heads(manifest.files, self._stop.check)
            if from_s3 or all(self._is_there(file) for file in manifest.files):
                return manifest.commit, manifest.files
        if from_s3:
            message = (
                f"the mirror {self._mirror.uri} has no manifest.json, and weights.source 's3' never asks the hub: "
                "mirror the weights first, with a job that has weights_only on a host that reaches the hub"
            )
            raise StepError(message)
        commit, files = self._hub().list()
        self._there = self._mirror.heads(files, self._stop.check)
        return commit, files

    def _is_there(self, file: File) -> bool:
        """Return whether the mirror has this file; what is here of it decides where the hub tells no SHA-256."""
        found = self._there.get(file.path)
        if found is None or not found.may_be(file):
            return False
        here = self._here.get(file.path)
        return here is None or here.sha256 == found.sha256

    def _only_there(self, file: File) -> bool:
        return self._is_there(file) and not self._needed_here(file)

    def _needed_here(self, file: File) -> bool:
        return not (self._job.mirrors_only and file.sha256)

    def _look_here(self, files: Sequence[File]) -> dict[str, Hashes]:
        def look(file: File) -> Hashes | None:
            path = self._folder / file.path
            if not path.is_file() or path.stat().st_size != file.size:
                return None
            found = hashes_of(path, self._stop.check)
            return found if found.match(file) else None

        with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
            found = list(pool.map(look, files))
        return {file.path: hashes for file, hashes in zip(files, found, strict=True) if hashes is not None}

    def _remove_others(self, files: Sequence[File]) -> None:
        """What an earlier revision left, if the revision is a branch, would get into the artifact."""
        names = {file.path for file in files}
        for path in self._folder.rglob("*"):
            relative = path.relative_to(self._folder)
            if path.is_file() and relative.parts[0] not in _NOTES and relative.as_posix() not in names:
                path.unlink()

    def _fetch_from_mirror(self, files: Sequence[File]) -> int:
        wanted = [file for file in files if self._is_there(file)]
        self._progress.expect(sum(file.size for file in wanted))
        items = [self._mirror.fetch(file, self._there[file.path], self._folder) for file in wanted]
        fetch_files(self._mirror.s3, self._mirror.bucket, items, stop=self._stop.event, on_bytes=self._progress.add)
        right = 0
        for file in wanted:
            path = self._folder / file.path
            if file.sha256:
                hashes = Hashes(file.size, file.sha256, "")
            elif not (hashes := hashes_of(path, self._stop.check)).match(file):
                path.unlink()
                del self._there[file.path]
                continue
            self._here[file.path] = hashes
            right += 1
        return right

    def _bring(self, commit: str, missing: Sequence[File], unsent: Sequence[File]) -> None:
        """Download what is missing, and send that and what the mirror lacks."""
        if not missing and not unsent:
            return
        size = sum(file.size for file in missing)
        self._progress.expect(2 * size + sum(file.size for file in unsent))
        sender = Sender(self._mirror, self._folder, keep=not self._job.mirrors_only, on_bytes=self._progress.add)

        def check() -> None:
            self._stop.check()
            sender.check()

        try:
            for file in unsent:
                sender.send(file, self._here[file.path])
            if missing:
                self._download(commit, missing, sender, check)
            sender.finish(check)
        except BaseException:
            self._progress.watch(None)
            sender.cancel()
            raise
        self._there.update(sender.sent)

    def _download(self, commit: str, missing: Sequence[File], sender: Sender, check: Callable[[], None]) -> None:
        waiting = {file.path: file for file in missing}
        for file in missing:
            # The hub's client would take a file that is there for one that it downloaded.
            (self._folder / file.path).unlink(missing_ok=True)

        def on_file(path: str) -> None:
            file = waiting.pop(path, None)
            if file is not None:
                self._progress.add(file.size)
                sender.send(file)

        self._progress.watch(lambda: _growing(self._folder, list(waiting)))
        self._hub().fetch(commit, missing, self._folder, on_file, check)
        self._progress.watch(None)
        if waiting:
            names = ", ".join(sorted(waiting)[:3])
            message = f"the hub's client ended without {names}: run again, what is there is kept"
            raise StepError(message)


def _growing(folder: Path, names: Sequence[str]) -> int:
    """Return the bytes of files that are being downloaded: under their name, or under the client's until then."""
    whole = sum(path.stat().st_size for path in (folder / name for name in names) if path.is_file())
    return whole + sum(path.stat().st_size for path in (folder / ".cache").rglob("*.incomplete"))
