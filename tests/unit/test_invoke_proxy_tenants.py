"""Who a caller is, by the proof that the environment asks for, and by no other."""

from __future__ import annotations

from typing import Any

import pytest

from invoke_proxy.errors import ApiError
from invoke_proxy.logs import Identity
from invoke_proxy.registry import GatewaySettings, Snapshot, Tenant
from invoke_proxy.tenants import identify

ROLE = "arn:aws:iam::111122223333:role/team/search"
SESSION = "arn:aws:sts::111122223333:assumed-role/search/i-0123"


def snapshot(*tenants: Tenant, **settings: Any) -> Snapshot:
    return Snapshot(
        deployments={}, settings=GatewaySettings(**settings), tenants={tenant.name: tenant for tenant in tenants}
    )


def status(identity: Identity, known: Snapshot) -> int:
    with pytest.raises(ApiError) as caught:
        identify(identity, known)
    return caught.value.status


def test_key_names_its_tenant() -> None:
    known = snapshot(Tenant(name="search"), access="keys")

    assert identify(Identity(tenant="search", key_id="k"), known).name == "search"
    assert status(Identity(), known) == 401
    assert status(Identity(tenant="other"), known) == 403


def test_401_says_how_to_prove_oneself() -> None:
    with pytest.raises(ApiError) as caught:
        identify(Identity(), snapshot())
    assert caught.value.headers == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize("access", ["iam", "cognito"])
def test_a_key_s_tenant_counts_only_where_keys_are_asked_for(access: str) -> None:
    assert status(Identity(tenant="search", key_id="k"), snapshot(Tenant(name="search"), access=access)) == 401


def test_a_claim_counts_only_where_tokens_are_asked_for() -> None:
    identity = Identity(claims={"custom:tenant": "search"})

    assert status(identity, snapshot(Tenant(name="search"), access="keys")) == 401
    assert identify(identity, snapshot(Tenant(name="search"), access="cognito")).name == "search"


def test_claim_s_name_is_a_setting() -> None:
    known = snapshot(Tenant(name="search"), access="cognito", tenant_claim="org")

    assert identify(Identity(claims={"org": "search"}), known).name == "search"
    assert status(Identity(claims={"custom:tenant": "search"}), known) == 401


@pytest.mark.parametrize(
    ("principal", "caller"),
    [
        (ROLE, SESSION),
        (ROLE, ROLE),
        ("arn:aws:iam::111122223333:user/people/ann", "arn:aws:iam::111122223333:user/people/ann"),
        (SESSION, SESSION),
        ("arn:aws-cn:iam::111122223333:role/search", "arn:aws-cn:sts::111122223333:assumed-role/search/s"),
    ],
)
def test_principal_is_recognised(principal: str, caller: str) -> None:
    known = snapshot(
        Tenant(name="other", principals=frozenset({"arn:aws:iam::111122223333:role/other"})),
        Tenant(name="search", principals=frozenset({principal})),
        access="iam",
    )

    assert identify(Identity(user_arn=caller), known).name == "search"


@pytest.mark.parametrize(
    "caller",
    [
        "arn:aws:sts::999999999999:assumed-role/search/s",
        "arn:aws:sts::111122223333:assumed-role/search2/s",
        "arn:aws:sts::111122223333:assumed-role/other/search",
        "arn:aws:iam::111122223333:user/search",
        "arn:aws-cn:sts::111122223333:assumed-role/search/s",
        "arn:aws:iam::111122223333:root",
    ],
)
def test_other_principals_are_nobody(caller: str) -> None:
    known = snapshot(Tenant(name="search", principals=frozenset({ROLE})), access="iam")

    assert status(Identity(user_arn=caller), known) == 403


def test_without_a_principal_nobody_vouches() -> None:
    assert status(Identity(), snapshot(Tenant(name="search", principals=frozenset({ROLE})), access="iam")) == 401
