"""The output of a command on a host, in CloudWatch Logs while it is written, as the agent sends it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from modelzone.local.emulator.sdk import make_client
from modelzone.local.emulator.settings import EmulatorSettings

__all__ = ["CommandLog"]

_BATCH = 1000
_LONGEST = 250_000

logger = logging.getLogger("modelzone.emulator.command_log")


class CommandLog:
    """Follows files and sends their new lines, each file to a stream of its own."""

    interval_s = 0.5

    def __init__(
        self, *, settings: EmulatorSettings, account: str, region: str, group: str, streams: Mapping[Path, str]
    ) -> None:
        self._group = group
        self._streams = dict(streams)
        self._sent = dict.fromkeys(streams, 0)
        self._made: set[str] = set()
        self._api: Any = make_client("logs", endpoint_url=settings.endpoint_url, account=account, region=region)

    def send(self, *, last: bool = False) -> None:
        """Send the complete lines that are new; with ``last`` also one that has no end yet."""
        for file, stream in self._streams.items():
            try:
                with file.open("rb") as opened:
                    opened.seek(self._sent[file])
                    data = opened.read()
            except FileNotFoundError:
                continue
            if not last:
                data = data[: data.rfind(b"\n") + 1]
            lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
            try:
                if lines:
                    self._put(stream, lines)
            except (BotoCoreError, ClientError) as error:
                logger.warning("output of a command was not written to %s: %s", self._group, error)
            self._sent[file] += len(data)
        if last:
            self._api.close()

    def _put(self, stream: str, lines: list[str]) -> None:
        if stream not in self._made:
            for operation, place in (
                ("create_log_group", {"logGroupName": self._group}),
                ("create_log_stream", {"logGroupName": self._group, "logStreamName": stream}),
            ):
                try:
                    getattr(self._api, operation)(**place)
                except ClientError as error:
                    if "ResourceAlreadyExists" not in str(error):
                        raise
            self._made.add(stream)
        now = int(time.time() * 1000)
        events = [{"timestamp": now, "message": line[:_LONGEST]} for line in lines]
        for start in range(0, len(events), _BATCH):
            self._api.put_log_events(
                logGroupName=self._group, logStreamName=stream, logEvents=events[start : start + _BATCH]
            )
