"""Container images in their registries, and the AMIs of compile hosts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelzone.doctor.checks.base import Context, Kind, Outcome

if TYPE_CHECKING:
    from modelzone.planning import EnvironmentPlan

__all__ = ["KINDS"]

_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.[a-z.]+/"
    r"(?P<repository>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def _uris(plan: EnvironmentPlan) -> Iterable[str]:
    uris = [deployment.image_uri for deployment in plan.deployments]
    uris += [deployment.compile.image_uri for deployment in plan.deployments if deployment.compile]
    return dict.fromkeys(uris)


def _image(context: Context, uri: str) -> Outcome:
    parts = _ECR.fullmatch(uri)
    if parts is None:
        return Outcome(
            "fail", "is not an image of Amazon ECR, and SageMaker takes no other", "copy it to a repository of yours"
        )
    region = context.plan.environment.region
    if parts["region"] != region:
        return Outcome("fail", f"is in {parts['region']}, SageMaker wants it in {region}", "use that region's image")
    client = context.client("ecr")
    wanted = {"imageDigest": parts["digest"]} if parts["digest"] else {"imageTag": parts["tag"] or "latest"}
    try:
        # As a pull does; a registry of AWS lets nobody else describe its repositories.
        answer = client.batch_get_image(
            registryId=parts["account"], repositoryName=parts["repository"], imageIds=[wanted]
        )
    except client.exceptions.RepositoryNotFoundException:
        if context.emulated("ecr"):
            return Outcome("skipped", "the emulator has no images of AWS's registries")
        return Outcome("fail", "there is no such repository", "see modelzone engines, or correct image_uri")
    if answer.get("images"):
        return Outcome("ok", "is in the registry")
    reasons = ", ".join(failure.get("failureReason", "") for failure in answer.get("failures", []))
    return Outcome("fail", f"there is no such tag ({reasons})", "see modelzone engines, or correct image_uri")


def _ami_parameters(plan: EnvironmentPlan) -> Iterable[str]:
    return dict.fromkeys(d.compile.ami_parameter for d in plan.deployments if d.compile)


def _ami(context: Context, name: str) -> Outcome:
    client = context.client("ssm")
    try:
        found = client.get_parameter(Name=name)["Parameter"]["Value"]
    except client.exceptions.ParameterNotFound:
        return Outcome("fail", "there is no such public parameter in this region", "use a region that has the AMI")
    return Outcome("ok", f"is {found}")


KINDS = (
    Kind(
        id="image",
        permissions=("ecr:BatchGetImage",),
        items=_uris,
        title=lambda uri: f"image {uri.split('/', 1)[-1]}",
        run=_image,
    ),
    Kind(id="ami", permissions=("ssm:GetParameter",), items=_ami_parameters, title=lambda n: f"AMI {n}", run=_ami),
)
