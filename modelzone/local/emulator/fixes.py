"""Corrections to MiniStack's own services, each found by deploying a CDK application."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError
from ministack.services import dynamodb, lambda_svc, s3, ssm
from ministack.services.cloudformation import provisioners

from modelzone.local.emulator import seams
from modelzone.local.emulator.bridge import client

__all__ = ["PLACEHOLDER_IMAGE", "install", "lifecycle_rule"]

PLACEHOLDER_IMAGE = "ami-0c2023a1b2c3d4e5f"
"""The machine image behind every public parameter that MiniStack does not know; it describes this one."""

_IMAGE_PARAMETERS = re.compile(r"/aws/service/(ami-|neuron/|deeplearning/|ecs/|bottlerocket/)")
_SECRET_SUFFIX = re.compile(r"-[^-]{6}$")
_NOT_FOUND = 404
_HTTP_ERROR = 400

Properties = dict[str, Any]
Handler = dict[str, Any]


def _handlers() -> dict[str, Handler]:
    handlers: dict[str, Handler] = seams.attribute(provisioners, "_RESOURCE_HANDLERS")
    return handlers


def _get_att_of_plain_properties() -> None:
    """Let ``Fn::GetAtt`` read an attribute that is also a property, such as a VPC's CidrBlock."""

    def wrapped(create: Callable[..., tuple[str, Properties | None]]) -> Callable[..., tuple[str, Properties]]:
        def created(logical_id: str, props: Properties, stack_name: str) -> tuple[str, Properties]:
            physical_id, attributes = create(logical_id, props, stack_name)
            plain = {key: value for key, value in props.items() if isinstance(value, str | int)}
            return physical_id, {**plain, **(attributes or {})}

        return created

    for handler in _handlers().values():
        if "create" in handler:
            handler["create"] = wrapped(handler["create"])


def _secret_ref_is_its_arn() -> None:
    """Make the ``Ref`` of a secret its ARN; MiniStack gives the name."""
    handler = _handlers()["AWS::SecretsManager::Secret"]
    create, update, delete = handler["create"], handler["update"], handler["delete"]

    def name_of(arn: str) -> str:
        return _SECRET_SUFFIX.sub("", arn.rpartition(":secret:")[2])

    def created(logical_id: str, props: Properties, stack_name: str) -> tuple[str, Properties]:
        _, attributes = create(logical_id, props, stack_name)
        return attributes["Arn"], attributes

    def updated(arn: str, old: Properties, new: Properties, *rest: Any) -> tuple[str, Properties]:
        _, attributes = update(name_of(arn), old, new, *rest)
        return attributes["Arn"], attributes

    def deleted(arn: str, props: Properties) -> Any:
        return delete(name_of(arn), props)

    handler.update(create=created, update=updated, delete=deleted)


def lifecycle_rule(rule: Mapping[str, Any]) -> Properties:
    """A rule of a bucket's LifecycleConfiguration property in the shape of the S3 API."""
    tags, prefix = rule.get("TagFilters") or [], rule.get("Prefix") or ""
    converted: Properties = {
        "ID": rule.get("Id") or uuid.uuid4().hex,
        "Status": rule["Status"],
        "Filter": {"And": {"Prefix": prefix, "Tags": tags}} if tags else {"Prefix": prefix},
    }
    expiration = {
        name: rule[key]
        for key, name in (
            ("ExpirationInDays", "Days"),
            ("ExpirationDate", "Date"),
            ("ExpiredObjectDeleteMarker", "ExpiredObjectDeleteMarker"),
        )
        if rule.get(key) is not None
    }
    if expiration:
        converted["Expiration"] = expiration
    renamed = {"TransitionInDays": "Days", "TransitionDate": "Date", "StorageClass": "StorageClass"}
    if rule.get("Transitions"):
        converted["Transitions"] = [
            {name: transition[key] for key, name in renamed.items() if key in transition}
            for transition in rule["Transitions"]
        ]
    if rule.get("NoncurrentVersionTransitions"):
        converted["NoncurrentVersionTransitions"] = [
            {"NoncurrentDays": transition["TransitionInDays"], "StorageClass": transition["StorageClass"]}
            for transition in rule["NoncurrentVersionTransitions"]
        ]
    kept = ("NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload")
    return {**converted, **{key: rule[key] for key in kept if rule.get(key)}}


def _bucket_properties() -> None:
    """Apply the bucket properties MiniStack's CloudFormation type drops: lifecycle, encryption, log, ownership."""

    def complete(bucket: str, props: Properties) -> None:
        api = client("s3")
        rules = (props.get("LifecycleConfiguration") or {}).get("Rules")
        if rules:
            wanted = {"Rules": [lifecycle_rule(rule) for rule in rules]}
            api.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=wanted)
        encryption = (props.get("BucketEncryption") or {}).get("ServerSideEncryptionConfiguration") or []
        if encryption:
            wanted = {
                "Rules": [
                    {
                        "ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"],
                        "BucketKeyEnabled": str(rule.get("BucketKeyEnabled", False)).lower() == "true",
                    }
                    for rule in encryption
                    # MiniStack has no AWS-managed key and would then refuse to store objects.
                    if rule["ServerSideEncryptionByDefault"].get("SSEAlgorithm") != "aws:kms"
                    or rule["ServerSideEncryptionByDefault"].get("KMSMasterKeyID")
                ]
            }
            if wanted["Rules"]:
                api.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=wanted)
        log = props.get("LoggingConfiguration")
        if log and log.get("DestinationBucketName"):
            target = {"TargetBucket": log["DestinationBucketName"], "TargetPrefix": log.get("LogFilePrefix", "")}
            api.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={"LoggingEnabled": target})
        ownership = (props.get("OwnershipControls") or {}).get("Rules")
        if ownership:
            api.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": ownership})

    seams.after_provisioning("AWS::S3::Bucket", complete)


def _full_buckets_stay() -> None:
    """Fail to delete a bucket with objects in it, as S3 does; MiniStack's CloudFormation type drops them."""

    def delete(bucket: str, _props: Properties) -> None:
        status, _, body = seams.attribute(s3, "_delete_bucket")(bucket)
        if status >= _HTTP_ERROR and status != _NOT_FOUND:
            message = re.search(rb"<Message>(.*?)</Message>", body)
            reason = message[1].decode() if message else f"S3 answered {status}"
            raise ValueError(f"{reason} (bucket {bucket})")

    _handlers()["AWS::S3::Bucket"]["delete"] = delete


def _auto_delete_objects() -> None:
    """Empty a bucket in place of CDK's own Node function, which needs an SDK that Lambda brings along."""

    def create(_logical_id: str, props: Properties, _stack_name: str) -> tuple[str, Properties]:
        return props["BucketName"], {}

    def update(bucket: str, _old: Properties, new: Properties, _stack_name: str) -> tuple[str, Properties]:
        if new["BucketName"] != bucket:
            empty(bucket)
        return new["BucketName"], {}

    def empty(bucket: str, _props: Properties | None = None) -> None:
        api = client("s3")
        try:
            for page in api.get_paginator("list_object_versions").paginate(Bucket=bucket):
                found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
                objects = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in found]
                if objects:
                    api.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        except ClientError as error:
            if "NoSuchBucket" not in str(error):
                raise

    _handlers()["Custom::S3AutoDeleteObjects"] = {"create": create, "update": update, "delete": empty}


def _checksums_of_parts() -> None:
    """Let S3 tell the checksum of a part that is asked for by its number; MiniStack tells that of the whole object."""
    compute = seams.attribute(s3, "_compute_s3_checksum")

    def got(*arguments: Any, **more: Any) -> Any:
        status, headers, body = get(*arguments, **more)
        if "x-amz-mp-parts-count" in headers:
            for name in headers:
                algorithm = name.removeprefix("x-amz-checksum-")
                if algorithm not in {name, "type"}:
                    headers[name] = compute(algorithm, body)
        return status, headers, body

    get = seams.replace(s3, "_get_object", got)


def _table_properties() -> None:
    """Apply the table properties MiniStack's CloudFormation type drops: time to live, encryption, recovery."""

    def complete(table: str, props: Properties) -> None:
        api = client("dynamodb")
        encryption = props.get("SSESpecification") or {}
        if encryption:
            names = ("SSEType", "KMSMasterKeyId")
            wanted = {"Enabled": _truth(encryption.get("SSEEnabled")), **_present(encryption, names)}
            api.update_table(TableName=table, SSESpecification=wanted)
        recovery = props.get("PointInTimeRecoverySpecification") or {}
        api.update_continuous_backups(
            TableName=table,
            PointInTimeRecoverySpecification={
                "PointInTimeRecoveryEnabled": _truth(recovery.get("PointInTimeRecoveryEnabled"))
            },
        )
        settings = seams.attribute(dynamodb, "_ttl_settings")
        expiry = props.get("TimeToLiveSpecification") or {}
        if expiry.get("AttributeName"):
            wanted = {"AttributeName": expiry["AttributeName"], "Enabled": _truth(expiry.get("Enabled"))}
            api.update_time_to_live(TableName=table, TimeToLiveSpecification=wanted)
        else:
            settings.pop(table, None)

    seams.after_provisioning("AWS::DynamoDB::Table", complete)


def _present(props: Mapping[str, Any], names: tuple[str, ...]) -> Properties:
    return {name: props[name] for name in names if props.get(name)}


def _truth(value: Any) -> bool:
    return str(value).lower() == "true"


def _protected_tables_stay() -> None:
    """Fail to delete a protected table, as DynamoDB does; MiniStack's CloudFormation type drops it."""

    def delete(table: str, _props: Properties) -> None:
        try:
            client("dynamodb").delete_table(TableName=table)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise ValueError(f"{error.response['Error']['Message']} (table {table})") from error

    _handlers()["AWS::DynamoDB::Table"]["delete"] = delete


def _function_network() -> None:
    """Keep a function's VpcConfig, which MiniStack's CloudFormation type drops."""

    def complete(name: str, props: Properties) -> None:
        function = seams.attribute(lambda_svc, "_functions").get(name)
        if function is not None and props.get("VpcConfig"):
            function["config"]["VpcConfig"] = dict(props["VpcConfig"])

    seams.after_provisioning("AWS::Lambda::Function", complete)


def _deleted_functions_stop(forget: Callable[[str], None]) -> None:
    """Stop a function's processes when a stack deletes it, and its web application whenever it is invalidated."""
    handler = _handlers()["AWS::Lambda::Function"]
    delete = handler["delete"]

    def deleted(name: str, props: Properties) -> None:
        delete(name, props)
        seams.attribute(lambda_svc, "invalidate_worker")(name)

    def invalidated(name: str, *args: Any, **options: Any) -> None:
        original(name, *args, **options)
        if name not in seams.attribute(lambda_svc, "_functions"):
            forget(name)

    handler["delete"] = deleted
    original = seams.replace(lambda_svc, "invalidate_worker", invalidated)


class _ImageParameters(dict[str, str]):
    """MiniStack's public image parameters, and a placeholder for any other of the same kinds."""

    def get(self, name: str, default: Any = None) -> Any:
        known = super().get(name)
        if known is not None:
            return known
        return PLACEHOLDER_IMAGE if _IMAGE_PARAMETERS.match(name) else default


def install(*, forget_function: Callable[[str], None]) -> None:
    """Apply every correction; ``forget_function`` stops a deleted function's web application."""
    _bucket_properties()
    _full_buckets_stay()
    _checksums_of_parts()
    _auto_delete_objects()
    _secret_ref_is_its_arn()
    _table_properties()
    _protected_tables_stay()
    _function_network()
    _deleted_functions_stop(forget_function)
    images = seams.attribute(ssm, "_PUBLIC_AMI_PARAMETERS")
    seams.replace(ssm, "_PUBLIC_AMI_PARAMETERS", _ImageParameters(images))
    _get_att_of_plain_properties()
