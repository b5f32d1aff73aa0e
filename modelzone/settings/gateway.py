"""The gateway of an environment: its limits, what models are called, and from where it can be reached."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Annotated

import msgspec
from msgspec import Meta

from modelzone.schema import Identifier, Settings

__all__ = ["AnswerCache", "Firewall", "Gateway", "ModelName", "MonthlyQuota"]

# Clients ask for models by such names: OpenAI's have dots, the hub's a slash.
ModelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=96)]

# API Gateway keeps it as a 32-bit integer.
MonthlyQuota = Annotated[int, Meta(ge=1, le=2_147_483_647)]

# What is left for the answer itself when a request has waited for its endpoint: how long the proxy waits for a whole
# answer (`ATTEMPT_SECONDS` of its endpoints/waiting.py), and what comes before and after.
_ANSWER_SECONDS, _MARGIN_SECONDS = 65, 10


class AnswerCache(Settings, frozen=True):
    """How long the gateway may give a deterministic answer of a deployment again; 0: it asks every time."""

    ttl_seconds: Annotated[int, Meta(ge=0, le=2_592_000)] = 0


class Firewall(Settings, frozen=True):
    """A web application firewall in front of the API.

    ``requests_per_five_minutes`` holds for each client's address. ``managed_rules`` adds AWS's rules against known
    attacks; those that look into bodies only count, because prompts may well quote an attack.
    """

    requests_per_five_minutes: Annotated[int, Meta(ge=10, le=2_000_000_000)] = 2000
    managed_rules: bool = True


class Gateway(Settings, frozen=True):
    """The environment's one API.

    ``rate_limit_per_second`` and ``burst_limit`` hold for the API as a whole and, like ``monthly_quota``, for each
    tenant that has no limits of its own (quotas need access by keys). ``aliases`` are other names of deployments, and
    ``default_model`` answers requests that name no model. ``wait_seconds`` bounds how long a request waits for an
    endpoint that has no instance yet; ``hedge_after_seconds`` sends a silent request a second time (it then costs
    double). ``private`` makes the API reachable from the VPC only. ``allowed_networks`` are the clients' IPv4 ranges:
    public ones, or those of the VPC and what is connected to it where the API is private; empty: all.
    """

    rate_limit_per_second: Annotated[int, Meta(ge=1, le=10_000)] = 20
    burst_limit: Annotated[int, Meta(ge=1, le=5_000)] = 40
    monthly_quota: MonthlyQuota = 1_000_000
    request_timeout_seconds: Annotated[int, Meta(ge=30, le=900)] = 480
    default_model: Identifier | None = None
    aliases: Annotated[dict[ModelName, Identifier], Meta(max_length=50)] = msgspec.field(default_factory=dict)
    wait_seconds: Annotated[int, Meta(ge=0, le=880)] = 0
    hedge_after_seconds: Annotated[float, Meta(ge=0.1, le=300)] | None = None
    max_messages: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    private: bool = False
    allowed_networks: Annotated[tuple[str, ...], Meta(max_length=100)] = ()
    firewall: Firewall | None = None

    def __post_init__(self) -> None:
        limit = max(0, self.request_timeout_seconds - _ANSWER_SECONDS - _MARGIN_SECONDS)
        if self.wait_seconds > limit:
            raise ValueError(
                f"wait_seconds {self.wait_seconds} leaves no time for an answer within request_timeout_seconds "
                f"{self.request_timeout_seconds}; use at most {limit}"
            )
        if self.hedge_after_seconds is not None and self.hedge_after_seconds >= self.request_timeout_seconds:
            raise ValueError(
                f"hedge_after_seconds {self.hedge_after_seconds:g} would never come: a request ends after "
                f"request_timeout_seconds {self.request_timeout_seconds}; use less, or null for no second request"
            )
        for text in self.allowed_networks:
            self._check_network(text)
        if len(set(self.allowed_networks)) < len(self.allowed_networks):
            twice = next(text for text in self.allowed_networks if self.allowed_networks.count(text) > 1)
            raise ValueError(f"allowed_networks names {twice} twice; name it once")

    def _check_network(self, text: str) -> None:
        try:
            network = IPv4Network(text)
        except ValueError as error:
            raise ValueError(f"allowed_networks: {error}; give an IPv4 range such as 8.8.8.0/24") from None
        if not network.prefixlen:
            raise ValueError(f"allowed_networks: {text} is every address; leave the list empty to allow all")
        # API Gateway sees public addresses only, unless requests come through a VPC endpoint.
        if not self.private and (not network.is_global or network.is_multicast):
            raise ValueError(
                f"allowed_networks: {text} has no public addresses and the API is public, so no request comes from it; "
                "give the public addresses of the clients, or set private: true"
            )
