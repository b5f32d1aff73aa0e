"""What others see of a compilation: metrics, events and notices. None of it may fail a step."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from .context import Context
from .errors import one_line
from .log import emit

__all__ = ["NAMESPACE", "Telemetry"]

NAMESPACE = "Modelzone/Compile"
EVENT_SOURCE = "modelzone.compile"
DETAIL_TYPE = "Compile Step"

_LONGEST_SUBJECT = 100
_LONGEST_MESSAGE = 4000


class Telemetry:
    """Tells about one deployment's compilation."""

    def __init__(self, context: Context, *, deployment: str, key: str = "") -> None:
        self._context = context
        self._deployment = deployment
        self._key = key

    def count(self, name: str) -> None:
        """Count one of something."""
        self._metric(name, 1, "Count")

    def seconds(self, name: str, value: float, *, step: str = "") -> None:
        """Record how long something took."""
        self._metric(name, round(value, 1), "Seconds", step=step)

    def step(self, step: str, status: str, message: str = "") -> None:
        """Tell that a step ``started``, ``succeeded`` or ``failed``."""
        detail = {
            "environment": self._context.settings.environment,
            "deployment": self._deployment,
            "key": self._key,
            "execution": self._context.execution.id,
            "step": step,
            "status": status,
            "message": message[:_LONGEST_MESSAGE],
        }
        entry = {"Source": EVENT_SOURCE, "DetailType": DETAIL_TYPE, "Detail": json.dumps(detail)}
        answer = self._quietly("event", lambda: self._context.clients.events.put_events(Entries=[entry]))
        if answer and answer.get("FailedEntryCount"):
            emit("warning", what="event", why=str(answer.get("Entries")))

    def notice(self, subject: str, text: str) -> None:
        """Send a notice to those who subscribed."""
        topic = self._context.settings.topic_arn
        if topic:
            line = one_line(subject).encode("ascii", "replace").decode()
            self._quietly(
                "notice",
                lambda: self._context.clients.sns.publish(
                    TopicArn=topic, Subject=line[:_LONGEST_SUBJECT], Message=text
                ),
            )

    def _metric(self, name: str, value: float, unit: str, *, step: str = "") -> None:
        dimensions = {"Environment": self._context.settings.environment, "Deployment": self._deployment}
        if step:
            dimensions["Step"] = step
        data = {
            "MetricName": name,
            "Value": value,
            "Unit": unit,
            "Dimensions": [{"Name": key, "Value": text} for key, text in dimensions.items() if text],
        }
        self._quietly(
            "metric",
            lambda: self._context.clients.cloudwatch.put_metric_data(Namespace=NAMESPACE, MetricData=[data]),
        )

    @staticmethod
    def _quietly(what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (BotoCoreError, ClientError) as error:
            emit("warning", what=what, why=one_line(error))
            return None
