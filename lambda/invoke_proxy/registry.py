"""The deployments of the environment, as their stacks wrote them to SSM Parameter Store."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .errors import ApiError, bad_request, model_not_found

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

__all__ = ["Deployment", "Entry", "Registry", "read_entries"]

logger = logging.getLogger(__name__)

TTL_SECONDS = 30.0
RETRY_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One parameter: its name, its JSON text, and when it was written (seconds since 1970)."""

    name: str
    value: str
    written: int


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A deployment that can be called. `registered` is in seconds since 1970."""

    deployment: str
    model_id: str
    endpoint_name: str
    engine: str
    engine_version: str
    dialect: str
    chat_template: str
    max_input_tokens: int
    max_total_tokens: int
    registered: int

    @classmethod
    def from_entry(cls, entry: Entry) -> Deployment:
        """Read one registry entry. Numbers may be texts: CloudFormation writes them so.

        Raises
        ------
        ValueError
            When the entry is not the JSON that a deployment's stack writes; it names the key.
        """
        data = json.loads(entry.value)
        if not isinstance(data, dict):
            message = "the value is not a JSON object"
            raise TypeError(message)
        values: dict[str, Any] = {"registered": entry.written}
        for field in fields(cls):
            if field.name == "registered":
                continue
            value = data.get(field.name)
            if field.name.startswith("max_"):
                values[field.name] = _positive(field.name, value)
            elif isinstance(value, str) and (value or field.name == "chat_template"):
                values[field.name] = value
            else:
                message = f"key '{field.name}' must be a text"
                raise ValueError(message)
        return cls(**values)


def _positive(name: str, value: object) -> int:
    number = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else 0
    if number < 1:
        message = f"key '{name}' must be a positive integer"
        raise ValueError(message)
    return number


def read_entries(client: SSMClient, path: str) -> list[Entry]:
    """Read all parameters directly under a path."""
    pages = client.get_paginator("get_parameters_by_path").paginate(Path=path, Recursive=False)
    return [_entry(parameter) for page in pages for parameter in page["Parameters"]]


def _entry(parameter: Mapping[str, Any]) -> Entry:
    modified = parameter.get("LastModifiedDate")
    written = int(modified.timestamp()) if isinstance(modified, datetime) else 0
    return Entry(name=parameter["Name"], value=parameter["Value"], written=written)


class Registry:
    """The deployments, read again after a while, so that a new one is served without a cold start.

    When reading fails, what is known stays in use and reading is tried again soon.

    Parameters
    ----------
    load
        Reads the entries; runs on the event loop, so it hands blocking work to a thread.
    ttl
        Seconds after which the entries are read again.
    retry
        Seconds between attempts after a failure, and between two reads for unknown names.
    """

    def __init__(
        self,
        *,
        load: Callable[[], Awaitable[Sequence[Entry]]],
        ttl: float = TTL_SECONDS,
        retry: float = RETRY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._ttl = ttl
        self._retry = retry
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: dict[str, Deployment] | None = None
        self._stale_at = 0.0
        self._read_at = float("-inf")

    async def deployments(self) -> tuple[Deployment, ...]:
        """Return all deployments in the order of their names.

        Raises
        ------
        ApiError
            503 when the registry could never be read.
        """
        known = self._known
        if known is None or self._clock() >= self._stale_at:
            known = await self._refresh(since=self._clock())
        return tuple(known.values())

    async def find(self, model: str, *, param: str | None = "model") -> Deployment:
        """Return the deployment with this name, or the one that serves this model id.

        An unknown name reads the registry again first, at most once per `retry` seconds.

        Raises
        ------
        ApiError
            404 for an unknown model, 400 for a model id that several deployments serve.
        """
        found = _match(await self.deployments(), model)
        if not found and self._clock() >= self._read_at + self._retry:
            found = _match((await self._refresh(since=self._clock())).values(), model)
        if not found:
            raise model_not_found(
                f"The model '{model[:200]}' does not exist here. GET /v1/models lists what does.", param=param
            )
        if len(found) > 1:
            names = ", ".join(item.deployment for item in found)
            raise bad_request(f"'{model}' is served by several deployments: name one of {names}.", param=param)
        return found[0]

    async def only(self) -> Deployment:
        """Return the deployment for a request that names none: possible if there is exactly one.

        Raises
        ------
        ApiError
            404 when there is none, 400 when there are several.
        """
        known = await self.deployments()
        if not known:
            raise model_not_found("No model is deployed behind this gateway.")
        first, *others = known
        if others:
            names = ", ".join(item.deployment for item in known)
            raise bad_request(f"Several models are deployed: send model, one of {names}.", param="model")
        return first

    async def _refresh(self, *, since: float) -> dict[str, Deployment]:
        async with self._lock:
            if self._known is not None and self._read_at >= since:
                return self._known  # another request has just read it
            self._read_at = self._clock()
            try:
                entries = await self._load()
            except Exception as error:
                logger.warning(
                    "registry not readable", extra={"fields": {"error": type(error).__name__, "reason": str(error)}}
                )
                self._stale_at = self._clock() + self._retry
                if self._known is None:
                    raise ApiError(
                        status=503,
                        message="The gateway cannot read its list of deployments. Try again soon.",
                        code="registry_unavailable",
                        retry_after=int(self._retry),
                    ) from error
                return self._known
            self._known = _parse(entries)
            self._stale_at = self._clock() + self._ttl
            return self._known


def _parse(entries: Sequence[Entry]) -> dict[str, Deployment]:
    """Return the readable entries by name; one broken entry must not take the others down."""
    known: dict[str, Deployment] = {}
    for entry in sorted(entries, key=lambda entry: entry.name):
        try:
            deployment = Deployment.from_entry(entry)
        except (ValueError, TypeError) as error:
            fields_ = {"parameter": entry.name, "reason": str(error)}
            logger.warning("registry entry skipped", extra={"fields": fields_})
        else:
            known[deployment.deployment] = deployment
    return known


def _match(deployments: Any, model: str) -> list[Deployment]:
    named = [item for item in deployments if item.deployment == model]
    return named or [item for item in deployments if item.model_id == model]
