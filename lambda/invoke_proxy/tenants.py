"""Who asks: API Gateway has checked the caller and says so; here the caller becomes a tenant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .errors import forbidden, unauthorized
from .registry import Snapshot, Tenant

if TYPE_CHECKING:
    from .logs import Identity

__all__ = ["identify"]

_ASSUMED_ROLE = re.compile(r"arn:(?P<partition>[^:]+):sts::(?P<account>\d+):assumed-role/(?P<role>[^/]+)/.+")
_ROLE = re.compile(r"arn:(?P<partition>[^:]+):iam::(?P<account>\d+):role/(?:.*/)?(?P<role>[^/]+)")


def identify(identity: Identity, snapshot: Snapshot) -> Tenant:
    """Return the tenant of a request.

    The request's context comes in a header that the Lambda Web Adapter sets; it replaces what a client sent under that
    name (`insert` in its src/lib.rs). Only the proof that the environment asks for counts: a claim is no tenant where
    keys are asked for.

    Raises
    ------
    ApiError
        401 when nobody vouches for the caller, 403 when the caller is no tenant of this gateway.
    """
    settings = snapshot.settings
    if settings.access == "iam":
        return _by_principal(identity.user_arn, snapshot.tenants)
    name = identity.tenant if settings.access == "keys" else _claim(identity.claims, settings.tenant_claim)
    if not name:
        raise unauthorized()
    tenant = snapshot.tenants.get(name)
    if tenant is None:
        raise forbidden()
    return tenant


def _by_principal(arn: str | None, tenants: Mapping[str, Tenant]) -> Tenant:
    if not arn:
        raise unauthorized()
    caller = _principal(arn)
    for tenant in tenants.values():
        if any(_principal(principal) == caller for principal in tenant.principals):
            return tenant
    raise forbidden()


def _principal(arn: str) -> tuple[str, ...]:
    """Return what two ARNs of one principal have in common.

    A caller in a role goes by the session's ARN, which lacks the role's path; names of roles are unique in an account
    without it.
    """
    match = _ASSUMED_ROLE.fullmatch(arn) or _ROLE.fullmatch(arn)
    return (match["partition"], match["account"], match["role"]) if match else (arn,)


def _claim(claims: Mapping[str, object] | None, name: str) -> str | None:
    value = (claims or {}).get(name)
    return value if isinstance(value, str) else None
