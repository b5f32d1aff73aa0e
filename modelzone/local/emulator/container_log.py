"""What a container printed, in CloudWatch Logs, where SageMaker tells its users to look."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from modelzone.local.emulator.sdk import make_client
from modelzone.local.emulator.settings import EmulatorSettings

__all__ = ["ContainerLog"]

_MAX_LINES = 1000

logger = logging.getLogger("modelzone.emulator.container_log")


@dataclass(frozen=True, kw_only=True)
class ContainerLog:
    """The part of a log file that one start of a container writes; ``offset`` is where it begins, in bytes."""

    file: Path
    offset: int
    account: str
    region: str
    group: str
    stream: str

    @classmethod
    def begin(cls, *, file: Path, account: str, region: str, group: str, stream: str) -> ContainerLog:
        """The log of a container that is about to start."""
        offset = file.stat().st_size if file.exists() else 0
        return cls(file=file, offset=offset, account=account, region=region, group=group, stream=stream)

    def publish(self, settings: EmulatorSettings) -> None:
        """Write the last lines to the endpoint's log group. Called when the container has ended, off the event loop."""
        with self.file.open("rb") as log:
            log.seek(self.offset)
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        if not lines:
            return
        api = make_client("logs", endpoint_url=settings.endpoint_url, account=self.account, region=self.region)
        now = int(time.time() * 1000)
        events = [{"timestamp": now, "message": line} for line in lines[-_MAX_LINES:]]
        try:
            self._create(api)
            api.put_log_events(logGroupName=self.group, logStreamName=self.stream, logEvents=events)
        except (BotoCoreError, ClientError) as error:
            logger.warning("the log of %s was not written to its group: %s", self.stream, error)

    def _create(self, api: object) -> None:
        for operation, place in (
            ("create_log_group", {"logGroupName": self.group}),
            ("create_log_stream", {"logGroupName": self.group, "logStreamName": self.stream}),
        ):
            try:
                getattr(api, operation)(**place)
            except ClientError as error:
                if "ResourceAlreadyExists" not in str(error):
                    raise
