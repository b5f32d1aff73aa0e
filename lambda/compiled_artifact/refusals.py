"""What EC2 means when it starts no host, and what is to be done about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from .aws import code_of, failure_of, is_transient, words_of
from .context import Context
from .errors import CapacityError, CompileError
from .log import emit
from .orders import HostChoice

__all__ = ["NEXT", "QUOTA", "Candidate", "Tried", "no_host", "refusal_of"]

QUOTA = "VcpuLimitExceeded"
_STEP = "start-host"
# What another zone, type or moment may mend, in words.
NEXT = {
    "InsufficientFreeAddressesInSubnet": "no free addresses in the subnet",
    "InsufficientHostCapacity": "no capacity",
    "InsufficientInstanceCapacity": "no capacity",
    "InsufficientReservedInstanceCapacity": "no capacity",
    "MaxSpotInstanceCountExceeded": "the Spot quota is used up",
    "SpotMaxPriceTooLow": "Spot costs more than on demand",
    "Unsupported": "not offered there",
    QUOTA: "the on-demand quota is used up",
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
# Codes that are the same in an hour.
_LASTING = {"Unsupported", "MaxSpotInstanceCountExceeded", QUOTA}
_LATER = "Try again later, add types to compile.instance_types of the environment, or use more zones"
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
class Candidate:
    """A type of host in a zone."""

    choice: HostChoice
    subnet: str


@dataclass(frozen=True)
class Tried:
    """A candidate that EC2 did not give."""

    candidate: Candidate
    code: str
    spot: bool


def refusal_of(error: ClientError, candidate: Candidate, *, spot: bool) -> CompileError:
    """Return the failure for a refusal that no other zone or type would mend."""
    code, instance_type = code_of(error), candidate.choice.instance_type
    if is_transient(error):
        return failure_of(_STEP, error)
    what = f"EC2 did not start {instance_type} in {candidate.subnet}"
    if code == QUOTA:
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


def no_host(context: Context, tried: Sequence[Tried], *, late: bool = False) -> CompileError:
    """Return the failure for a step that has asked for every host in vain, or (`late`) for as many as it had time for.

    `CapacityError` where a later try may find one.
    """
    zones, texts = _zones(context), []
    both = len({one.spot for one in tried}) > 1
    for spot in (True, False):
        rows: dict[str, list[str]] = {}
        for one in tried:
            if one.spot == spot:
                zone = zones.get(one.candidate.subnet, one.candidate.subnet)
                rows.setdefault(one.candidate.choice.instance_type, []).append(f"{zone}: {NEXT[one.code]}")
        text = "; ".join(f"{instance_type} ({', '.join(places)})" for instance_type, places in rows.items())
        if text:
            texts.append((("Spot: " if spot else "on demand: ") if both else "") + text)
    text, codes = "; ".join(texts), {one.code for one in tried}
    if late:
        return CapacityError(_STEP, f"no zone gave a host before the step's time was over: {text}", _LATER)
    if codes == {"Unsupported"}:
        remedy = "Choose zones or compile.instance_types of the environment so that one of them offers the other"
        return CompileError(_STEP, f"none of the environment's zones offers a host: {text}", remedy)
    if codes <= _LASTING:
        quotas = {
            _quota(one.candidate.choice.instance_type, spot=one.spot): None
            for one in tried
            if one.code != "Unsupported"
        }
        names = " or ".join(f"'{name}'" for name in quotas)
        return CompileError(_STEP, f"no host: {text}", f"Ask Service Quotas (Amazon EC2) for more of {names}")
    return CapacityError(_STEP, f"no zone has a host to give at the moment: {text}", _LATER)


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
