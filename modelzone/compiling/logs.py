"""The log of a compilation: what the job printed on its host, as SSM sent it to CloudWatch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from modelzone.compiling.aws import aws_errors, code_of
from modelzone.compiling.text import clean, duration, size

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

    from modelzone.compiling.executions import Execution

__all__ = ["JobLog", "LogLine", "command_ids", "readable", "step_lines"]

_KNOWN = {"time", "event", "step", "seconds", "percent", "bytes", "total_bytes", "rate", "seconds_left"}


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line. `stream` is stdout or stderr."""

    when: datetime
    stream: str
    text: str


def command_ids(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ids of the SSM commands of an execution, in their order, from the outputs of its states."""
    found: dict[str, None] = {}
    for event in events:
        output = event.get("stateExitedEventDetails", {}).get("output", "")
        if "command_id" not in output:
            continue
        pending: list[Any] = [_loads(output)]
        while pending:
            value = pending.pop()
            if isinstance(value, dict):
                command = value.get("command_id")
                if isinstance(command, str) and command:
                    found[command] = None
                pending += value.values()
            elif isinstance(value, list):
                pending += value
    return list(found)


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


class JobLog:
    """Reads the streams of some commands; asked again, it goes on where it was."""

    def __init__(self, client: CloudWatchLogsClient, group: str) -> None:
        self._client, self._group = client, group
        self._tokens: dict[str, str] = {}

    def new_lines(self, commands: Sequence[str]) -> list[LogLine]:
        """Lines that came since, of all streams together in the order of their times."""
        lines: list[LogLine] = []
        for command in commands:
            for stream in self._streams(command):
                lines += self._new_of(stream)
        return sorted(lines, key=lambda line: line.when)

    def _streams(self, command: str) -> list[str]:
        with aws_errors(f"reading log group {self._group}"):
            try:
                pages: Any = self._client.get_paginator("describe_log_streams").paginate(
                    logGroupName=self._group, logStreamNamePrefix=f"{command}/"
                )
                return [row["logStreamName"] for page in pages for row in page["logStreams"]]
            except ClientError as error:
                if code_of(error) == "ResourceNotFoundException":
                    return []
                raise

    def _new_of(self, stream: str) -> Iterator[LogLine]:
        kind = stream.rpartition("/")[2]
        while True:
            given: Any = {"nextToken": self._tokens[stream]} if stream in self._tokens else {}
            with aws_errors(f"reading log stream {stream}"):
                answer = self._client.get_log_events(
                    logGroupName=self._group, logStreamName=stream, startFromHead=True, **given
                )
            for event in answer["events"]:
                when = datetime.fromtimestamp(event.get("timestamp", 0) / 1000, UTC)
                # The agent sends several lines as one event.
                for text in event.get("message", "").splitlines():
                    yield LogLine(when=when, stream=kind, text=text)
            token = answer["nextForwardToken"]
            if token == self._tokens.get(stream):
                return
            self._tokens[stream] = token


def step_lines(client: CloudWatchLogsClient, group: str, execution: Execution) -> list[LogLine]:
    """What the steps of the state machine said of an execution, in its time and a minute after."""
    end = (execution.stopped or datetime.now(UTC)) + timedelta(minutes=1)
    with aws_errors(f"reading log group {group}"):
        try:
            pages: Any = client.get_paginator("filter_log_events").paginate(
                logGroupName=group,
                startTime=int(execution.started.timestamp() * 1000),
                endTime=int(end.timestamp() * 1000),
                filterPattern=f'"{execution.name}"',
            )
            return [
                LogLine(when=datetime.fromtimestamp(row["timestamp"] / 1000, UTC), stream="steps", text=text)
                for page in pages
                for row in page["events"]
                for text in row.get("message", "").splitlines()
            ]
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return []
            raise


def readable(line: LogLine) -> str:
    """A line for people: the job's events in words, everything else as it is without what terminals obey."""
    event = _loads(line.text) if line.text.startswith("{") else None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return f"{line.when:%H:%M:%S}  {clean(line.text)}"
    when = _clock(event.get("time")) or f"{line.when:%H:%M:%S}"
    return clean(f"{when}  {_words(event)}")


def _clock(text: object) -> str:
    try:
        return f"{datetime.fromisoformat(str(text)).astimezone(UTC):%H:%M:%S}"
    except ValueError:
        return ""


def _words(event: Mapping[str, Any]) -> str:
    kind, step = event["event"], event.get("step")
    parts = [f"{step}: {_KINDS.get(kind, kind)}" if step else str(kind)]
    if isinstance(event.get("seconds"), int | float):
        parts.append(f"after {duration(event['seconds'])}")
    if isinstance(event.get("percent"), int | float):
        parts.append(f"{event['percent']:.0f}%")
    if isinstance(event.get("bytes"), int):
        total = event.get("total_bytes")
        parts.append(f"{size(event['bytes'])} of {size(total)}" if isinstance(total, int) else size(event["bytes"]))
    if isinstance(event.get("rate"), int | float) and event["rate"]:
        parts.append(f"{size(event['rate'])}/s")
    if isinstance(event.get("seconds_left"), int | float):
        parts.append(f"{duration(event['seconds_left'])} left")
    rest = [f"{name}={_short(value)}" for name, value in event.items() if name not in _KNOWN]
    return ", ".join(parts) + (f"  {' '.join(rest)}" if rest else "")


_KINDS = {"start": "started", "end": "done", "failed": "FAILED", "stopped": "stopped", "progress": "going on"}


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
