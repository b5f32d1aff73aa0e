"""EC2 instances that are hosts: RunInstances with a launch template, their end, and what describes them.

MiniStack keeps the records of instances; it knows no launch templates, Spot or capacity when it runs them.
"""

from __future__ import annotations

import re
import time
import xml.sax.saxutils
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError
from ministack.core.responses import get_account_id, get_region
from ministack.services import ec2

from modelzone.local.emulator import seams
from modelzone.local.emulator.bridge import HandlerResponse, client
from modelzone.local.emulator.hosts import EmulatedHost, Hosts, Launch

__all__ = ["LaunchRequest", "install", "merged"]

Parameters = dict[str, Any]
Document = Mapping[str, Any]

_DEFAULT_DISK_GIB = 8
_STATE_CODES = {"stopped": 80, "terminated": 48}
_USER_INITIATED = "User initiated"
_REASON_OF_USER = "Client.UserInitiatedShutdown: User initiated shutdown"
_INSTANCE_ID = re.compile(r"<instanceId>(i-[0-9a-f]+)</instanceId>")
_RESOLVED_BY_SSM = "resolve:ssm:"
_MAX_TOKENS = 10_000
_ATTRIBUTES_IN_FILTERS: dict[str, Callable[[Document], Any]] = {
    "instance-id": lambda instance: instance["InstanceId"],
    "subnet-id": lambda instance: instance["SubnetId"],
    "vpc-id": lambda instance: instance["VpcId"],
    "availability-zone": lambda instance: instance["Placement"]["AvailabilityZone"],
    "instance-lifecycle": lambda instance: instance.get("_lifecycle"),
    "client-token": lambda instance: instance.get("_client_token"),
    "instance-state-code": lambda instance: str(instance["State"]["Code"]),
}


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """What RunInstances was asked for: the request's own values before the template's."""

    image_id: str
    instance_type: str
    subnet_id: str
    security_groups: tuple[str, ...]
    profile: Mapping[str, str] = field(default_factory=dict)
    user_data: str = ""
    key_name: str = ""
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    disk_gib: int = _DEFAULT_DISK_GIB
    spot: bool = False
    shutdown_terminates: bool = False
    client_token: str = ""
    minimum: int = 1
    maximum: int = 1
    template: Mapping[str, str] = field(default_factory=dict)


def _first(parameters: Parameters, name: str) -> str:
    value = parameters.get(name, "")
    return str(value[0] if isinstance(value, list) and value else value or "")


def _listed(parameters: Parameters, prefix: str) -> list[str]:
    names = sorted(
        (name for name in parameters if re.fullmatch(rf"{re.escape(prefix)}\.\d+", name)),
        key=lambda name: int(name.rpartition(".")[2]),
    )
    return [_first(parameters, name) for name in names]


def _tags_of_request(parameters: Parameters) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    number = 1
    while kind := _first(parameters, f"TagSpecification.{number}.ResourceType"):
        tags = found.setdefault(kind, {})
        tag = 1
        while key := _first(parameters, f"TagSpecification.{number}.Tag.{tag}.Key"):
            tags[key] = _first(parameters, f"TagSpecification.{number}.Tag.{tag}.Value")
            tag += 1
        number += 1
    return found


def _disk_of_request(parameters: Parameters) -> int:
    sizes = [
        int(_first(parameters, name))
        for name in parameters
        if re.fullmatch(r"BlockDeviceMapping\.\d+\.Ebs\.VolumeSize", name)
    ]
    return max(sizes, default=0)


def merged(parameters: Parameters, data: Document, template: Mapping[str, str]) -> LaunchRequest:
    """Put a request and the data of its launch template together as EC2 does: values replace, tags are merged."""
    tags = {
        spec["ResourceType"]: {str(tag["Key"]): str(tag.get("Value", "")) for tag in spec.get("Tags") or []}
        for spec in data.get("TagSpecifications") or []
    }
    for kind, given in _tags_of_request(parameters).items():
        tags[kind] = {**tags.get(kind, {}), **given}
    interface: Document = next(iter(data.get("NetworkInterfaces") or []), {})
    groups = (
        _listed(parameters, "SecurityGroupId")
        or _listed(parameters, "NetworkInterface.1.SecurityGroupId")
        or data.get("SecurityGroupIds")
        or interface.get("Groups")
        or []
    )
    disks = [
        int((mapping.get("Ebs") or {}).get("VolumeSize") or 0) for mapping in data.get("BlockDeviceMappings") or []
    ]
    profile = {
        name: value for name in ("Arn", "Name") if (value := _first(parameters, f"IamInstanceProfile.{name}"))
    } or {name: str(value) for name, value in (data.get("IamInstanceProfile") or {}).items()}
    market = _first(parameters, "InstanceMarketOptions.MarketType") or (data.get("InstanceMarketOptions") or {}).get(
        "MarketType"
    )
    behaviour = _first(parameters, "InstanceInitiatedShutdownBehavior") or data.get(
        "InstanceInitiatedShutdownBehavior", "stop"
    )
    return LaunchRequest(
        image_id=_first(parameters, "ImageId") or str(data.get("ImageId", "")),
        instance_type=_first(parameters, "InstanceType") or str(data.get("InstanceType", "")) or "t2.micro",
        subnet_id=_first(parameters, "SubnetId")
        or _first(parameters, "NetworkInterface.1.SubnetId")
        or str(interface.get("SubnetId", "")),
        security_groups=tuple(str(group) for group in groups),
        profile=profile,
        user_data=_first(parameters, "UserData") or str(data.get("UserData", "")),
        key_name=_first(parameters, "KeyName") or str(data.get("KeyName", "")),
        tags=tags,
        disk_gib=_disk_of_request(parameters) or max([_DEFAULT_DISK_GIB, *disks]),
        spot=market == "spot",
        shutdown_terminates=behaviour == "terminate",
        client_token=_first(parameters, "ClientToken"),
        minimum=int(_first(parameters, "MinCount") or 1),
        maximum=int(_first(parameters, "MaxCount") or 1),
        template=template,
    )


def _refuse(code: str, message: str, status: int = 400) -> HandlerResponse:
    refused: HandlerResponse = seams.attribute(ec2, "_error")(code, xml.sax.saxutils.escape(message), status)
    return refused


class _Instances:
    """The handlers that take MiniStack's place."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        # (account, region, token): what was asked for, and the instances that were started.
        self._tokens: dict[tuple[str, str, str], tuple[LaunchRequest, list[str]]] = {}
        hosts.on_end.append(self._ended)
        actions = seams.attribute(ec2, "_ACTION_MAP")
        self._run_original, self._terminate_original = actions["RunInstances"], actions["TerminateInstances"]
        self._stop_original = actions["StopInstances"]
        actions.update(RunInstances=self.run, TerminateInstances=self.terminate, StopInstances=self.stop)
        self._describe_one = seams.replace(ec2, "_instance_xml", self._xml)
        self._matches_original = seams.replace(ec2, "_matches_filters", self._matches)
        # A terminated instance stays describable for an hour on AWS; one run of the emulator is not longer.
        seams.replace(ec2, "_cleanup_terminated", lambda: None)

    @property
    def _records(self) -> Any:
        return seams.attribute(ec2, "_instances")

    def run(self, parameters: Parameters) -> HandlerResponse:
        """RunInstances."""
        named = {
            key: value
            for key in ("LaunchTemplateId", "LaunchTemplateName", "Version")
            if (value := _first(parameters, f"LaunchTemplate.{key}"))
        }
        data: Document = {}
        if named:
            data, template, error = seams.attribute(ec2, "_resolve_launch_template_data")(named)
            if error is not None:
                refused: HandlerResponse = error
                return refused
            version = named.get("Version", "$Default")
            numbers = {str(known["VersionNumber"]) for known in template["Versions"]}
            if not version.startswith("$") and version not in numbers:
                return _refuse(
                    "InvalidLaunchTemplateId.VersionNotFound",
                    f"Could not find the specified version {version} for the launch template with ID "
                    f"{template['LaunchTemplateId']}.",
                )
            newest = {"$Default": "DefaultVersionNumber", "$Latest": "LatestVersionNumber"}
            number = str(template[newest[version]]) if version in newest else version
            named = {"id": template["LaunchTemplateId"], "version": number}
        request = merged(parameters, data, named)
        return self._launch(request)

    def _launch(self, request: LaunchRequest) -> HandlerResponse:
        token = (get_account_id(), get_region(), request.client_token)
        if request.client_token and token in self._tokens:
            earlier, started = self._tokens[token]
            if earlier == request:
                return self._answer(started)
            return _refuse(
                "IdempotentParameterMismatch",
                "The request uses the same client token as a previous, but non-identical request.",
            )
        subnets = seams.attribute(ec2, "_subnets")
        zone = (subnets.get(request.subnet_id) or {}).get("AvailabilityZone") or f"{get_region()}a"
        if request.subnet_id and request.subnet_id not in subnets:
            return _refuse("InvalidSubnetID.NotFound", f"The subnet ID '{request.subnet_id}' does not exist")
        return self._start(request, zone, token)

    def _start(self, request: LaunchRequest, zone: str, token: tuple[str, str, str]) -> HandlerResponse:
        if self._hosts.faults().lacks_capacity(subnet_id=request.subnet_id, instance_type=request.instance_type):
            return self._no_capacity(request, zone)
        try:
            image = self._image(request.image_id)
        except ClientError as error:
            return _refuse("InvalidParameterValue", f"{request.image_id}: {error}")
        answer = self._run_original(
            {
                "ImageId": [image],
                "InstanceType": [request.instance_type],
                "MinCount": [str(request.minimum)],
                "MaxCount": [str(request.maximum)],
                "KeyName": [request.key_name],
                "UserData": [request.user_data],
                **({"SubnetId": [request.subnet_id]} if request.subnet_id else {}),
                **{f"SecurityGroupId.{n}": [group] for n, group in enumerate(request.security_groups, 1)},
                **{f"IamInstanceProfile.{name}": [value] for name, value in request.profile.items()},
            }
        )
        if answer[0] >= 400:  # noqa: PLR2004
            refused: HandlerResponse = answer
            return refused
        started = list(dict.fromkeys(_INSTANCE_ID.findall(answer[2].decode())))
        for instance_id in started:
            self._complete(instance_id, request, zone)
        if request.client_token:
            if len(self._tokens) >= _MAX_TOKENS:
                self._tokens.clear()
            self._tokens[token] = (request, started)
        return self._answer(started)

    @staticmethod
    def _image(image_id: str) -> str:
        """An image id, also where the template names a public parameter that is read at launch."""
        if not image_id.startswith(_RESOLVED_BY_SSM):
            return image_id
        name = image_id.removeprefix(_RESOLVED_BY_SSM)
        value: str = client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
        return value

    @staticmethod
    def _no_capacity(request: LaunchRequest, zone: str) -> HandlerResponse:
        if request.spot:
            return _refuse(
                "InsufficientInstanceCapacity",
                f"There is no Spot capacity available that matches your request ({request.instance_type} in {zone}).",
                500,
            )
        zones = {subnet["AvailabilityZone"] for subnet in seams.attribute(ec2, "_subnets").values()}
        others = ", ".join(sorted(zones - {zone})) or "another Availability Zone"
        return _refuse(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient {request.instance_type} capacity in the Availability Zone you "
            f"requested ({zone}). Our system will be working on provisioning additional capacity. You can currently "
            f"get {request.instance_type} capacity by not specifying an Availability Zone in your request or choosing "
            f"{others}.",
            500,
        )

    def _complete(self, instance_id: str, request: LaunchRequest, zone: str) -> None:
        record = self._records[instance_id]
        record["Placement"] = {**record["Placement"], "AvailabilityZone": zone}
        record["_lifecycle"] = "spot" if request.spot else None
        record["_client_token"] = request.client_token
        tags = seams.attribute(ec2, "_tags")
        own = dict(request.tags.get("instance", {}))
        if request.template:
            own |= {
                "aws:ec2launchtemplate:id": request.template["id"],
                "aws:ec2launchtemplate:version": request.template["version"],
            }
        tags[instance_id] = [{"Key": key, "Value": value} for key, value in own.items()]
        volumes = seams.attribute(ec2, "_volumes")
        for mapping in record["BlockDeviceMappings"]:
            volume = mapping["Ebs"]["VolumeId"]
            volumes[volume]["Size"] = request.disk_gib
            volumes[volume]["AvailabilityZone"] = zone
            tags[volume] = [{"Key": key, "Value": value} for key, value in request.tags.get("volume", {}).items()]
        self._hosts.start(
            Launch(
                instance_id=instance_id,
                instance_type=request.instance_type,
                account=get_account_id(),
                region=get_region(),
                disk_gib=request.disk_gib,
                spot=request.spot,
                shutdown_terminates=request.shutdown_terminates,
                tags=own,
            )
        )

    def _answer(self, instance_ids: list[str]) -> HandlerResponse:
        items = "".join(self._xml(self._records[instance_id]) for instance_id in instance_ids)
        answered: HandlerResponse = seams.attribute(ec2, "_xml")(
            200,
            "RunInstancesResponse",
            f"<instancesSet>{items}</instancesSet><reservationId>r-{instance_ids[0][2:]}</reservationId>"
            f"<ownerId>{get_account_id()}</ownerId><groupSet/>",
        )
        return answered

    def terminate(self, parameters: Parameters) -> HandlerResponse:
        """TerminateInstances; what runs on the hosts is gone when it answers."""
        answer: HandlerResponse = self._terminate_original(parameters)
        if answer[0] < 400:  # noqa: PLR2004
            for instance_id in _listed(parameters, "InstanceId"):
                self._hosts.end(instance_id, state="terminated", reason=_REASON_OF_USER)
                self._forget_volumes(instance_id)
        return answer

    def stop(self, parameters: Parameters) -> HandlerResponse:
        """StopInstances."""
        answer: HandlerResponse = self._stop_original(parameters)
        if answer[0] < 400:  # noqa: PLR2004
            for instance_id in _listed(parameters, "InstanceId"):
                self._hosts.end(instance_id, state="stopped", reason=_REASON_OF_USER)
        return answer

    def _ended(self, host: EmulatedHost, state: str, reason: str) -> None:
        """A host has ended, by itself or because somebody asked: its record follows."""
        launch = host.launch
        record = self._records.get_scoped(launch.account, launch.region, launch.instance_id)
        if record is not None:
            record["State"] = {"Code": _STATE_CODES[state], "Name": state}
            record["_reason"] = reason
            record["_terminated_at"] = time.time()

    def _forget_volumes(self, instance_id: str) -> None:
        volumes = seams.attribute(ec2, "_volumes")
        for mapping in self._records[instance_id].get("BlockDeviceMappings", []):
            if mapping["Ebs"].get("DeleteOnTermination"):
                volumes.pop(mapping["Ebs"]["VolumeId"], None)

    def _xml(self, record: Document) -> str:
        described: str = self._describe_one(record)
        more = ""
        if record.get("_lifecycle"):
            more += f"<instanceLifecycle>{record['_lifecycle']}</instanceLifecycle>"
        if record.get("_client_token"):
            more += f"<clientToken>{xml.sax.saxutils.escape(record['_client_token'])}</clientToken>"
        reason = record.get("_reason")
        if reason:
            code, _, _ = reason.partition(":")
            more += f"<reason>{_USER_INITIATED if 'User' in code else reason}</reason>"
            more += f"<stateReason><code>{code}</code><message>{reason}</message></stateReason>"
        head, end, _ = described.rpartition("</item>")
        return head + more + end

    def _matches(self, record: Document, filters: Mapping[str, list[str]]) -> bool:
        if not self._matches_original(record, filters):
            return False
        return all(
            _ATTRIBUTES_IN_FILTERS[name](record) in values
            for name, values in filters.items()
            if name in _ATTRIBUTES_IN_FILTERS
        )


def install(*, hosts: Hosts) -> None:
    """Put the handlers into MiniStack's EC2."""
    _Instances(hosts)
