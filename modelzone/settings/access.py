"""Who may use the gateway: tenants, and how a request proves whose it is."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelzone.schema import Identifier, Settings
from modelzone.settings.gateway import ModelName, MonthlyQuota

__all__ = ["Access", "AccessMethod", "Tenant"]

AccessMethod = Literal["keys", "iam", "cognito"]
UserPoolArn = Annotated[
    str, Meta(pattern=r"^arn:aws[a-z-]*:cognito-idp:[a-z0-9-]+:\d{12}:userpool/[a-z0-9-]+_[A-Za-z0-9]+$")
]
PrincipalArn = Annotated[str, Meta(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:(role|user)/[\w+=,.@/-]+$", max_length=200)]
ClaimName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.:-]*$", max_length=128)]

_KEY_CACHE_SECONDS = 30
_TENANT_CLAIM = "custom:tenant"
# With keys each is four resources of the gateway's stack, and CloudFormation's stacks have 500 at most.
_MOST_TENANTS = 80


class Tenant(Settings, frozen=True):
    """One user of the gateway: a team, an application, a customer.

    ``models`` names deployments or aliases; empty: all. Limits that are null are the gateway's. ``log_content`` logs
    prompts and answers, with what looks like personal data or a secret masked. ``principals`` are the IAM roles and
    users of the tenant (access by ``iam``).
    """

    models: Annotated[tuple[ModelName, ...], Meta(max_length=40)] = ()
    rate_limit_per_second: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    burst_limit: Annotated[int, Meta(ge=1, le=5_000)] | None = None
    monthly_quota: MonthlyQuota | None = None
    log_content: bool = False
    principals: Annotated[tuple[PrincipalArn, ...], Meta(max_length=16)] = ()
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None


class Access(Settings, frozen=True):
    """How callers prove who they are.

    ``keys``: tokens of this project (``modelzone keys``), with a usage plan for each tenant; ``key_cache_seconds`` is
    how long a revoked one may still be taken (while DynamoDB cannot be read five minutes, with 0 not at all). ``iam``:
    requests signed by one of a tenant's principals. ``cognito``: an ID token of the user pool at ``user_pool_arn``,
    whose claim ``tenant_claim`` names the tenant. Whoever can write what the claim is made of can be any tenant: an
    attribute has to be writable by no app client of the pool, or immutable where users do not sign up by themselves.
    """

    method: AccessMethod = "keys"
    key_cache_seconds: Annotated[int, Meta(ge=0, le=300)] = _KEY_CACHE_SECONDS
    user_pool_arn: UserPoolArn | None = None
    tenant_claim: ClaimName = _TENANT_CLAIM
    tenants: Annotated[dict[Identifier, Tenant], Meta(min_length=1, max_length=_MOST_TENANTS)] = msgspec.field(
        default_factory=lambda: {"default": Tenant()}
    )

    def __post_init__(self) -> None:
        if (self.method == "cognito") != (self.user_pool_arn is not None):
            raise ValueError(f"method is {self.method}; give user_pool_arn when, and only when, it is cognito")
        if self.method != "keys" and self.key_cache_seconds != _KEY_CACHE_SECONDS:
            raise ValueError(
                f"key_cache_seconds {self.key_cache_seconds} would hold for nothing: method is {self.method}, and only "
                "keys are kept; leave it out"
            )
        if self.method != "cognito" and self.tenant_claim != _TENANT_CLAIM:
            raise ValueError(
                f"tenant_claim {self.tenant_claim} would not be asked for: method is {self.method}, and only tokens of "
                "cognito have claims; leave it out"
            )
