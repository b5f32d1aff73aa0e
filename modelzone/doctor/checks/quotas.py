"""Service quotas, looked up by their names: codes differ and are never written down here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from modelzone.doctor.checks.base import Context, Kind, Outcome
from modelzone.doctor.checks.usage import PERMISSIONS, usage
from modelzone.hardware import find_instance
from modelzone.resources import read_data

if TYPE_CHECKING:
    from modelzone.planning import EnvironmentPlan

__all__ = ["KINDS"]


_ALL_ENDPOINTS = "Number of instances across active endpoints"


class _Endpoints(NamedTuple):
    quota: str
    title: str
    # None: of any type
    instance_type: str | None
    instances: int
    largest: int


class _Hosts(NamedTuple):
    quota: str
    vcpus: int
    instance_type: str


def _endpoints(plan: EnvironmentPlan) -> Iterable[_Endpoints]:
    counts: dict[str, list[int]] = {}
    for deployment in plan.deployments:
        serving = deployment.serving
        counts.setdefault(serving.instance_type, []).append(serving.scaling.max_instances)
    for name, found in counts.items():
        yield _Endpoints(f"{name} for endpoint usage", f"quota of {name} endpoints", name, sum(found), max(found))
    every = [count for found in counts.values() for count in found]
    yield _Endpoints(_ALL_ENDPOINTS, "quota of all endpoints' instances", None, sum(every), max(every))


def _hosts(plan: EnvironmentPlan) -> Iterable[_Hosts]:
    """The largest compile host of each quota: hosts exist one at a time, while they compile.

    With Spot both count: the last attempt after interruptions is on demand.
    """
    bought = ("on-demand", "spot") if plan.environment.compile.purchase == "spot" else ("on-demand",)
    for purchase in bought:
        yield from _largest(plan, read_data("modelzone.doctor", "ec2_quotas.yaml")[purchase])


def _largest(plan: EnvironmentPlan, names: Mapping[str, str]) -> Iterable[_Hosts]:
    largest: dict[str, _Hosts] = {}
    for deployment in plan.deployments:
        if deployment.compile is None:
            continue
        instance = find_instance(deployment.compile.instance_type)
        letters = re.match(r"[a-z]+", deployment.compile.instance_type)
        quota = names.get(letters[0] if letters else "")
        if instance is None or quota is None:
            continue
        if quota not in largest or largest[quota].vcpus < instance.vcpus:
            largest[quota] = _Hosts(quota, instance.vcpus, instance.name)
    return largest.values()


def _limits(context: Context, service: str) -> dict[str, float]:
    """Quotas by name: the account's own values, and AWS's defaults where it has none."""

    def ask() -> dict[str, float]:
        client = context.client("service-quotas")
        found: dict[str, float] = {}
        for operation in ("list_aws_default_service_quotas", "list_service_quotas"):
            for page in client.get_paginator(operation).paginate(ServiceCode=service):
                found |= {quota["QuotaName"]: quota["Value"] for quota in page["Quotas"] if "Value" in quota}
        return found

    return context.once(f"quotas:{service}", ask)


def _unknown(quota: str) -> Outcome:
    return Outcome("warn", f'Service Quotas lists no "{quota}"', "look for the instance type in the console")


def _endpoint_quota(context: Context, item: _Endpoints) -> Outcome:
    limit = _limits(context, "sagemaker").get(item.quota)
    if limit is None:
        return _unknown(item.quota)
    used = usage(context)
    others = used.instances.get(item.instance_type, 0) if item.instance_type else sum(used.instances.values())
    during_update = item.instances + item.largest
    detail = f'"{item.quota}" is {limit:g}, at most {item.instances} run here, {during_update} during an update'
    detail += f"; {others} run in other endpoints now" if others else ""
    detail += f"; {used.uncounted}" if used.uncounted else ""
    ask = f'ask for {during_update + others} in Service Quotas, Amazon SageMaker, "{item.quota}"'
    if limit < item.instances + others:
        return Outcome("fail", detail, ask)
    if limit < during_update + others:
        return Outcome("warn", f"{detail}; an update starts the new instances beside the old ones", ask)
    return Outcome("ok", detail)


def _host_quota(context: Context, item: _Hosts) -> Outcome:
    limit = _limits(context, "ec2").get(item.quota)
    if limit is None:
        return _unknown(item.quota)
    detail = f'"{item.quota}" is {limit:g} vCPUs, a compile host {item.instance_type} has {item.vcpus}'
    if limit < item.vcpus:
        return Outcome("fail", detail, f'ask for {item.vcpus} in Service Quotas, Amazon EC2, "{item.quota}"')
    return Outcome("ok", detail)


_QUOTAS = ("servicequotas:ListServiceQuotas", "servicequotas:ListAWSDefaultServiceQuotas")
KINDS = (
    Kind(
        id="endpoint-quota",
        permissions=(*_QUOTAS, *PERMISSIONS),
        items=_endpoints,
        title=lambda item: item.title,
        run=_endpoint_quota,
        # SageMaker has thousands of quotas, a hundred to a page.
        seconds=120,
    ),
    Kind(
        id="compile-quota",
        permissions=_QUOTAS,
        items=_hosts,
        title=lambda item: f"quota of {item.instance_type} compile hosts",
        run=_host_quota,
        seconds=120,
    ),
)
