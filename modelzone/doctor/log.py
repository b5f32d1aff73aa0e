"""Finds known failures in a log, and says which of them is to blame."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from modelzone.doctor.findings import Finding, Sighting, findings_of
from modelzone.doctor.masking import mask
from modelzone.doctor.prefilter import Text, texts_by_keyword
from modelzone.doctor.reading import ReadingError, blocks_of_lines, blocks_of_stream
from modelzone.doctor.signatures import Signature
from modelzone.doctor.windows import AHEAD, BEHIND, Window, end_of_line, window
from modelzone.errors import ModelzoneError

__all__ = ["NEXT_STEPS", "Diagnosis", "Finding", "diagnose", "diagnose_file", "diagnose_stream"]

NEXT_STEPS = (
    "the endpoint's own log: aws logs tail /aws/sagemaker/Endpoints/NAME --since 2h",
    "why SageMaker gave up: aws sagemaker describe-endpoint --endpoint-name NAME --query FailureReason",
    (
        "the first failed event of a stack: aws cloudformation describe-stack-events --stack-name NAME "
        "--query \"StackEvents[?contains(ResourceStatus, 'FAILED')].ResourceStatusReason\""
    ),
    "the compile job's log group, named in the output LogGroupName of the compile stack",
    "what would fail before a deploy: modelzone doctor preflight ENVIRONMENT",
)
_EXCERPT = 300
_EXCERPT_BEFORE = 60


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found, the likely cause first.

    Attributes
    ----------
    unread
        Why the rest of the log could not be read; empty when all of it was.
    next_steps
        Where to look when nothing was found.
    """

    findings: tuple[Finding, ...]
    lines: int
    bytes: int
    unread: str = ""
    next_steps: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def diagnose(lines: Iterable[str | bytes]) -> Diagnosis:
    """Look through lines, with or without their line ends, of any number."""
    return _diagnose(blocks_of_lines(lines))


def diagnose_stream(stream: BinaryIO) -> Diagnosis:
    """Look through a binary file or pipe in constant memory."""
    return _diagnose(blocks_of_stream(stream))


def diagnose_file(path: str | Path) -> Diagnosis:
    """Look through a file, or through standard input for ``-``.

    Raises
    ------
    ModelzoneError
        It cannot be opened, or standard input is closed.
    """
    if str(path) == "-":
        if sys.stdin is None:
            raise ModelzoneError("standard input is closed\n  fix: pipe a log into the command, or name a log file")
        return diagnose_stream(sys.stdin.buffer)
    try:
        with Path(path).open("rb") as stream:
            return diagnose_stream(stream)
    except OSError as error:
        raise ModelzoneError(
            f"{path}: cannot be read: {error.strerror}\n  fix: name a log file, or - for standard input"
        ) from None


def _diagnose(blocks: Iterator[bytes]) -> Diagnosis:
    scan = _Scan()
    unread = ""
    try:
        for block in blocks:
            scan.feed(block)
    except ReadingError as error:
        unread = str(error)
    scan.finish()
    findings = findings_of(scan.sightings.values())
    return Diagnosis(
        findings=findings,
        lines=scan.lines,
        bytes=scan.size,
        unread=unread,
        next_steps=() if findings else NEXT_STEPS,
    )


@dataclass
class _Scan:
    """Looks through blocks that follow one another, keeping what belongs to a message at their edges."""

    sightings: dict[str, Sighting] = field(default_factory=dict)
    size: int = 0
    _buffer: bytes = b""
    # Everything before this offset of the buffer has been looked through, and its line ends are counted.
    _done: int = 0
    _newlines: int = 0
    _ends_in_line: bool = False

    @property
    def lines(self) -> int:
        """Lines so far; an unfinished last one counts."""
        return self._newlines + self._ends_in_line

    def feed(self, block: bytes) -> None:
        self.size += len(block)
        self._buffer += block
        self._advance(len(self._buffer) - AHEAD)

    def finish(self) -> None:
        self._ends_in_line = bool(self._buffer) and not self._buffer.endswith(b"\n")
        self._advance(len(self._buffer))

    def _advance(self, end: int) -> None:
        if end <= self._done:
            return
        self._look_through(end)
        kept_from = max(0, end - 2 * BEHIND)
        self._buffer = self._buffer[kept_from:]
        self._done = end - kept_from

    def _look_through(self, end: int) -> None:
        buffer, counted = self._buffer, self._done
        groups = texts_by_keyword()
        hits = sorted(self._hits(end))
        index = 0
        while index < len(hits):
            at = hits[index][0]
            line_end = end_of_line(buffer, at)
            on_line: dict[int, list[int]] = {}
            while index < len(hits) and hits[index][0] < line_end:
                on_line.setdefault(hits[index][1], []).append(hits[index][0])
                index += 1
            texts = [text for group, places in on_line.items() for text in groups[group].near(buffer, places)]
            if texts:
                self._newlines += buffer.count(b"\n", counted, at)
                counted = at
                self._compare(window(buffer, at), texts)
        self._newlines += buffer.count(b"\n", counted, end)

    def _hits(self, end: int) -> Iterator[tuple[int, int]]:
        for index, group in enumerate(texts_by_keyword()):
            word = group.keyword
            at = self._buffer.find(word, self._done)
            while 0 <= at < end:
                yield at, index
                at = self._buffer.find(word, at + len(word))

    def _compare(self, around: Window, texts: Iterable[Text]) -> None:
        best: dict[str, tuple[Signature, re.Match[str]]] = {}
        for text in texts:
            match = _match_on_line(text, around)
            known = best.get(text.signature.id)
            if match is not None and (known is None or len(match.groupdict()) > len(known[1].groupdict())):
                best[text.signature.id] = (text.signature, match)
        line = around.text[around.start : around.end]
        for signature, match in best.values():
            if not any(text in line for text in signature.unless):
                self._note(signature, match, around)

    def _note(self, signature: Signature, match: re.Match[str], around: Window) -> None:
        line = self._newlines + 1
        seen = self.sightings.get(signature.id)
        if seen is None:
            self.sightings[signature.id] = Sighting(signature, line, line, _excerpt(around, match), match.groupdict())
            return
        # A line that was too long to be looked at in one piece is still one line.
        seen.count += line != seen.last_line
        seen.last_line = line
        if len(match.groupdict()) > len(seen.values):
            seen.values, seen.excerpt = match.groupdict(), _excerpt(around, match)


def _match_on_line(text: Text, around: Window) -> re.Match[str] | None:
    """The first match whose keyword stands on the line: a message over several lines counts once."""
    if not all(word in around.text for word in text.words):
        return None
    for match in text.pattern.expression.finditer(around.text):
        at = match.start() + max(0, match[0].find(text.keyword))
        if at >= around.end:
            return None
        if at >= around.start:
            return match
    return None


def _excerpt(around: Window, match: re.Match[str]) -> str:
    text = mask(around.text)
    start = max(around.start, match.start() - _EXCERPT_BEFORE)
    end = max(match.end(), min(around.end, start + _EXCERPT))
    words = " ".join("".join(c if c.isprintable() else " " for c in text[start:end]).split())
    shown = words if len(words) <= _EXCERPT else words[: _EXCERPT - 1] + "…"
    return ("…" if start > around.start else "") + shown
