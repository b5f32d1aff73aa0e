"""CloudFormation resource types that MiniStack lacks, as a table over boto3."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError
from ministack.core.responses import get_account_id, get_region
from ministack.services.cloudformation import provisioners, stacks

from modelzone.local.emulator import seams
from modelzone.local.emulator.bridge import client
from modelzone.local.emulator.sagemaker_hosting import EndpointKey, EndpointStatus, ModelHosting

__all__ = ["ResourceType", "install", "register", "resource_types"]

Properties = dict[str, Any]
Created = tuple[str, Properties]
"""Physical id (what ``Ref`` gives) and attributes (what ``Fn::GetAtt`` gives)."""

_GONE = re.compile(r"not ?found|does not exist|could not find", re.IGNORECASE)
_SAGEMAKER_NAME_LENGTH = 63
_DOCUMENT_NAME_LENGTH = 128


@dataclass(frozen=True, kw_only=True)
class ResourceType:
    """How one type is created, updated in place and deleted.

    ``create_only`` are the properties whose change replaces the resource, ``None`` all but its tags; ``replaces``
    tells it from old and new properties where that depends on more than names. A type with a ``name_property`` gets a
    generated name of at most ``name_length`` characters when the template gives none. ``blocking`` types are
    provisioned on a thread of their own, because they wait for something the emulator serves.
    """

    name: str
    service: str
    create: Callable[[Any, Properties], Created]
    delete: Callable[[Any, str, Properties], Any]
    update: Callable[[Any, str, Properties], Properties] | None = None
    create_only: tuple[str, ...] | None = ()
    replaces: Callable[[Properties, Properties], bool] = lambda _old, _new: False
    name_property: str | None = None
    name_length: int = _SAGEMAKER_NAME_LENGTH
    blocking: bool = False


@dataclass(frozen=True)
class _AllBut:
    """A collection that contains every property but some; MiniStack only asks it ``name in …``."""

    exceptions: frozenset[str] = field(default_factory=lambda: frozenset({"Tags"}))

    def __contains__(self, name: object) -> bool:
        return name not in self.exceptions


def register(resource_type: ResourceType) -> None:
    """Enter a type into MiniStack's tables."""
    physical_name = seams.attribute(provisioners, "_physical_name")

    def create(logical_id: str, props: Properties, stack_name: str) -> Created:
        wanted = _plain(props)
        key = resource_type.name_property
        if key and not wanted.get(key):
            wanted[key] = physical_name(stack_name, logical_id, max_len=resource_type.name_length)
        return resource_type.create(client(resource_type.service), wanted)

    def update(physical_id: str, old: Properties, new: Properties, stack_name: str, logical_id: str | None) -> Created:
        if resource_type.replaces(old, new):
            replace = seams.attribute(provisioners, "_replace_resource")
            replaced: Created = replace(resource_type.name, physical_id, old, new, stack_name, logical_id)
            return replaced
        attributes = _recorded_attributes(stack_name, logical_id)
        if resource_type.update is not None:  # without one, only tags can differ here
            attributes |= resource_type.update(client(resource_type.service), physical_id, _plain(new))
        return physical_id, attributes

    def delete(physical_id: str, props: Properties) -> None:
        try:
            resource_type.delete(client(resource_type.service), physical_id, _plain(props))
        except ClientError as error:
            if not _GONE.search(str(error)):
                raise

    handlers = seams.attribute(provisioners, "_RESOURCE_HANDLERS")
    handlers[resource_type.name] = {
        "create": create,
        "update": update,
        "update_with_logical_id": True,
        "delete": delete,
    }
    replacing = seams.attribute(provisioners, "_REPLACING_PROPERTIES")
    replacing[resource_type.name] = _AllBut() if resource_type.create_only is None else resource_type.create_only
    if resource_type.name_property:
        seams.attribute(provisioners, "_CUSTOM_NAME_REPLACEMENT")[resource_type.name] = {
            "name": resource_type.name_property,
            "requires_replacement": resource_type.replaces,
        }


def _recorded_attributes(stack_name: str, logical_id: str | None) -> Properties:
    """Attributes of a resource as its stack recorded them when it was created."""
    from ministack.services import cloudformation  # noqa: PLC0415 - a cycle inside MiniStack at import time

    stack = seams.attribute(cloudformation, "_stacks").get(stack_name) or {}
    recorded = (stack.get("_resources") or {}).get(logical_id) or {}
    return dict(recorded.get("Attributes") or {})


def _plain(props: Mapping[str, Any]) -> Properties:
    copied: Properties = json.loads(json.dumps(props, default=str))
    return copied


def _tags(kind: str, props: Properties) -> Properties:
    tags = props.get("Tags")
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": tags}]} if tags else {}


def _allocate_address(ec2: Any, props: Properties) -> Created:
    answer = ec2.allocate_address(Domain="vpc", **_tags("elastic-ip", props))
    return answer["PublicIp"], {"AllocationId": answer["AllocationId"], "PublicIp": answer["PublicIp"]}


def _release_address(ec2: Any, public_ip: str, _props: Properties) -> None:
    for address in ec2.describe_addresses(PublicIps=[public_ip])["Addresses"]:
        ec2.release_address(AllocationId=address["AllocationId"])


def _create_nat_gateway(ec2: Any, props: Properties) -> Created:
    wanted = {key: value for key, value in props.items() if key != "Tags"}
    gateway = ec2.create_nat_gateway(**wanted, **_tags("natgateway", props))["NatGateway"]["NatGatewayId"]
    return gateway, {"NatGatewayId": gateway}


def _create_flow_log(ec2: Any, props: Properties) -> Created:
    wanted = {key: value for key, value in props.items() if key not in {"Tags", "ResourceId"}}
    answer = ec2.create_flow_logs(ResourceIds=[props["ResourceId"]], **wanted, **_tags("vpc-flow-log", props))
    return answer["FlowLogIds"][0], {"Id": answer["FlowLogIds"][0]}


def _permission(props: Properties) -> Properties:
    """A security group rule in the shape of the EC2 API."""
    described = {"Description": props["Description"]} if props.get("Description") else {}
    permission: Properties = {"IpProtocol": str(props["IpProtocol"])}
    permission.update({key: int(props[key]) for key in ("FromPort", "ToPort") if props.get(key) is not None})
    peer = props.get("SourceSecurityGroupId") or props.get("DestinationSecurityGroupId")
    prefix_list = props.get("SourcePrefixListId") or props.get("DestinationPrefixListId")
    if peer:
        permission["UserIdGroupPairs"] = [{"GroupId": peer, **described}]
    if props.get("CidrIp"):
        permission["IpRanges"] = [{"CidrIp": props["CidrIp"], **described}]
    if props.get("CidrIpv6"):
        permission["Ipv6Ranges"] = [{"CidrIpv6": props["CidrIpv6"], **described}]
    if prefix_list:
        permission["PrefixListIds"] = [{"PrefixListId": prefix_list, **described}]
    return permission


def _security_group_rule(direction: str) -> ResourceType:
    def create(ec2: Any, props: Properties) -> Created:
        authorize = getattr(ec2, f"authorize_security_group_{direction}")
        answer = authorize(GroupId=props["GroupId"], IpPermissions=[_permission(props)])
        rule = answer["SecurityGroupRules"][0]["SecurityGroupRuleId"]
        return rule, {"Id": rule}

    def delete(ec2: Any, _rule: str, props: Properties) -> None:
        revoke = getattr(ec2, f"revoke_security_group_{direction}")
        revoke(GroupId=props["GroupId"], IpPermissions=[_permission(props)])

    return ResourceType(
        name=f"AWS::EC2::SecurityGroup{direction.capitalize()}",
        service="ec2",
        create=create,
        delete=delete,
        create_only=None,
    )


def _document_content(props: Properties) -> str:
    content = props["Content"]
    return content if isinstance(content, str) else json.dumps(content)


def _create_document(ssm: Any, props: Properties) -> Created:
    optional = {key: props[key] for key in ("TargetType", "VersionName", "Tags") if props.get(key)}
    ssm.create_document(
        Name=props["Name"],
        Content=_document_content(props),
        DocumentType=props.get("DocumentType", "Command"),
        DocumentFormat=props.get("DocumentFormat", "JSON"),
        **optional,
    )
    return props["Name"], {}


def _replaces_document(old: Properties, new: Properties) -> bool:
    """Whether a change makes a new document: the default, unless the template asks for a new version."""
    apart = {"Tags", "UpdateMethod"}
    changed = {key for key in old.keys() | new.keys() if key not in apart and old.get(key) != new.get(key)}
    return bool(changed) and new.get("UpdateMethod", "Replace") != "NewVersion"


def _update_document(ssm: Any, name: str, props: Properties) -> Properties:
    optional = {key: props[key] for key in ("TargetType", "VersionName") if props.get(key)}
    answer = ssm.update_document(
        Name=name,
        Content=_document_content(props),
        DocumentVersion="$LATEST",
        DocumentFormat=props.get("DocumentFormat", "JSON"),
        **optional,
    )
    version = answer["DocumentDescription"]["DocumentVersion"]
    ssm.update_document_default_version(Name=name, DocumentVersion=version)
    return {}


_TARGET_KEYS = ("ResourceId", "ScalableDimension", "ServiceNamespace")


def _target_of(props: Properties) -> Properties:
    """The three properties that identify a scalable target, also when a policy names the target by its ``Ref``."""
    if props.get("ScalingTargetId"):
        return dict(zip(_TARGET_KEYS, props["ScalingTargetId"].split("|"), strict=True))
    return {key: props[key] for key in _TARGET_KEYS}


def _register_target(autoscaling: Any, props: Properties) -> Created:
    optional = {key: props[key] for key in ("RoleARN", "SuspendedState") if props.get(key)}
    target = _target_of(props)
    autoscaling.register_scalable_target(
        **target, MinCapacity=props["MinCapacity"], MaxCapacity=props["MaxCapacity"], **optional
    )
    for action in props.get("ScheduledActions") or []:
        autoscaling.put_scheduled_action(**target, **action)
    identity = "|".join(target[key] for key in _TARGET_KEYS)
    return identity, {"Id": identity}


def _put_policy(autoscaling: Any, props: Properties) -> Created:
    configurations = ("TargetTrackingScalingPolicyConfiguration", "StepScalingPolicyConfiguration", "PolicyType")
    arn = autoscaling.put_scaling_policy(
        PolicyName=props["PolicyName"],
        **_target_of(props),
        **{key: props[key] for key in configurations if props.get(key)},
    )["PolicyARN"]
    return arn, {"Arn": arn}


def _associate_firewall(wafv2: Any, props: Properties) -> Created:
    wafv2.associate_web_acl(WebACLArn=props["WebACLArn"], ResourceArn=props["ResourceArn"])
    return f"{props['WebACLArn']}|{props['ResourceArn']}", {}


def _sagemaker(kind: str, **options: Any) -> ResourceType:
    """A SageMaker type: ``Ref`` is its ARN, and the name is generated when the template gives none."""
    operation = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()
    name, arn = f"{kind}Name", f"{kind}Arn"

    def create(sagemaker: Any, props: Properties) -> Created:
        answer = getattr(sagemaker, f"create_{operation}")(**props)
        return answer[arn], {name: props[name], arn: answer[arn]}

    def delete(sagemaker: Any, physical_id: str, _props: Properties) -> None:
        getattr(sagemaker, f"delete_{operation}")(**{name: _name_in(physical_id)})

    settings: dict[str, Any] = {"create": create, "delete": delete, "create_only": None, **options}
    return ResourceType(name=f"AWS::SageMaker::{kind}", service="sagemaker", name_property=name, **settings)


def _name_in(arn: str) -> str:
    return arn.rpartition("/")[2]


_ENDPOINT_REQUEST = ("EndpointName", "EndpointConfigName", "DeploymentConfig", "Tags")
_ENDPOINT_UPDATE = (
    "EndpointName",
    "EndpointConfigName",
    "DeploymentConfig",
    "ExcludeRetainedVariantProperties",
    "RetainAllVariantProperties",
    "RetainDeploymentConfig",
)


def _endpoint(hosting: ModelHosting) -> ResourceType:
    """The endpoint, which is complete when it is InService and fails with SageMaker's reason."""

    def settle(arn: str) -> None:
        endpoint = hosting.get(EndpointKey(account=get_account_id(), region=get_region(), name=_name_in(arn)))
        if endpoint is None:
            raise RuntimeError(f"Endpoint {_name_in(arn)} was deleted while it was being changed")
        endpoint.settled.wait()
        if endpoint.failure_reason is not None or endpoint.status is not EndpointStatus.IN_SERVICE:
            raise RuntimeError(f"Endpoint {_name_in(arn)}: {endpoint.failure_reason}")

    def create(sagemaker: Any, props: Properties) -> Created:
        wanted = {key: props[key] for key in _ENDPOINT_REQUEST if props.get(key)}
        arn = sagemaker.create_endpoint(**wanted)["EndpointArn"]
        try:
            settle(arn)
        except RuntimeError:
            # MiniStack rolls back only what was created; a failed endpoint exists and has to go.
            sagemaker.delete_endpoint(EndpointName=_name_in(arn))
            raise
        return arn, {"EndpointName": _name_in(arn), "EndpointArn": arn}

    def update(sagemaker: Any, arn: str, props: Properties) -> Properties:
        wanted = {key: props[key] for key in _ENDPOINT_UPDATE if props.get(key) is not None}
        sagemaker.update_endpoint(**{**wanted, "EndpointName": _name_in(arn)})
        settle(arn)
        return {"EndpointName": _name_in(arn), "EndpointArn": arn}

    return _sagemaker("Endpoint", create=create, update=update, create_only=("EndpointName",), blocking=True)


def resource_types(*, hosting: ModelHosting) -> list[ResourceType]:
    """The table."""
    return [
        ResourceType(
            name="AWS::EC2::EIP",
            service="ec2",
            create=_allocate_address,
            delete=_release_address,
            create_only=None,
        ),
        ResourceType(
            name="AWS::EC2::NatGateway",
            service="ec2",
            create=_create_nat_gateway,
            delete=lambda ec2, gateway, _: ec2.delete_nat_gateway(NatGatewayId=gateway),
            create_only=None,
        ),
        ResourceType(
            name="AWS::EC2::FlowLog",
            service="ec2",
            create=_create_flow_log,
            delete=lambda ec2, flow_log, _: ec2.delete_flow_logs(FlowLogIds=[flow_log]),
            create_only=None,
        ),
        _security_group_rule("ingress"),
        _security_group_rule("egress"),
        ResourceType(
            name="AWS::SSM::Document",
            service="ssm",
            create=_create_document,
            delete=lambda ssm, name, _: ssm.delete_document(Name=name),
            update=_update_document,
            create_only=("Name", "DocumentType"),
            replaces=_replaces_document,
            name_property="Name",
            name_length=_DOCUMENT_NAME_LENGTH,
        ),
        ResourceType(
            name="AWS::ApplicationAutoScaling::ScalableTarget",
            service="application-autoscaling",
            create=_register_target,
            delete=lambda autoscaling, _, props: autoscaling.deregister_scalable_target(**_target_of(props)),
            update=lambda autoscaling, _, props: _register_target(autoscaling, props)[1],
            create_only=_TARGET_KEYS,
        ),
        ResourceType(
            name="AWS::ApplicationAutoScaling::ScalingPolicy",
            service="application-autoscaling",
            create=_put_policy,
            delete=lambda autoscaling, _, props: autoscaling.delete_scaling_policy(
                PolicyName=props["PolicyName"], **_target_of(props)
            ),
            update=lambda autoscaling, _, props: _put_policy(autoscaling, props)[1],
            create_only=("PolicyName", "ScalingTargetId", *_TARGET_KEYS),
        ),
        ResourceType(
            name="AWS::WAFv2::WebACLAssociation",
            service="wafv2",
            create=_associate_firewall,
            delete=lambda wafv2, _, props: wafv2.disassociate_web_acl(ResourceArn=props["ResourceArn"]),
            create_only=None,
        ),
        _sagemaker("Model"),
        _sagemaker("EndpointConfig"),
        _endpoint(hosting),
    ]


def install(*, hosting: ModelHosting) -> None:
    """Register the table, and have the blocking types provisioned off the event loop."""
    table = resource_types(hosting=hosting)
    for resource_type in table:
        register(resource_type)
    blocking = {resource_type.name for resource_type in table if resource_type.blocking}

    def runs_on_worker_thread(resource_type: str) -> bool:
        return resource_type in blocking or bool(original(resource_type))

    original = seams.replace(stacks, "_runs_on_worker_thread", runs_on_worker_thread)
