"""The check itself: are the numbers possible, and is the artifact there as its manifest says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from .aws import words_of
from .errors import CheckError, MissingArtifactError
from .facts import artifact_key, artifact_prefix, describe
from .images import Image
from .manifest import (
    MANIFEST_NAME,
    Manifest,
    ManifestError,
    artifact_manifest,
    find_problems,
    in_words,
    is_absent,
    read_raw,
)
from .order import Order

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["Artifact", "CheckError", "Order", "artifact_key", "artifact_prefix", "check_artifact"]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An artifact that was found complete.

    Attributes
    ----------
    prefix
        Ends with a slash.
    image
        What serves it; None for a stack that names no image.
    image_uri
        By digest where that is known to be what it was compiled with.
    """

    bucket: str
    key: str
    prefix: str
    facts: Mapping[str, str]
    manifest_sha256: str
    instance_type: str
    values: Mapping[str, str]
    max_input_tokens: int
    image: Image | None = None
    image_uri: str = ""

    @property
    def s3_uri(self) -> str:
        """Where the artifact is, with a trailing slash: a prefix without one would match its neighbours too."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def physical_id(self) -> str:
        """What CloudFormation remembers of the deployment: the artifact and the instance type that serves it."""
        return f"{self.s3_uri}@{self.instance_type}"

    @property
    def attributes(self) -> dict[str, str]:
        """What the stack reads with `Fn::GetAtt`: the artifact, and the value that holds for every parameter."""
        image = {}
        if self.image is not None:
            # IAM wants the repository's parts, and a template that took the URI apart could not take a digest.
            image = {
                "ImageUri": self.image_uri,
                "RegistryAccount": self.image.account,
                "RegistryRegion": self.image.region,
                "Repository": self.image.repository,
            }
        return {
            **self.values,
            "Key": self.key,
            "Prefix": self.prefix,
            "S3Uri": self.s3_uri,
            "ManifestSha256": self.manifest_sha256,
            "Dtype": self.facts["dtype"],
            # TGI refuses to start with a prefill budget above what a full batch of longest prompts needs.
            "MaxBatchPrefillTokens": str(int(self.facts["batch_size"]) * self.max_input_tokens),
            **image,
        }


def check_artifact(order: Order, *, s3: S3Client) -> Artifact:
    """Check the numbers, the manifest and every object that it lists.

    Only GetObject and HeadObject are used. Without permission to list, S3 answers 403 for what does not exist, so 403
    and 404 are one case here.

    Raises
    ------
    CheckError
        With the S3 URI, the values at odds and the remedy; `MissingArtifactError` where compiling would help.
    """
    order.check_numbers()
    image = _image(order)
    prefix = artifact_prefix(order.facts)
    manifest = _manifest(order, prefix, s3=s3)
    if problems := _problems(order, prefix, manifest, s3=s3):
        message = (
            f"The compiled artifact s3://{order.bucket}/{prefix} is incomplete: {in_words(problems)}. The compile job "
            f"completes it. {order.compile_hint}"
        )
        raise MissingArtifactError(message)
    return Artifact(
        bucket=order.bucket,
        key=artifact_key(order.facts),
        prefix=prefix,
        facts=order.facts,
        manifest_sha256=manifest.sha256,
        instance_type=order.instance_type,
        values=order.values,
        max_input_tokens=order.max_input_tokens,
        image=image,
        image_uri=_image_uri(order, image, manifest) if image else "",
    )


def _image(order: Order) -> Image | None:
    uri = order.values.get("ImageUri")
    if uri is None:
        return None
    image = Image.parse(uri)
    if image is None:
        message = (
            f"ImageUri is '{uri}', expected an image in ECR with a tag or a digest, as in "
            "<account>.dkr.ecr.<region>.amazonaws.com/<repository>:<tag>."
        )
        raise CheckError(message)
    return image


def _image_uri(order: Order, image: Image, manifest: Manifest) -> str:
    """Serve with the very image that compiled, unless the operator wants another: a tag may move."""
    if order.image_given or manifest.producer.get("image") != image.uri:
        return image.uri
    return image.by_digest(str(manifest.producer.get("image_digest", "")))


def _manifest(order: Order, prefix: str, *, s3: S3Client) -> Manifest:
    uri = f"s3://{order.bucket}/{prefix}{MANIFEST_NAME}"
    try:
        raw = read_raw(s3, order.bucket, prefix)
        return artifact_manifest(raw, at=uri, facts=order.facts, wanted_by=f"deployment '{order.deployment}'")
    except ManifestError as error:
        message = f"{error}. {order.compile_hint}"
        raise MissingArtifactError(message) from error
    except ClientError as error:
        if is_absent(error, may_list=False):
            message = (
                f"No compiled artifact for deployment '{order.deployment}': {uri} does not exist or may not be read "
                f"({describe(order.facts)}). {order.compile_hint}"
            )
            raise MissingArtifactError(message) from error
        raise _unreadable(uri, error) from error
    except BotoCoreError as error:
        raise _unreadable(uri, error) from error


def _problems(order: Order, prefix: str, manifest: Manifest, *, s3: S3Client) -> list[str]:
    try:
        return find_problems(s3, order.bucket, prefix, manifest.objects, may_list=False)
    except (ClientError, BotoCoreError) as error:
        raise _unreadable(f"s3://{order.bucket}/{prefix}", error) from error


def _unreadable(uri: str, error: ClientError | BotoCoreError) -> CheckError:
    return CheckError(f"{uri} could not be read: {words_of(error) if isinstance(error, ClientError) else error}.")
