"""Get the serving image: the export must run in the very container that will serve."""

from __future__ import annotations

import base64
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compile_job.errors import StepError
from compile_job.processes import run, run_quietly
from compile_job.signatures import remedy

if TYPE_CHECKING:
    from boto3.session import Session

__all__ = ["Image", "by_digest", "pull_image"]

_ECR = re.compile(r"(?P<host>\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?)/.+")


@dataclass(frozen=True)
class Image:
    """An image that is here. `reference` is what `docker run` takes."""

    reference: str
    digest: str
    pulled: bool


def by_digest(image: str, digest: str) -> str:
    """Return ``repository@digest``: a tag may be moved to another image. Without a digest the image as it is."""
    if not digest:
        return image
    name = image.partition("@")[0]
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}@{digest}"


def pull_image(image: str, digest: str, *, session: Session, check: Callable[[], None] | None = None) -> Image:
    """Pull the image unless it is there, logging in to ECR for this pull only.

    Raises
    ------
    StepError
        When Docker is absent or the pull fails.
    """
    if shutil.which("docker") is None:
        # Ubuntu's own packages cannot help: its servers answer HTTP only, and hosts may send nothing but HTTPS.
        message = (
            "docker is not installed on this host, its AMI has none: where there is egress the SSM document that "
            "starts this job installs it, so start the job with that; elsewhere choose another AMI parameter "
            "(compile_ami_parameter in modelzone/hardware/data/families.yaml)"
        )
        raise StepError(message)
    reference = by_digest(image, digest)
    if found := _digest(reference):
        return Image(reference, digest or found, pulled=False)
    # Docker would keep the login in the home directory; here it goes with the folder.
    with tempfile.TemporaryDirectory(prefix="modelzone-docker-") as config:
        docker = ["docker", "--config", config]
        if match := _ECR.fullmatch(image):
            password = _ecr_password(session, match["region"])
            login = run_quietly(
                [*docker, "login", "--username", "AWS", "--password-stdin", match["host"]], secret=password
            )
            if login.status:
                message = f"login to {match['host']} failed: {remedy(login.tail) or login.last_line}"
                raise StepError(message)
        pull = run([*docker, "pull", "--quiet", reference], check=check)
    if pull.status:
        message = f"pulling {reference} failed: {remedy(pull.tail) or pull.last_line}"
        raise StepError(message)
    return Image(reference, digest or _digest(reference), pulled=True)


def _ecr_password(session: Session, region: str) -> str:
    answer = session.client("ecr", region_name=region).get_authorization_token()
    token = answer["authorizationData"][0].get("authorizationToken", "")
    return base64.b64decode(token).decode().partition(":")[2]


def _digest(image: str) -> str:
    """Return the image's digest, or its id when it came from no registry; empty when it is not here."""
    form = "{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}"
    found = run_quietly(["docker", "image", "inspect", "--format", form, image])
    return "" if found.status else found.last_line.rpartition("@")[2]
