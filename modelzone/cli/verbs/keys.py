"""``modelzone keys``: who may call the gateway. A token is printed once, when its key is made."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzone.cli.account import Account, EndpointOption, EnvironmentOption, LocalOption, ProfileOption, open_account
from modelzone.cli.options import JsonOption, examples
from modelzone.cli.output import note, write, write_json, write_table
from modelzone.cli.project import find_project
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.keys import Key, Keys
    from modelzone.settings import Access

_MINUTE = 60
_LONGEST = 3650 * 86_400


def complete_tenant(context: typer.Context, incomplete: str) -> list[str]:
    """Tenants of the environment that was named, or of the default one."""
    from modelzone.settings.loading import load_environment  # noqa: PLC0415

    given = context.find_root().params.get("project")
    root = find_project(Path(given) if given else Path())
    if root is None:
        return []
    tenants = load_environment(root, context.params.get("environment") or "dev").access.tenants
    return [name for name in tenants if name.startswith(incomplete)]


_KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="A key's id, never its token. See: keys list.")]


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Make, list, replace and revoke the gateway's keys.",
        epilog=examples(
            "modelzone keys create default --label 'my laptop'",
            "export MODELZONE_API_KEY=$(modelzone keys create default)",
            "modelzone keys list",
            "modelzone keys rotate abcdefghij --grace 24h",
            "modelzone keys revoke abcdefghij",
        ),
        rich_markup_mode=None,
    )
    for name, action, short, lines in (
        (
            "create",
            create,
            "Make a key for a tenant.",
            ("create default", "create search --label 'nightly job' --expires 90d", "create default -e prod --json"),
        ),
        ("list", list_keys, "List keys, without their tokens.", ("list", "list --tenant search --json")),
        (
            "rotate",
            rotate,
            "Replace a key; the old one works for a while.",
            ("rotate abcdefghij", "rotate abcdefghij --grace 7d"),
        ),
        ("revoke", revoke, "End a key now.", ("revoke abcdefghij",)),
    ):
        epilog = examples(*(f"modelzone keys {line}" for line in lines))
        group.command(name, epilog=epilog, short_help=short)(action)
    app.add_typer(group, name="keys")


def create(
    context: typer.Context,
    tenant: Annotated[
        str, typer.Argument(metavar="TENANT", help="A tenant of the environment.", autocompletion=complete_tenant)
    ],
    *,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="Who uses the key, for the list.")] = "",
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="How long it works: 12h, 90d. Default: for ever.")
    ] = None,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a key for a tenant and print its token, alone on stdout.

    The token is shown this once: the table keeps a hash. What else there is to say goes to stderr, so that
    KEY=$(modelzone keys create TENANT) works.
    """
    from modelzone.keys import parse_span  # noqa: PLC0415

    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    lifetime = expires and parse_span(expires, name="--expires", least=_MINUTE, most=_LONGEST)
    keys, _ = open_keys(account)
    key, token = keys.create(tenant, label=label, lifetime=lifetime or None)
    if as_json:
        write_json({"environment": environment, **_row(key, keys.now), "token": token.text})
        return
    note(f"key {key.key_id} of tenant {tenant}, {_end(key)}; its token is shown only now:")
    write(token.text)


def list_keys(
    context: typer.Context,
    *,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="TENANT", help="Only this one's keys.", autocompletion=complete_tenant),
    ] = None,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """List keys: active, expiring (within 7 days), expired or revoked. Dead ones are listed for about 30 days."""
    from modelzone.compiling.text import clean  # noqa: PLC0415

    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    keys, access = open_keys(account)
    found = keys.list(tenant=tenant)
    if not found and tenant is not None:
        keys.check_tenant(tenant)
    rows = [_row(key, keys.now) for key in found]
    if as_json:
        write_json({"environment": environment, "keys": rows})
        return
    if not rows:
        of = f"tenant {tenant}" if tenant else f"environment {environment}"
        write(f"{of} has no key; make one with: {account.words(f'keys create {tenant or next(iter(access.tenants))}')}")
        return
    lines = [
        [key.key_id, key.tenant, clean(key.label), key.state(keys.now), _short(key.created), _short(key.expires)]
        for key in found
    ]
    write_table(["KEY", "TENANT", "LABEL", "STATE", "CREATED (UTC)", "EXPIRES (UTC)"], lines)
    for name in dict.fromkeys(row["tenant"] for row in rows if row["tenant"] not in access.tenants):
        note(f"warning: the environment has no tenant {name} any more: the gateway refuses its keys")


def rotate(
    context: typer.Context,
    key_id: _KeyId,
    *,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="How long the old key works on: 0h to 7d. Default: 24h.")
    ] = "24h",
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Replace a key: print the token of a new one, and let the old one work until the grace is over.

    The new key has the old one's tenant and label, and as long a life as that was given.
    """
    from modelzone.keys import GRACE_LIMIT, known_seconds, parse_span  # noqa: PLC0415

    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    seconds = parse_span(grace, name="--grace", least=0, most=GRACE_LIMIT)
    keys, access = open_keys(account)
    done = keys.rotate(key_id, grace=seconds)
    now = keys.now
    until = done.old.expires or now
    # The gateway may know the key as it was before.
    known = known_seconds(since=now, expires=done.old_expires, keep_seconds=access.key_cache_seconds, now=now)
    if as_json:
        replaced = {**_row(done.old, now), "works_seconds": max(known, until - now)}
        write_json({"environment": environment, **_row(done.new, now), "token": done.token.text, "replaces": replaced})
        return
    old = f"key {key_id} works until {_moment(until)}" if until > now else f"key {key_id} has ended"
    if known > until - now:
        old += f"; it may work for {_still(known)}"
    note(f"{old}; key {done.new.key_id} replaces it, {_end(done.new)}; its token is shown only now:")
    write(done.token.text)


def revoke(
    context: typer.Context,
    key_id: _KeyId,
    *,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """End a key now; a revoked key does not come back.

    The gateway may know it for access.key_cache_seconds more, or for 5 minutes while it cannot read DynamoDB.
    """
    from modelzone.keys import known_seconds  # noqa: PLC0415

    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    keys, access = open_keys(account)
    key, ended = keys.revoke(key_id)
    now = keys.now
    left = known_seconds(since=key.revoked or now, expires=key.expires, keep_seconds=access.key_cache_seconds, now=now)
    if as_json:
        write_json({"environment": environment, **_row(key, now), "already": not ended, "works_seconds": left})
        return
    if not ended:
        write(f"key {key_id} of tenant {key.tenant} was revoked at {_moment(key.revoked)}")
    else:
        still = f"; it may work for {_still(left)}" if left else ""
        write(f"key {key_id} of tenant {key.tenant} is revoked{still}")


def open_keys(account: Account) -> tuple[Keys, Access]:
    """The keys of an environment, and what its file says of access.

    Raises
    ------
    ModelzoneError
        Its gateway takes no keys, or is not deployed.
    """
    from modelzone.compiling.aws import stack_outputs  # noqa: PLC0415
    from modelzone.keys import Keys  # noqa: PLC0415
    from modelzone.settings.loading import load_environment  # noqa: PLC0415

    access = load_environment(account.root, account.environment).access
    if access.method != "keys":
        raise ModelzoneError(
            f"environment {account.environment} has access.method {access.method}: its gateway takes no keys\n"
            "  fix: name another environment, or set access.method: keys and deploy the gateway"
        )
    outputs = stack_outputs(
        account.client("cloudformation"),
        environment=account.environment,
        suffix="gateway",
        needed=("KeysTableName",),
    )
    return Keys(account.client("dynamodb"), outputs["KeysTableName"], tenants=access.tenants), access


def _still(seconds: int) -> str:
    from modelzone.keys import STALE_SECONDS  # noqa: PLC0415

    return (
        f"{seconds} s more (access.key_cache_seconds), or {STALE_SECONDS // _MINUTE} minutes while the gateway cannot "
        "read DynamoDB"
    )


def _row(key: Key, now: int) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "tenant": key.tenant,
        "label": key.label,
        "state": key.state(now),
        "created": _moment(key.created),
        "expires": _moment(key.expires),
        "revoked": _moment(key.revoked),
        "replaced_by": key.replaced_by,
    }


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _short(seconds: int | None) -> str:
    return "never" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _end(key: Key) -> str:
    return "without an end" if key.expires is None else f"which works until {_moment(key.expires)}"
