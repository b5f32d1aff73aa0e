"""What every step is given: settings of the function, clients, the execution that it works for, and the time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .aws import Clients
from .errors import CompileError

__all__ = ["MAX_ATTEMPTS", "Context", "Execution", "Settings", "State", "iso", "moment"]

# Hosts that are tried one after another when they are taken away.
MAX_ATTEMPTS = 3

State = dict[str, Any]

_REQUIRED = {
    "environment": "ENVIRONMENT",
    "bucket": "BUCKET",
    "orders_path": "ORDERS_PATH",
    "artifacts_path": "ARTIFACTS_PATH",
    "progress_path": "PROGRESS_PATH",
    "document": "DOCUMENT_NAME",
    "log_group": "LOG_GROUP",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The function's environment variables.

    Attributes
    ----------
    subnets
        In the order in which they are tried.
    topic_arn
        Gets the notices; empty for none.
    own_log_group
        Of the function itself.
    agent_polls, lost_polls
        How often a host's agent is asked for before it counts as never come, or as lost.
    """

    environment: str
    bucket: str
    orders_path: str
    artifacts_path: str
    progress_path: str
    document: str
    log_group: str
    subnets: tuple[str, ...]
    topic_arn: str = ""
    state_machine_arn: str = ""
    own_log_group: str = ""
    agent_polls: int = 60
    lost_polls: int = 30

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read them.

        Raises
        ------
        CompileError
            Naming the variable that is missing.
        """
        for name in (*_REQUIRED.values(), "SUBNET_IDS"):
            if not environ.get(name):
                remedy = "Deploy the compile stack again"
                raise CompileError("look", f"the function has no environment variable {name}", remedy)
        return cls(
            **{name: environ[variable].rstrip("/") for name, variable in _REQUIRED.items()},
            subnets=tuple(part.strip() for part in environ["SUBNET_IDS"].split(",") if part.strip()),
            topic_arn=environ.get("TOPIC_ARN", ""),
            state_machine_arn=environ.get("STATE_MACHINE_ARN", ""),
            own_log_group=environ.get("AWS_LAMBDA_LOG_GROUP_NAME", ""),
            agent_polls=int(environ.get("AGENT_POLLS") or cls.agent_polls),
            lost_polls=int(environ.get("LOST_POLLS") or cls.lost_polls),
        )


@dataclass(frozen=True, kw_only=True)
class Execution:
    """The execution of the state machine. `start` is ISO 8601."""

    id: str
    name: str
    start: str

    @classmethod
    def from_event(cls, given: Mapping[str, Any]) -> Execution:
        """Read what the machine passes on from its context object."""
        return cls(id=str(given.get("id", "")), name=str(given.get("name", "")), start=str(given.get("start", "")))


def _now() -> datetime:
    return datetime.now(UTC)


def _endless() -> float:
    return math.inf


@dataclass(frozen=True, kw_only=True)
class Context:
    """See the module.

    Attributes
    ----------
    seconds_left
        Until the function is stopped.
    """

    settings: Settings
    clients: Clients
    execution: Execution
    now: Callable[[], datetime] = _now
    sleep: Callable[[float], None] = time.sleep
    seconds_left: Callable[[], float] = _endless


def iso(when: datetime) -> str:
    """Return a moment as tags and parameters hold it."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: object) -> datetime | None:
    """Read a moment in ISO 8601; None where the text is none. Without a zone it is UTC."""
    if isinstance(text, datetime):
        found = text
    else:
        try:
            found = datetime.fromisoformat(str(text))
        except ValueError:
            return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
