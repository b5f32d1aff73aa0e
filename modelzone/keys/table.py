"""The table of keys: made, listed, replaced and revoked so that no record is ever written over.

The gateway's authorizer reads ``token_sha256``, ``tenant``, ``expires`` and ``revoked`` of a record. DynamoDB deletes
records some time after ``purge``, so nothing relies on that: a record is expired by its own ``expires``.
"""

from __future__ import annotations

import contextlib
import hmac
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

from modelzone.errors import ModelzoneError
from modelzone.keys.spans import span_text
from modelzone.keys.token import Token, hash_token, is_key_id, key_id_of, new_token

__all__ = ["GRACE_LIMIT", "STALE_SECONDS", "Key", "KeyState", "Keys", "Rotation", "known_seconds"]

KeyState = Literal["active", "expiring", "expired", "revoked"]

GRACE_LIMIT = 7 * 86_400
"""The longest time in seconds that a replaced key goes on working."""

STALE_SECONDS = 300
"""How long the gateway takes a key that it knows while it cannot read the table, where it keeps keys at all."""

_PURGE_AFTER = 30 * 86_400
_LABEL_LENGTH = 100
# Everything but the hash, which nobody but the authorizer needs.
_SHOWN = ("key_id", "tenant", "label", "created", "expires", "revoked", "replaced_by")
_REFUSED = "ConditionalCheckFailedException"
_CANCELLED = "TransactionCanceledException"


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key's record, without the hash of its token. Times are in seconds since 1970.

    Attributes
    ----------
    expires
        From when on it is refused; None: never.
    revoked
        When it was revoked.
    replaced_by
        The id of the key that took its place in a rotation.
    """

    key_id: str
    tenant: str
    label: str
    created: int
    expires: int | None = None
    revoked: int | None = None
    replaced_by: str | None = None

    def state(self, now: float) -> KeyState:
        """What the gateway makes of it; ``expiring`` is a key that works and ends within seven days."""
        if self.revoked is not None:
            return "revoked"
        if self.expires is None or self.expires - now > GRACE_LIMIT:
            return "active"
        return "expiring" if self.expires > now else "expired"

    def works(self, now: float) -> bool:
        """Whether the gateway lets it in."""
        return self.state(now) in {"active", "expiring"}


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """A key that was replaced, as it is now, and what took its place.

    Attributes
    ----------
    old_expires
        When the old key would have ended by itself, in seconds since 1970; None: never.
    """

    old: Key
    old_expires: int | None
    new: Key
    token: Token


def known_seconds(*, since: int, expires: int | None, keep_seconds: int, now: int) -> int:
    """How many seconds more the gateway may take a key as it was before `since`.

    Parameters
    ----------
    since
        When the key was changed, in seconds since 1970.
    expires
        When it ended by what the gateway may still know of it; None: never.
    keep_seconds
        How long the gateway uses what it has read.
    """
    until = since + keep_seconds
    return max(0, (until if expires is None else min(until, expires)) - now)


class Keys:
    """The keys of an environment.

    Parameters
    ----------
    client
        A boto3 client of DynamoDB.
    table
        The table's name, output ``KeysTableName`` of the environment's gateway stack.
    tenants
        Names of the environment's tenants: the gateway refuses keys of others.
    clock
        Seconds since 1970.
    """

    def __init__(
        self, client: Any, table: str, *, tenants: Collection[str], clock: Callable[[], float] = time.time
    ) -> None:
        self._client, self._table, self._tenants, self._clock = client, table, tenants, clock

    @property
    def now(self) -> int:
        """The time that states are told by."""
        return int(self._clock())

    def create(self, tenant: str, *, label: str = "", lifetime: int | None = None) -> tuple[Key, Token]:
        """Make a key. Its token is in what this returns and nowhere else.

        Parameters
        ----------
        lifetime
            Seconds until it expires; None: it does not.

        Raises
        ------
        ModelzoneError
            The environment has no such tenant, the label is refused, or AWS refuses.
        """
        self.check_tenant(tenant)
        _check_label(label)
        key, token = self._new(tenant, label, lifetime)
        with _asking("storing a key"):
            self._client.put_item(
                TableName=self._table,
                Item=_item(key, token),
                ConditionExpression="attribute_not_exists(key_id)",
            )
        return key, token

    def list(self, *, tenant: str | None = None) -> list[Key]:
        """All keys, or those of a tenant, by tenant and age. A tenant that is gone may still have keys."""
        return sorted(self._scan(tenant), key=lambda key: (key.tenant, key.created, key.key_id))

    def find(self, key_id: str) -> Key | None:
        """The key with an id; None when there is none, or when DynamoDB has purged it."""
        item = self._read(_checked_id(key_id), _SHOWN)
        return None if item is None else _key(item)

    def check(self, token: str) -> Key | None:
        """The key whose token this is; None when the table knows none, whatever its state."""
        key_id = key_id_of(token)
        item = None if key_id is None else self._read(key_id, (*_SHOWN, "token_sha256"))
        if item is None:
            return None
        kept = item.get("token_sha256", {}).get("S", "")
        return _key(item) if hmac.compare_digest(kept.encode(), hash_token(token).encode()) else None

    def rotate(self, key_id: str, *, grace: int) -> Rotation:
        """Replace a key. The old one works for `grace` seconds more, the new one at once.

        The new key has the tenant and the label of the old one, and as long a life from now on as that had.

        Raises
        ------
        ModelzoneError
            There is no such key, it does not work any more, or it was replaced already.
        """
        if not 0 <= grace <= GRACE_LIMIT:
            raise ModelzoneError(f"a grace of {grace} s is refused: give 0 to {span_text(GRACE_LIMIT)}")
        old = self._existing(key_id)
        self._check_rotation(old)
        self.check_tenant(old.tenant)
        new, token = self._new(old.tenant, old.label, None if old.expires is None else old.expires - old.created)
        end = min(old.expires or self.now + grace, self.now + grace)
        # Both or none: a new key whose old one stays, or an old one that ends without a successor, helps nobody.
        try:
            with _asking(f"replacing key {key_id}", but=_CANCELLED):
                self._client.transact_write_items(
                    TransactItems=[
                        {
                            "Put": {
                                "TableName": self._table,
                                "Item": _item(new, token),
                                "ConditionExpression": "attribute_not_exists(key_id)",
                            }
                        },
                        {"Update": {"TableName": self._table, **_replacement(old, new, end)}},
                    ]
                )
        except _RefusedError:
            self._check_rotation(self._existing(key_id))
            raise ModelzoneError(f"key {key_id} was changed at the same time\n  fix: rotate it again") from None
        return Rotation(
            old=replace(old, expires=end, replaced_by=new.key_id), old_expires=old.expires, new=new, token=token
        )

    def revoke(self, key_id: str) -> tuple[Key, bool]:
        """End a key now. Returns it, and whether this call did so: a key that is revoked stays as it is.

        Raises
        ------
        ModelzoneError
            There is no such key.
        """
        now = self.now
        try:
            with _asking(f"revoking key {_checked_id(key_id)}", but=_REFUSED):
                self._client.update_item(
                    TableName=self._table,
                    Key={"key_id": {"S": key_id}},
                    UpdateExpression="SET #revoked = :now, #purge = :purge",
                    ConditionExpression="attribute_exists(key_id) AND attribute_not_exists(#revoked)",
                    ExpressionAttributeNames={"#revoked": "revoked", "#purge": "purge"},
                    ExpressionAttributeValues={":now": _number(now), ":purge": _number(now + _PURGE_AFTER)},
                )
        except _RefusedError:
            return self._existing(key_id), False
        return self._existing(key_id), True

    def check_tenant(self, tenant: str) -> None:
        """Refuse a tenant that the environment does not have.

        Raises
        ------
        ModelzoneError
            It has none of this name.
        """
        if tenant in self._tenants:
            return
        near = get_close_matches(tenant, self._tenants, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ModelzoneError(
            f"the environment has no tenant {tenant!r}; {meant}it has: {', '.join(self._tenants)}\n"
            "  fix: name one of these, or add it to access.tenants of the environment file and deploy the gateway"
        )

    def _new(self, tenant: str, label: str, lifetime: int | None) -> tuple[Key, Token]:
        token, now = new_token(), self.now
        expires = None if lifetime is None else now + lifetime
        return Key(key_id=token.key_id, tenant=tenant, label=label, created=now, expires=expires), token

    def _existing(self, key_id: str) -> Key:
        key = self.find(key_id)
        if key is None:
            raise ModelzoneError(f"there is no key {key_id}\n  fix: see the ids: modelzone keys list")
        return key

    def _check_rotation(self, key: Key) -> None:
        if not key.works(self.now):
            raise ModelzoneError(
                f"key {key.key_id} is {key.state(self.now)}, there is nothing to replace\n"
                f"  fix: make a new one: modelzone keys create {key.tenant}"
            )
        if key.replaced_by is not None:
            raise ModelzoneError(
                f"key {key.key_id} was replaced by {key.replaced_by} already\n"
                f"  fix: use that one, or rotate it: modelzone keys rotate {key.replaced_by}"
            )

    def _read(self, key_id: str, names: tuple[str, ...]) -> Mapping[str, Any] | None:
        with _asking(f"reading key {key_id}"):
            answer = self._client.get_item(
                TableName=self._table, Key={"key_id": {"S": key_id}}, ConsistentRead=True, **_projection(names)
            )
        found: Mapping[str, Any] | None = answer.get("Item")
        return found

    def _scan(self, tenant: str | None) -> Iterator[Key]:
        wanted: dict[str, Any] = {"TableName": self._table, "ConsistentRead": True, **_projection(_SHOWN)}
        if tenant is not None:
            wanted |= {
                "FilterExpression": "#tenant = :tenant",
                "ExpressionAttributeValues": {":tenant": {"S": tenant}},
            }
        with _asking("listing keys"):
            for page in self._client.get_paginator("scan").paginate(**wanted):
                for item in page["Items"]:
                    yield _key(item)


class _RefusedError(Exception):
    """A condition did not hold."""


@contextlib.contextmanager
def _asking(doing: str, *, but: str | None = None) -> Iterator[None]:
    """Turn AWS's errors into messages; the one whose code is `but` is expected, and raised as `_RefusedError`."""
    # Whoever has a client has imported these; the token's format is of use without them.
    from botocore.exceptions import ClientError  # noqa: PLC0415

    from modelzone.compiling.aws import aws_errors, code_of  # noqa: PLC0415

    with aws_errors(doing):
        try:
            yield
        except ClientError as error:
            if but is None or code_of(error) != but:
                raise
            raise _RefusedError from None


def _checked_id(key_id: str) -> str:
    """An id that is one. What else is given is not repeated in the message: it may be a token, or a part of one."""
    if is_key_id(key_id):
        return key_id
    if key_id.startswith("mz_"):
        raise ModelzoneError(
            "this is a key's token, and a key goes by its id: the ten characters between mz_ and the next _\n"
            "  fix: give the id alone; who has seen the token can use it, so think of revoking the key"
        )
    raise ModelzoneError("a key's id has ten characters, a to z and 2 to 7\n  fix: see the ids: modelzone keys list")


def _check_label(label: str) -> None:
    if len(label) > _LABEL_LENGTH or not label.isprintable():
        raise ModelzoneError(
            f"the label {label[:_LABEL_LENGTH]!r} is refused: at most {_LABEL_LENGTH} printable characters\n"
            "  fix: say in a few words who uses the key"
        )


def _projection(names: tuple[str, ...]) -> dict[str, Any]:
    """Ask for some attributes, each by a placeholder: DynamoDB reserves hundreds of words."""
    return {
        "ProjectionExpression": ", ".join(f"#{name}" for name in names),
        "ExpressionAttributeNames": {f"#{name}": name for name in names},
    }


def _replacement(old: Key, new: Key, end: int) -> dict[str, Any]:
    """The update of a key that is replaced; it holds only while the key is what was read."""
    values = {":expires": _number(end), ":purge": _number(end + _PURGE_AFTER), ":new": {"S": new.key_id}}
    same = "attribute_not_exists(#expires)"
    if old.expires is not None:
        same, values[":was"] = "#expires = :was", _number(old.expires)
    return {
        "Key": {"key_id": {"S": old.key_id}},
        "UpdateExpression": "SET #expires = :expires, #purge = :purge, #new = :new",
        "ConditionExpression": f"{same} AND attribute_not_exists(#revoked) AND attribute_not_exists(#new) "
        "AND attribute_exists(key_id)",
        "ExpressionAttributeNames": {
            "#expires": "expires",
            "#purge": "purge",
            "#new": "replaced_by",
            "#revoked": "revoked",
        },
        "ExpressionAttributeValues": values,
    }


def _number(value: int) -> dict[str, str]:
    return {"N": str(value)}


def _item(key: Key, token: Token) -> dict[str, dict[str, str]]:
    item = {
        "key_id": {"S": key.key_id},
        "token_sha256": {"S": hash_token(token.text)},
        "tenant": {"S": key.tenant},
        "label": {"S": key.label},
        "created": _number(key.created),
    }
    if key.expires is not None:
        item |= {"expires": _number(key.expires), "purge": _number(key.expires + _PURGE_AFTER)}
    return item


def _key(item: Mapping[str, Any]) -> Key:
    """A record as it is read: whoever wrote one by hand may have left things out."""

    def number(name: str) -> int | None:
        text = item.get(name, {}).get("N")
        return None if text is None else int(float(text))

    def text(name: str) -> str:
        return str(item.get(name, {}).get("S", ""))

    return Key(
        key_id=text("key_id"),
        tenant=text("tenant"),
        label=text("label"),
        created=number("created") or 0,
        expires=number("expires"),
        revoked=number("revoked"),
        replaced_by=text("replaced_by") or None,
    )
