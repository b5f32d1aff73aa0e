"""Deleting an artifact that no deployment serves any more: the manifest first, so that nobody finds half of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from . import executions
from .aws import Clients, code_of, words_of
from .errors import CheckError, one_line
from .log import emit
from .manifest import MANIFEST_NAME
from .objects import delete_keys, pages_of_keys

__all__ = ["delete_artifact"]

_ROOT = "/modelzone"
_DEPLOYMENT = re.compile(r"/modelzone/[^/]+/deployments/[^/]+")
_ARTIFACT = re.compile(r"/modelzone/[^/]+/artifacts/(?P<key>[0-9a-f]{20})")
_PHYSICAL_ID = re.compile(r"s3://(?P<bucket>[^/]+)/(?P<prefix>compiled/[^/]+/(?P<key>[0-9a-f]{20})/)@.*")
_PARALLEL = 8


def delete_artifact(
    physical_id: str, *, bucket: str, clients: Clients, stack_id: str = "", machine_arn: str = ""
) -> bool:
    """Delete the artifact that a resource stood for, unless somebody uses it or may have to go back to it.

    It is kept while the stack is rolled back, for a deployment of any environment or a SageMaker model that is served
    from it, and while an execution works on it.

    Parameters
    ----------
    physical_id
        `Artifact.physical_id` of the resource; any other text means that it never had an artifact.
    bucket
        The only bucket that is touched.
    stack_id
        Of the stack that the resource belongs to; empty for none.
    machine_arn
        The machine whose executions are asked for; empty for none.

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
        if why := _rolling_back(clients, stack_id):
            emit("kept", artifact=uri, why=why)
            return False
        registry = list(_parameters(clients))
        if why := _use(clients, registry, uri, key=match["key"], machine_arn=machine_arn):
            emit("kept", artifact=uri, why=f"in use by {why}")
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


def _use(clients: Clients, registry: list[tuple[str, str]], uri: str, *, key: str, machine_arn: str) -> str:
    """Return who uses the artifact, or ""."""
    if name := _user(registry, uri):
        return name
    if machine_arn and (running := executions.find(clients.stepfunctions, machine_arn, key)):
        return f"execution {running.name}"
    model = _loaded_by(clients, uri)
    return f"SageMaker model {model}" if model else ""


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


def _rolling_back(clients: Clients, stack_id: str) -> str:
    """Return why the stack's state forbids it, or "": what was served before a failed update is served on."""
    if not stack_id:
        return ""
    try:
        stacks = clients.cloudformation.describe_stacks(StackName=stack_id)["Stacks"]
    except (ClientError, BotoCoreError) as error:
        # Failing here would leave a stack that cannot even be rolled back.
        return f"the state of its stack is not known: {one_line(error)}"
    status = str(stacks[0]["StackStatus"]) if stacks else ""
    return f"its stack is rolled back ({status})" if "ROLLBACK" in status else ""


def _loaded_by(clients: Clients, uri: str) -> str:
    """Return the name of a SageMaker model that loads from the artifact's prefix, or "": also one of no deployment."""
    pages = clients.sagemaker.get_paginator("list_models").paginate()
    names = [row["ModelName"] for page in pages for row in page.get("Models", ())]

    def loads(name: str) -> bool:
        try:
            model = clients.sagemaker.describe_model(ModelName=name)
        except ClientError as error:
            if code_of(error) == "ValidationException":
                return False  # deleted meanwhile
            raise
        return any(
            place.startswith(uri.rstrip("/")) or uri.startswith(place)
            for place in _places([model.get("PrimaryContainer"), model.get("Containers")])
        )

    with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
        return next((name for name, found in zip(names, pool.map(loads, names), strict=True) if found), "")


def _places(part: object) -> Iterator[str]:
    """Every S3 URI in a description."""
    if isinstance(part, str) and part.startswith("s3://"):
        yield part
    elif isinstance(part, Mapping):
        for value in part.values():
            yield from _places(value)
    elif isinstance(part, list):
        for value in part:
            yield from _places(value)


def _delete_objects(clients: Clients, bucket: str, prefix: str) -> int:
    s3 = clients.s3
    s3.delete_object(Bucket=bucket, Key=prefix + MANIFEST_NAME)
    deleted = 1
    for keys in pages_of_keys(s3, bucket, prefix):
        delete_keys(s3, bucket, keys)
        deleted += len(keys)
    return deleted


def _forget(clients: Clients, name: str) -> None:
    try:
        clients.ssm.delete_parameter(Name=name)
    except ClientError as error:
        if code_of(error) != "ParameterNotFound":
            raise
