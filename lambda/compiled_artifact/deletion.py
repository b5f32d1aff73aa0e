"""Deleting an artifact that no deployment serves any more: the manifest first, so that nobody finds half of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from .aws import Clients, code_of, words_of
from .errors import CheckError
from .log import emit
from .manifest import MANIFEST_NAME

__all__ = ["delete_artifact"]

_ROOT = "/modelzone"
_DEPLOYMENT = re.compile(r"/modelzone/[^/]+/deployments/[^/]+")
_ARTIFACT = re.compile(r"/modelzone/[^/]+/artifacts/(?P<key>[0-9a-f]{20})")
_PHYSICAL_ID = re.compile(r"s3://(?P<bucket>[^/]+)/(?P<prefix>compiled/[^/]+/(?P<key>[0-9a-f]{20})/)@.*")
_BATCH = 1000


def delete_artifact(physical_id: str, *, bucket: str, clients: Clients) -> bool:
    """Delete the artifact that a resource stood for, unless a deployment of any environment is served from it.

    Parameters
    ----------
    physical_id
        `Artifact.physical_id` of the resource; any other text means that it never had an artifact.
    bucket
        The only bucket that is touched.

    Returns
    -------
    bool
        Whether it was deleted.

    Raises
    ------
    CheckError
        The registry could not be read, or S3 refused; what to do is said.
    """
    match = _PHYSICAL_ID.fullmatch(physical_id)
    if match is None or match["bucket"] != bucket:
        emit("kept", artifact=physical_id, why="no artifact of this bucket")
        return False
    prefix, uri = match["prefix"], f"s3://{bucket}/{match['prefix']}"
    try:
        registry = list(_parameters(clients))
        if user := _user(registry, uri):
            emit("kept", artifact=uri, why=f"in use by {user}")
            return False
        deleted = _delete_objects(clients, bucket, prefix)
        for name, value in registry:
            entry = _ARTIFACT.fullmatch(name)
            if entry and entry["key"] == match["key"] and _entry(value).get("artifact") == uri:
                _forget(clients, name)
    except (ClientError, BotoCoreError) as error:
        if isinstance(error, ClientError) and code_of(error) == "NoSuchBucket":
            return False
        words = words_of(error) if isinstance(error, ClientError) else str(error)
        message = (
            f"The artifact {uri} could not be deleted: {words}. Delete the stack again; or set "
            "compile.delete_artifacts to false and remove it with modelzone artifacts gc."
        )
        raise CheckError(message) from error
    emit("deleted", artifact=uri, objects=deleted)
    return True


def _parameters(clients: Clients) -> Iterator[tuple[str, str]]:
    """Every parameter of every environment: several may share one store."""
    for page in clients.ssm.get_paginator("get_parameters_by_path").paginate(Path=_ROOT, Recursive=True):
        for parameter in page["Parameters"]:
            yield parameter.get("Name", ""), parameter.get("Value", "")


def _user(registry: list[tuple[str, str]], uri: str) -> str:
    """Return the name of the registry entry that uses the artifact; one that cannot be read might."""
    for name, value in registry:
        if _DEPLOYMENT.fullmatch(name):
            entry = _entry(value)
            if not entry or str(entry.get("artifact", "")).rstrip("/") == uri.rstrip("/"):
                return name
    return ""


def _entry(value: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(value)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _delete_objects(clients: Clients, bucket: str, prefix: str) -> int:
    s3 = clients.s3
    s3.delete_object(Bucket=bucket, Key=prefix + MANIFEST_NAME)
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": _BATCH}
    )
    deleted = 1
    for page in pages:
        keys = [{"Key": item["Key"]} for item in page.get("Contents", ())]
        if not keys:
            continue
        answer: Mapping[str, Any] = s3.delete_objects(
            Bucket=bucket,
            Delete={"Objects": keys, "Quiet": True},  # type: ignore[typeddict-item]
        )
        if errors := answer.get("Errors"):
            first = {"Code": str(errors[0].get("Code")), "Message": str(errors[0].get("Message"))}
            raise ClientError({"Error": first}, "DeleteObjects")  # type: ignore[typeddict-item]
        deleted += len(keys)
    return deleted


def _forget(clients: Clients, name: str) -> None:
    try:
        clients.ssm.delete_parameter(Name=name)
    except ClientError as error:
        if code_of(error) != "ParameterNotFound":
            raise
