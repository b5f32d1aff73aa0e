"""The step that starts a host: each type in each zone, until one is given."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from . import hosts
from .aws import code_of, failure_of, is_transient, words_of
from .context import MAX_ATTEMPTS, Context, State, iso, moment
from .errors import CapacityError, CompileError
from .log import emit
from .orders import CompileOrder, HostChoice

__all__ = ["start_host"]

_STEP = "start-host"
# Waiting for capacity takes from the time before the tag's end, which must stay the same in every try: EC2 refuses the
# same token with other tags.
_CAPACITY_WAIT = timedelta(hours=1)
_TERMINATED = ("shutting-down", "terminated")
# What another zone or another type may mend, in words.
_NEXT = {
    "InsufficientFreeAddressesInSubnet": "no free addresses in the subnet",
    "InsufficientHostCapacity": "no capacity",
    "InsufficientInstanceCapacity": "no capacity",
    "InsufficientReservedInstanceCapacity": "no capacity",
    "MaxSpotInstanceCountExceeded": "the Spot quota is used up",
    "SpotMaxPriceTooLow": "Spot costs more than on demand",
    "Unsupported": "not offered there",
}
# Families by the letters that their names begin with, as quotas are named.
_QUOTAS = {
    "inf": ("Running On-Demand Inf instances", "All Inf Spot Instance Requests"),
    "trn": ("Running On-Demand Trn instances", "All Trn Spot Instance Requests"),
    "g": ("Running On-Demand G and VT instances", "All G and VT Spot Instance Requests"),
    "p": ("Running On-Demand P instances", "All P Spot Instance Requests"),
}
_STANDARD_QUOTAS = (
    "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
    "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
)
_DEPLOY = "Deploy the compile stack again"
_REMEDIES = {
    "BlockedAccount": "Ask AWS Support why the account may start no instances",
    "InvalidSubnetID.NotFound": "The network was changed: deploy the network and the compile stack again",
    "InvalidLaunchTemplateId.NotFound": _DEPLOY,
    "InvalidLaunchTemplateId.VersionNotFound": _DEPLOY,
    "InvalidLaunchTemplateName.NotFoundException": _DEPLOY,
    "InvalidAMIID.NotFound": "Choose another AMI parameter in modelzone/hardware/data, then deploy the compile stack",
    "OptInRequired": "Subscribe the account to EC2",
    "PendingVerification": "AWS is still verifying the account: try again in some hours",
}


@dataclass(frozen=True)
class _Candidate:
    choice: HostChoice
    subnet: str


@dataclass(frozen=True)
class _Tried:
    candidate: _Candidate
    code: str


def start_host(context: Context, state: State) -> State:
    """Start a host for the job, or take over the one that an interrupted try of this step has started.

    Raises
    ------
    CapacityError
        No zone has one at the moment: worth another try later.
    CompileError
        EC2 refused for another reason.
    """
    order = CompileOrder.parse(state["order"])
    attempt = int((state.get("host") or {}).get("attempt", 0)) + 1
    if attempt > MAX_ATTEMPTS:
        raise CompileError(_STEP, f"{MAX_ATTEMPTS} hosts were tried", "Start the compilation again")
    # The last host must stay, whatever it costs.
    spot = order.purchase == "spot" and attempt < MAX_ATTEMPTS
    tags = {hosts.EXECUTION_TAG: context.execution.name, hosts.ATTEMPT_TAG: str(attempt)}
    running = hosts.find(context, tags, states=hosts.LIVE)
    if running:
        instance = running[0]
        emit(_STEP, taken_over=instance["InstanceId"])
    else:
        ended = len(hosts.find(context, tags, states=_TERMINATED))
        instance = _launch(context, state, order, attempt=attempt, spot=spot, salt=str(ended))
    instance_type = instance["InstanceType"]
    devices = next((one.devices for one in order.choices(state["job"]) if one.instance_type == instance_type), 0)
    started = hosts.launched(instance) or context.now()
    host = {
        "instance_id": instance["InstanceId"],
        "instance_type": instance_type,
        "subnet_id": instance.get("SubnetId", ""),
        "purchase": "spot" if spot else "on-demand",
        "attempt": attempt,
        "launched": iso(started),
    }
    # What was known of another host does not hold for this one.
    return {
        **{
            name: value for name, value in state.items() if name not in {"command_id", "metered", "lost_polls", "heard"}
        },
        "job": {**state["job"], "devices": devices},
        "host": host,
        "agent": "pending",
        "run": "pending",
        "polls": 0,
    }


def _launch(
    context: Context, state: State, order: CompileOrder, *, attempt: int, spot: bool, salt: str
) -> dict[str, Any]:
    tried: list[_Tried] = []
    subnets = context.settings.subnets
    for candidate in [_Candidate(choice, subnet) for choice in order.choices(state["job"]) for subnet in subnets]:
        request = _request(context, state, order, candidate, attempt=attempt, spot=spot, salt=salt)
        try:
            (instance,) = context.clients.ec2_once.run_instances(**request)["Instances"]
        except ClientError as error:
            if code_of(error) not in _NEXT:
                raise _refused(error, candidate, spot=spot) from error
            tried.append(_Tried(candidate, code_of(error)))
            emit(_STEP, refused=candidate.choice.instance_type, subnet=candidate.subnet, why=words_of(error))
            continue
        except BotoCoreError as error:
            raise failure_of(_STEP, error) from error
        if not hosts.is_live(instance):
            # The same token brings back the host of an earlier try, even one that has ended.
            tried.append(_Tried(candidate, "InsufficientInstanceCapacity"))
            continue
        return dict(instance)
    raise _no_host(context, tried, spot=spot)


def _request(
    context: Context,
    state: State,
    order: CompileOrder,
    candidate: _Candidate,
    *,
    attempt: int,
    spot: bool,
    salt: str,
) -> dict[str, Any]:
    instance_type = candidate.choice.instance_type
    identity = (context.execution.name, str(attempt), salt, instance_type, candidate.subnet, str(spot))
    base = moment(state.get("stopped_at")) or moment(context.execution.start) or context.now()
    tags = {
        hosts.ENVIRONMENT_TAG: context.settings.environment,
        hosts.ROLE_TAG: hosts.COMPILE_HOST,
        hosts.EXECUTION_TAG: context.execution.name,
        hosts.ATTEMPT_TAG: str(attempt),
        hosts.DEPLOYMENT_TAG: order.deployment,
        hosts.UNTIL_TAG: iso(base + timedelta(hours=order.max_hours) + _CAPACITY_WAIT),
        "Name": f"modelzone-{context.settings.environment}-compile-{order.deployment}",
    }
    listed = [{"Key": name, "Value": value} for name, value in tags.items()]
    request: dict[str, Any] = {
        "LaunchTemplate": {"LaunchTemplateId": order.launch_template, "Version": order.launch_template_version},
        "InstanceType": instance_type,
        "SubnetId": candidate.subnet,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": hashlib.sha256("\0".join(identity).encode()).hexdigest(),
        "TagSpecifications": [{"ResourceType": kind, "Tags": listed} for kind in ("instance", "volume")],
    }
    if spot:
        request["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    return request


def _refused(error: ClientError, candidate: _Candidate, *, spot: bool) -> CompileError:
    """The failure for a refusal that no other zone or type would mend."""
    code, instance_type = code_of(error), candidate.choice.instance_type
    if is_transient(error):
        return failure_of(_STEP, error)
    what = f"EC2 did not start {instance_type} in {candidate.subnet}"
    if code == "VcpuLimitExceeded":
        remedy = f"Ask Service Quotas (Amazon EC2) for more vCPUs of '{_quota(instance_type, spot=spot)}'"
        return CompileError(_STEP, f"{what}: the account's quota is used up ({words_of(error)})", remedy)
    if code == "UnauthorizedOperation":
        remedy = (
            "Allow the role of the compile steps ec2:RunInstances with the launch template, ec2:CreateTags, and "
            "iam:PassRole of the host's role; the stack's own policy does"
        )
        return CompileError(_STEP, f"{what}: a permission is missing ({words_of(error)})", remedy)
    if code == "IdempotentParameterMismatch":
        remedy = "The compile stack was changed meanwhile: start the compilation again"
        return CompileError(_STEP, f"{what}: {words_of(error)}", remedy)
    return CompileError(_STEP, f"{what}: {words_of(error)}", _REMEDIES.get(code, _DEPLOY + ", then try again"))


def _no_host(context: Context, tried: list[_Tried], *, spot: bool) -> CompileError:
    zones = _zones(context)
    rows: dict[str, list[str]] = {}
    for one in tried:
        zone = zones.get(one.candidate.subnet, one.candidate.subnet)
        rows.setdefault(one.candidate.choice.instance_type, []).append(f"{zone}: {_NEXT[one.code]}")
    text = "; ".join(f"{instance_type} ({', '.join(places)})" for instance_type, places in rows.items())
    kind = "Spot host" if spot else "host"
    codes = {one.code for one in tried}
    if codes == {"Unsupported"}:
        remedy = "Choose zones or compile.instance_types of the environment so that one of them offers the other"
        return CompileError(_STEP, f"none of the environment's zones offers a {kind}: {text}", remedy)
    if codes == {"MaxSpotInstanceCountExceeded"}:
        quota = _quota(tried[0].candidate.choice.instance_type, spot=True)
        remedy = f"Ask Service Quotas (Amazon EC2) for more of '{quota}', or set compile.purchase to on-demand"
        return CompileError(_STEP, f"no {kind}: {text}", remedy)
    remedy = "Try again later, add types to compile.instance_types of the environment, or use more zones"
    if spot:
        remedy += "; on-demand hosts (compile.purchase) are given first"
    return CapacityError(_STEP, f"no zone has a {kind} to give at the moment: {text}", remedy)


def _zones(context: Context) -> dict[str, str]:
    """Zones of the subnets; nobody knows subnets by their ids."""
    try:
        found = context.clients.ec2.describe_subnets(SubnetIds=list(context.settings.subnets))
    except (ClientError, BotoCoreError) as error:
        emit("warning", what="subnets", why=str(error))
        return {}
    return {row["SubnetId"]: row["AvailabilityZone"] for row in found.get("Subnets", ())}


def _quota(instance_type: str, *, spot: bool) -> str:
    family = re.match("[a-z]*", instance_type)
    on_demand, requests = _QUOTAS.get(family[0] if family else "", _STANDARD_QUOTAS)
    return requests if spot else on_demand
