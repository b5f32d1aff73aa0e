"""Hosts on EC2, found by their tags: those that compile, and debugging hosts that an operator keeps for some hours."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from modelzone.compiling.aws import aws_errors, code_of
from modelzone.errors import ModelzoneError
from modelzone.hosts import (
    COMPILE_HOST,
    DEBUG_HOST,
    ENVIRONMENT_TAG,
    EXECUTION_TAG,
    ROLE_TAG,
    UNTIL_TAG,
    debug_host_tags,
    lifetime_user_data,
)
from modelzone.prices import instance_price

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

__all__ = [
    "Host",
    "connect_command",
    "hosts_of",
    "hosts_of_execution",
    "start_debug_host",
    "terminate",
    "usd_so_far",
    "wait_until_gone",
]

GONE = {"terminated", "shutting-down"}
# In these another zone or type may do better; everything else fails everywhere. Those of the compile steps.
NO_CAPACITY = {
    "InsufficientFreeAddressesInSubnet",
    "InsufficientHostCapacity",
    "InsufficientInstanceCapacity",
    "InsufficientReservedInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "Unsupported",
    "VcpuLimitExceeded",
}
_ENDED_AT = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) GMT\)")


@dataclass(frozen=True, kw_only=True)
class Host:
    """One EC2 instance of this project. `ended` is None while it is paid for."""

    instance_id: str
    instance_type: str
    zone: str
    purchase: str
    state: str
    launched: datetime
    ended: datetime | None
    environment: str
    role: str
    execution: str
    until: str
    name: str

    @property
    def gone(self) -> bool:
        """Whether it has been ended."""
        return self.state in GONE

    def usd_per_hour(self, region: str) -> float | None:
        """The on-demand price; Spot is charged less."""
        price = instance_price(self.instance_type, region=region)
        return price.usd if price else None


def hosts_of(ec2: EC2Client, *, environment: str) -> list[Host]:
    """Hosts of an environment that were not ended."""
    return [
        host
        for host in _find(ec2, {f"tag:{ENVIRONMENT_TAG}": [environment], f"tag:{ROLE_TAG}": [COMPILE_HOST, DEBUG_HOST]})
        if not host.gone
    ]


def hosts_of_execution(ec2: EC2Client, execution: str) -> list[Host]:
    """Every host of a compilation that EC2 still knows, the youngest last; those that ended stay for an hour or so."""
    return _find(ec2, {f"tag:{EXECUTION_TAG}": [execution]})


def usd_so_far(hosts: Sequence[Host], *, region: str, now: datetime) -> float | None:
    """What hosts have cost, at on-demand prices; None when a price or an end is unknown, or there are no hosts."""
    total = 0.0
    for host in hosts:
        price = host.usd_per_hour(region)
        end = host.ended or (None if host.state == "terminated" else now)
        if price is None or end is None:
            return None
        total += price * max(0.0, (end - host.launched).total_seconds()) / 3600
    return total if hosts else None


def wait_until_gone(
    ec2: EC2Client,
    execution: str,
    *,
    grace: float = 90.0,
    limit: float = 420.0,
    interval: float = 5.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[Host]:
    """Wait until a cancelled compilation has no host any more; returns its hosts.

    After `grace` seconds it ends them itself: the environment's clean-up should have done so.

    Raises
    ------
    ModelzoneError
        One is still there after `limit` seconds.
    """
    started, ended_here = clock(), False
    while True:
        hosts = hosts_of_execution(ec2, execution)
        left = [host.instance_id for host in hosts if not host.gone]
        waited = clock() - started
        # A host that was just asked for shows up a moment later.
        if not left and (hosts or waited >= 2 * interval):
            return hosts
        if waited > limit:
            raise ModelzoneError(
                f"compilation {execution} is cancelled, and {', '.join(left)} still runs\n"
                f"  fix: aws ec2 terminate-instances --instance-ids {' '.join(left)}"
            )
        if left and waited > grace and not ended_here:
            terminate(ec2, left)
            ended_here = True
        sleep(interval)


def terminate(ec2: EC2Client, instance_ids: Sequence[str]) -> None:
    """End hosts."""
    with aws_errors(f"ending {', '.join(instance_ids)}"):
        ec2.terminate_instances(InstanceIds=list(instance_ids))


def start_debug_host(
    ec2: EC2Client,
    *,
    environment: str,
    deployment: str,
    order: Mapping[str, Any],
    subnets: Sequence[str],
    hours: int,
    now: datetime,
) -> Host:
    """Start a debugging host from the launch template of compile hosts, in the first place that has one.

    It has no key pair and no public address, ends itself after its hours, and its tags say until when.

    Raises
    ------
    ModelzoneError
        No subnet has any of the types, or EC2 refuses.
    """
    template = order["launch_template"]
    tags = debug_host_tags(environment=environment, deployment=deployment, hours=hours, now=now)
    tag_list: Any = [{"Key": name, "Value": value} for name, value in tags.items()]
    refused = []
    for instance_type in dict.fromkeys(choice["instance_type"] for choice in order["hosts"]):
        for subnet in subnets:
            asked: Any = {
                "LaunchTemplate": {"LaunchTemplateId": template["id"], "Version": str(template["version"])},
                "InstanceType": instance_type,
                "SubnetId": subnet,
                "UserData": lifetime_user_data(hours),
                "TagSpecifications": [{"ResourceType": kind, "Tags": tag_list} for kind in ("instance", "volume")],
            }
            with aws_errors(f"starting a {instance_type} in {subnet}"):
                try:
                    answer = ec2.run_instances(MinCount=1, MaxCount=1, **asked)
                except ClientError as error:
                    if code_of(error) not in NO_CAPACITY:
                        raise
                    refused.append(f"{instance_type} in {subnet}: {code_of(error)}")
                    continue
            # The answer may lack the tags.
            return _host({**answer["Instances"][0], "Tags": tag_list})
    raise ModelzoneError(
        f"no host could be started: {'; '.join(refused) or 'the order names no host or there is no subnet'}\n"
        "  fix: try again later, name other types in compile.instance_types and deploy CompileStack, or raise the quota"
    )


def connect_command(
    instance_id: str, *, aws: Sequence[str], port: int | None = None, local_port: int | None = None
) -> list[str]:
    """The command that opens a session on a host, or forwards a port of it to this machine.

    Parameters
    ----------
    aws
        How the AWS CLI is called: ``aws --region us-east-1``.
    """
    command = [*aws, "ssm", "start-session", "--target", instance_id]
    if port is None:
        return command
    ports = {"portNumber": [str(port)], "localPortNumber": [str(local_port or port)]}
    return [*command, "--document-name", "AWS-StartPortForwardingSession", "--parameters", json.dumps(ports)]


def _find(ec2: EC2Client, filters: Mapping[str, list[str]]) -> list[Host]:
    asked: Any = [{"Name": name, "Values": values} for name, values in filters.items()]
    with aws_errors("looking for hosts"):
        pages: Any = ec2.get_paginator("describe_instances").paginate(Filters=asked)
        found = [
            _host(instance)
            for page in pages
            for reservation in page["Reservations"]
            for instance in reservation["Instances"]
        ]
    return sorted(found, key=lambda host: (host.launched, host.instance_id))


def _host(instance: Mapping[str, Any]) -> Host:
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", ())}
    ended = _ENDED_AT.search(instance.get("StateTransitionReason", ""))
    state = instance["State"]["Name"]
    return Host(
        instance_id=instance["InstanceId"],
        instance_type=instance.get("InstanceType", ""),
        zone=instance.get("Placement", {}).get("AvailabilityZone", ""),
        purchase=instance.get("InstanceLifecycle", "on-demand"),
        state=state,
        launched=instance["LaunchTime"],
        ended=datetime.strptime(ended[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        if ended and state in {*GONE, "stopped"}
        else None,
        environment=tags.get(ENVIRONMENT_TAG, ""),
        role=tags.get(ROLE_TAG, ""),
        execution=tags.get(EXECUTION_TAG, ""),
        until=tags.get(UNTIL_TAG, ""),
        name=tags.get("Name", ""),
    )
