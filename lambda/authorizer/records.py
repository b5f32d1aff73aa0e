"""What the keys' table says, kept in memory for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["KeyRecord", "KeyTable", "MalformedRecordError", "Records", "TableUnavailableError"]

# How old a record may be that is still used while the table cannot be read, where records are kept at all.
STALE_SECONDS = 300.0
# How long the table is left alone after a failure, by keys that are known.
RETRY_SECONDS = 5.0
_MOST_RECORDS = 4096


class TableUnavailableError(Exception):
    """The table cannot be read, and nothing recent enough is known about the key."""


class MalformedRecordError(Exception):
    """An item of the table lacks what a key has; it names the attribute."""


class KeyTable(Protocol):
    """Reads one item of the table, as DynamoDB writes attributes; None when there is none. Raises what it likes."""

    def __call__(self, key_id: str, /) -> Mapping[str, Any] | None:
        """Read the item of a key."""
        ...


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """What is known of a key.

    Attributes
    ----------
    expires
        When it ends, in seconds since 1970; None: never.
    revoked
        Whether somebody has revoked it.
    """

    key_id: str
    token_sha256: str
    tenant: str
    expires: int | None
    revoked: bool

    @classmethod
    def from_item(cls, key_id: str, item: Mapping[str, Any]) -> KeyRecord:
        """Read an item.

        Raises
        ------
        MalformedRecordError
            An attribute is missing or has another type.
        """
        name = ""
        try:
            name = "token_sha256"
            token_sha256 = str(item[name]["S"])
            name = "tenant"
            tenant = str(item[name]["S"])
            name = "expires"
            expires = int(item[name]["N"]) if name in item else None
        except (KeyError, TypeError, ValueError):
            raise MalformedRecordError(name) from None
        return cls(key_id=key_id, token_sha256=token_sha256, tenant=tenant, expires=expires, revoked="revoked" in item)


class Records:
    """Looks keys up, and remembers those that it found.

    Unknown keys are not remembered: one that was made a moment ago has to work, and anybody can ask for any.

    Parameters
    ----------
    keep_seconds
        How old a record may be that is used without asking the table. A revoked key stops within this time, or within
        `STALE_SECONDS` while the table cannot be read. 0: nothing is used but what the table says now, and a table that
        cannot be read refuses every key.
    clock
        Seconds since 1970. Not a monotonic clock: that one may stand still while Lambda has the function frozen.
    """

    def __init__(self, table: KeyTable, *, keep_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._table, self._keep, self._clock = table, keep_seconds, clock
        self._stale = STALE_SECONDS if keep_seconds > 0 else 0.0
        self._known: OrderedDict[str, tuple[KeyRecord, float]] = OrderedDict()
        self._retry_at = float("-inf")

    def find(self, key_id: str) -> KeyRecord | None:
        """Find a key's record; None: there is no such key.

        Raises
        ------
        TableUnavailableError
            See there; the cause says why.
        MalformedRecordError
            The item is not one of a key.
        """
        record, read_at = self._known.get(key_id, (None, 0.0))
        now = self._clock()
        # A clock that was set back makes a record old, not young.
        age = now - read_at if now >= read_at else float("inf")
        if record is not None and (age < self._keep or (now < self._retry_at and age < self._stale)):
            self._known.move_to_end(key_id)
            return record
        try:
            item = self._table(key_id)
        except Exception as error:
            self._retry_at = self._clock() + RETRY_SECONDS
            if record is not None and age < self._stale:
                return record
            raise TableUnavailableError(type(error).__name__) from error
        self._retry_at = float("-inf")
        if item is None:
            self._known.pop(key_id, None)
            return None
        record = KeyRecord.from_item(key_id, item)
        # As of before it was asked for.
        self._known[key_id] = record, now
        self._known.move_to_end(key_id)
        if len(self._known) > _MOST_RECORDS:
            self._known.popitem(last=False)
        return record
