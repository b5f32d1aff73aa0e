"""Checks of an environment's gateway and tenants against one another and against its deployments."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from modelzone.errors import SettingsError

if TYPE_CHECKING:
    from modelzone.settings.access import Tenant
    from modelzone.settings.environment import Environment

__all__ = ["check_gateway"]

_QUOTAS = ("rate_limit_per_second", "burst_limit", "monthly_quota")
# API Gateway's lower bound for the value of an API key; every tenant's meter has one, see `gateway_keys.meter_key`.
_METER_CHARACTERS = 20
# API Gateway takes policies of 8192 bytes; the rest is for networks and the statements around.
_PRINCIPAL_BYTES = 5000


def check_gateway(environment: Environment, *, source: str) -> None:
    """Refuse names that lead nowhere, and settings that could never take effect.

    Raises
    ------
    SettingsError
        Names the first refused key.
    """
    for error in _errors(environment, source):
        raise error


def _errors(environment: Environment, source: str) -> Iterator[SettingsError]:
    def refuse(key: str, problem: str, fix: str) -> SettingsError:
        return SettingsError(source=source, key=key, problem=problem, fix=fix)

    gateway, deployments = environment.gateway, environment.deployments
    for alias, target in gateway.aliases.items():
        key = f"gateway.aliases.{alias}"
        if alias in deployments:
            yield refuse(key, f"{alias!r} is a deployment already", "choose another alias, or rename the deployment")
        if target not in deployments:
            yield refuse(key, f"there is no deployment {target!r}", _known(target, deployments))
    if gateway.default_model is not None and gateway.default_model not in deployments:
        name = gateway.default_model
        yield refuse("gateway.default_model", f"there is no deployment {name!r}", _known(name, deployments))
    yield from (refuse(*found) for found in _vpc_errors(environment))
    owners: dict[str, str] = {}
    for name, tenant in environment.access.tenants.items():
        key = f"access.tenants.{name}"
        for model in tenant.models:
            known = [*deployments, *gateway.aliases]
            if model not in known:
                yield refuse(f"{key}.models", f"there is no deployment or alias {model!r}", _known(model, known))
        yield from (refuse(*found) for found in _method_errors(environment, name, tenant, key))
        for principal in tenant.principals:
            if principal in owners:
                yield refuse(
                    f"{key}.principals",
                    f"{principal} is a principal of {owners[principal]} already",
                    "name it once: it says whose a request is",
                )
            owners[principal] = name
    if (size := sum(len(principal) + len('"",') for principal in owners)) > _PRINCIPAL_BYTES:
        yield refuse(
            "access.tenants",
            f"the principals of all tenants have {size} characters, more than the {_PRINCIPAL_BYTES} that fit into the "
            "API's policy",
            "let each tenant's callers assume one role",
        )


def _vpc_errors(environment: Environment) -> Iterator[tuple[str, str, str]]:
    """What the gateway needs of a VPC that is there already."""
    vpc, private = environment.network.existing_vpc, environment.gateway.private
    if vpc is None:
        return
    if vpc.execute_api_endpoint_id is not None and not private:
        yield (
            "network.existing_vpc.execute_api_endpoint_id",
            f"{vpc.execute_api_endpoint_id} is not used: the API is public",
            "leave it out, or set gateway.private: true",
        )
    if private and not vpc.create_endpoints and vpc.execute_api_endpoint_id is None:
        yield (
            "gateway.private",
            f"requests come through an endpoint of {vpc.vpc_id}, and it is not named",
            "give network.existing_vpc.execute_api_endpoint_id, the id of the VPC's endpoint for execute-api",
        )
    # A prefix list does not say whose addresses it holds, so they are counted.
    keeps_answers = any(deployment.cache.ttl_seconds for deployment in environment.deployments.values())
    if keeps_answers and len(set(vpc.prefix_list_ids)) == 1:
        yield (
            "network.existing_vpc.prefix_list_ids",
            f"names {vpc.prefix_list_ids[0]} only, and kept answers need DynamoDB beside S3",
            "name the prefix lists of both (aws ec2 describe-managed-prefix-lists), or none",
        )


def _method_errors(environment: Environment, name: str, tenant: Tenant, key: str) -> Iterator[tuple[str, str, str]]:
    """What belongs to another way of access, and limits that would never be reached."""
    method, gateway = environment.access.method, environment.gateway
    for field in _QUOTAS:
        limit = getattr(tenant, field)
        if limit is not None and method != "keys":
            yield (
                f"{key}.{field}",
                f"{limit} cannot be held: usage plans need access by keys, and access.method is {method}",
                "leave it out, or set access.method: keys",
            )
    for field in ("rate_limit_per_second", "burst_limit"):
        limit, most = getattr(tenant, field), getattr(gateway, field)
        if limit is not None and limit > most:
            yield (
                f"{key}.{field}",
                f"{limit} is more than gateway.{field}, {most}, which holds for the API as a whole",
                f"use at most {most}, or raise gateway.{field}",
            )
    if tenant.principals and method != "iam":
        yield (
            f"{key}.principals",
            f"{tenant.principals[0]} would not be asked for: access.method is {method}",
            "leave principals out, or set access.method: iam",
        )
    if not tenant.principals and method == "iam":
        yield (
            f"{key}.principals",
            "is empty, and with access.method iam nobody could be this tenant",
            "name the tenant's roles and users by their ARNs",
        )
    if method == "keys" and len(meter := f"modelzone.{environment.name}.meter.{name}") < _METER_CHARACTERS:
        yield (key, f"{meter!r} is too short for an API key of API Gateway", "give the tenant a longer name")


def _known(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"known: {', '.join(names)}"
