"""Shortens the CDK CLI's output to what a person watches: stacks, failures, errors. The log keeps every line."""

from __future__ import annotations

import re
import sys
from typing import TextIO

__all__ = ["Progress"]

_EVENT = re.compile(
    r"^(?P<stack>\S+) +\| +(?P<done>\d+)(/(?P<all>\d+))? \| +[^|]+ \| (?P<status>[A-Z_]+) +\| "
    r"(?P<type>\S+) +\| (?P<what>.*)$"
)
# What the CLI says on its way; any other line is taken for a message and shown.
_ROUTINE = re.compile(
    r"^\[\d+%\]|^Stack ARN:$|^arn:|^Including dependency stacks|^✨ +(Synthesis|Deployment) time"
    r"|^\S+ \(\S+\)$|\.\.\. \[\d+/\d+\]$|: (start|success): (Buil|Publish)"
    r"|creating CloudFormation changeset|: (destroying|deploying)\.\.\.|^ *Source Location:|^ *\(no user code in"
    r"|CloudTrail delivery can lag|^Failed resources:$|^\S+ \| [^|]+ \| [A-Z_]+_FAILED "
)


class Progress:
    """Feed it the CLI's lines; on a terminal it counts the running stack's resources in place."""

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = output if output is not None else sys.stdout
        self._terminal = self._output.isatty()
        self._counting = False
        self._in_outputs = False

    def feed(self, line: str) -> None:
        """Take one line, with or without its newline."""
        text = line.strip()
        event = _EVENT.match(text)
        if event is not None:
            self._in_outputs = False
            if "FAILED" in event["status"] or "ROLLBACK" in event["status"]:
                self._show(f"{event['stack']}  {event['status']}  {event['type']}  {event['what']}")
            else:
                self._count(f"{event['stack']}  {event['done']}/{event['all'] or '?'}  {event['type']}")
        elif text == "Outputs:":
            self._in_outputs = True
        elif not text or text == "Stack ARN:":
            self._in_outputs = False
        elif not self._in_outputs and not _ROUTINE.search(text):
            self._show(text)

    def close(self) -> None:
        """End a line that is still being counted in place."""
        if self._counting:
            self._output.write("\r\x1b[K")
            self._output.flush()
        self._counting = False

    def _count(self, text: str) -> None:
        if self._terminal:
            self._output.write(f"\r\x1b[K  {text[:100]}")
            self._output.flush()
            self._counting = True

    def _show(self, text: str) -> None:
        self.close()
        self._output.write(f"  {text}\n")
        self._output.flush()
