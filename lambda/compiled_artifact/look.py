"""The first step: what is ordered, and whether it is there already."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from botocore.exceptions import ClientError

from .aws import code_of, is_refused, is_transient, words_of
from .context import Context, State
from .errors import CompileError
from .facts import artifact_key
from .images import Image
from .log import emit
from .manifest import (
    MANIFEST_NAME,
    EmptyManifestError,
    Manifest,
    ManifestError,
    artifact_manifest,
    find_problems,
    in_words,
    is_absent,
    read_raw,
    weights_manifest,
)
from .orders import CompileOrder, Job, OrderError

__all__ = ["found_summary", "look", "published_result", "read_result"]

_STEP = "look"
# What the document takes, as base64.
_LONGEST_JOB = 8192 // 4 * 3
_KEY_IN_NAME = re.compile(r"-(?P<key>[0-9a-f]{20})-\d{14}")
# Otherwise ECR describes an old kind of manifest, whose digest is another.
_MEDIA_TYPES = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
]


def look(context: Context, state: State) -> State:
    """Read the order, render the job, and find out whether its result is there already.

    Raises
    ------
    CompileError
        Nothing is ordered, the execution asks for what it may not, or the image is not there.
    """
    deployment = str(state.get("deployment", ""))
    data = _read_order(context, deployment)
    deploy = f"Deploy the compile stack of environment '{context.settings.environment}' again"
    try:
        order = CompileOrder.parse(data)
    except OrderError as error:
        raise CompileError(_STEP, f"the order of deployment '{deployment}' is not usable: {error}", deploy) from error
    if (order.environment, order.deployment) != (context.settings.environment, deployment):
        why = f"the order of deployment '{deployment}' is for '{order.deployment}' in '{order.environment}'"
        raise CompileError(_STEP, why, deploy)
    try:
        job = order.render(
            state.get("facts") or {},
            weights_only=state.get("weights_only") is True,
            progress_path=context.settings.progress_path,
        )
        order.choices(job)
    except OrderError as error:
        why = f"deployment '{deployment}' cannot be compiled so: {error}"
        raise CompileError(_STEP, why, error.remedy or deploy) from error
    key = artifact_key(job["facts"])
    _check_bucket(context, job, deploy)
    _check_key(context, key, deployment, deploy)
    prefix = order.result_prefix(job)
    manifest = published_result(context, order, job, step=_STEP)
    if manifest is None:
        job["image_digest"] = _image_digest(context, str(job.get("image", "")))
    # Kept small: it travels through every step, and the order in it is read again.
    return {
        **{name: state[name] for name in ("deployment", "facts", "weights_only", "requested_by") if name in state},
        "order": data,
        "job": job,
        "key": key,
        "artifact": f"s3://{job['bucket']}/{prefix}",
        "published": manifest is not None,
        "found": found_summary(manifest) if manifest else None,
        "host": None,
        "agent": "pending",
        "run": "pending",
        "steps": {},
        "polls": 0,
    }


def read_result(context: Context, order: CompileOrder, job: Job, prefix: str) -> Manifest | None:
    """Read the manifest that the job writes last; None where there is none, or an empty one in its place.

    Raises
    ------
    ManifestError
        There is another one.
    botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError
        S3 refused.
    """
    bucket = job["bucket"]
    try:
        raw = read_raw(context.clients.s3, bucket, prefix)
    except ClientError as error:
        if is_absent(error, may_list=True):
            return None
        raise
    at = f"s3://{bucket}/{prefix}{MANIFEST_NAME}"
    try:
        if order.mirrors_only(weights_only=bool(job["weights_only"])):
            return weights_manifest(raw, at=at)
        return artifact_manifest(raw, at=at, facts=job["facts"], wanted_by=f"deployment '{order.deployment}'")
    except EmptyManifestError as error:
        emit("look", incomplete=str(error))
        return None


def found_summary(manifest: Manifest) -> dict[str, object]:
    """What later steps want to know of a manifest."""
    return {
        "manifest_sha256": manifest.sha256,
        "created": manifest.created,
        "bytes": manifest.bytes,
        "objects": len(manifest.objects),
    }


def _read_order(context: Context, deployment: str) -> object:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", deployment):
        why = f"the execution's input names no deployment (deployment is {deployment!r:.100})"
        raise CompileError(_STEP, why, 'Start it with {"deployment": "<name>"}')
    name = f"{context.settings.orders_path}/{deployment}"
    try:
        text = context.clients.ssm.get_parameter(Name=name)["Parameter"].get("Value", "")
    except ClientError as error:
        if code_of(error) != "ParameterNotFound":
            raise
        raise CompileError(
            _STEP,
            f"there is no order for deployment '{deployment}' (parameter {name})",
            f"Check the deployment's name, and deploy the compile stack of '{context.settings.environment}'",
        ) from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise CompileError(_STEP, f"parameter {name} is not JSON", "Deploy the compile stack again") from error


def _check_bucket(context: Context, job: Job, deploy: str) -> None:
    if job.get("bucket") != context.settings.bucket:
        why = f"the order names bucket {job.get('bucket')!r}, this machine works for '{context.settings.bucket}'"
        raise CompileError(_STEP, why, deploy)
    size = len(json.dumps(job))
    if size > _LONGEST_JOB:
        why = f"the job has {size} characters, the host's document takes {_LONGEST_JOB}"
        raise CompileError(_STEP, why, "Shorten the export command or the properties of the engine")


def _check_key(context: Context, key: str, deployment: str, deploy: str) -> None:
    """Whoever started the execution named it for an artifact: an order that gives another one is out of date."""
    named = _KEY_IN_NAME.search(context.execution.name)
    if named and named["key"] != key:
        why = (
            f"execution {context.execution.name} is for artifact {named['key']}, the order of deployment "
            f"'{deployment}' gives {key}: the two were planned differently"
        )
        raise CompileError(_STEP, why, deploy)


def published_result(context: Context, order: CompileOrder, job: Job, *, step: str) -> Manifest | None:
    """Return the manifest of a result that is complete; None for one that is not.

    Raises
    ------
    CompileError
        The store may not be read.
    """
    prefix = order.result_prefix(job)
    try:
        manifest = read_result(context, order, job, prefix)
        problems = () if manifest is None else _problems(context, job, prefix, manifest)
    except ManifestError as error:
        emit(step, incomplete=str(error))
        return None
    except ClientError as error:
        if not is_refused(error):
            raise
        raise CompileError(
            step,
            f"s3://{job['bucket']}/{prefix}{MANIFEST_NAME} may not be read ({words_of(error)})",
            "Allow the role of the compile steps s3:GetObject and s3:ListBucket, and kms:Decrypt with the bucket's key",
        ) from error
    if problems:
        emit(step, incomplete=in_words(problems))
        return None
    return manifest


def _problems(context: Context, job: Job, prefix: str, manifest: Manifest) -> Sequence[str]:
    return find_problems(context.clients.s3, job["bucket"], prefix, manifest.objects, may_list=True, need_sha256=True)


def _image_digest(context: Context, uri: str) -> str:
    """Resolve the tag now: the host pulls this very image, whatever becomes of the tag meanwhile."""
    image = Image.parse(uri)
    if image is None:
        emit("look", image=uri, digest="not in ECR: pulled as it is named")
        return ""
    if image.digest:
        return image.digest
    registry = f"registry {image.account} in {image.region}"
    try:
        answer = context.clients.ecr(image.region).batch_get_image(
            registryId=image.account,
            repositoryName=image.repository,
            imageIds=[{"imageTag": image.tag}],
            acceptedMediaTypes=_MEDIA_TYPES,
        )
    except ClientError as error:
        if is_transient(error):
            raise
        if is_refused(error):
            raise CompileError(
                _STEP,
                f"image {uri} may not be looked up ({words_of(error)})",
                f"Allow the role of the compile steps ecr:BatchGetImage on repository {image.repository} of {registry}",
            ) from error
        if code_of(error) == "RepositoryNotFoundException":
            raise CompileError(
                _STEP,
                f"image {uri} does not exist: {registry} has no repository {image.repository}",
                "Check image_uri of the deployment and the region's registry account",
            ) from error
        raise
    digest = next((item["imageId"].get("imageDigest", "") for item in answer.get("images", ())), "")
    if digest:
        return digest
    said = "; ".join(
        f"{failure.get('failureCode', '')} {failure.get('failureReason', '')}" for failure in answer.get("failures", ())
    )
    raise CompileError(
        _STEP,
        f"image {uri} does not exist in {registry} ({said or 'no such tag'})",
        "Choose an engine version whose image is there, or set image_uri of the deployment",
    )
