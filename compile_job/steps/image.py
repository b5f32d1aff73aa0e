"""Get the serving image: the export must run in the very container that will serve."""

from __future__ import annotations

import base64
import re
import shutil
import tempfile
from typing import TYPE_CHECKING

from compile_job.errors import StepError
from compile_job.processes import run, run_quietly
from compile_job.signatures import remedy

if TYPE_CHECKING:
    from boto3.session import Session

__all__ = ["pull_image"]

_ECR = re.compile(r"(?P<host>\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?)/.+")


def pull_image(image: str, *, session: Session) -> dict[str, object]:
    """Pull the image unless it is there, logging in to ECR for this pull only.

    Raises
    ------
    StepError
        When Docker is absent or the pull fails.
    """
    if shutil.which("docker") is None:
        message = "docker is not installed on this host: install it (apt-get install docker.io) or use another AMI"
        raise StepError(message)
    digest = _digest(image)
    if digest:
        return {"image": image, "digest": digest, "pulled": False}
    # Docker would keep the login in the home directory; here it goes with the folder.
    with tempfile.TemporaryDirectory(prefix="modelzone-docker-") as config:
        docker = ["docker", "--config", config]
        if match := _ECR.fullmatch(image):
            password = _ecr_password(session, match["region"])
            login = run_quietly(
                [*docker, "login", "--username", "AWS", "--password-stdin", match["host"]], secret=password
            )
            if login.status:
                message = f"login to {match['host']} failed: {login.last_line}"
                raise StepError(message)
        pull = run([*docker, "pull", "--quiet", image])
    if pull.status:
        message = f"pulling {image} failed: {remedy(pull.tail) or pull.last_line}"
        raise StepError(message)
    return {"image": image, "digest": _digest(image), "pulled": True}


def _ecr_password(session: Session, region: str) -> str:
    answer = session.client("ecr", region_name=region).get_authorization_token()
    token = answer["authorizationData"][0].get("authorizationToken", "")
    return base64.b64decode(token).decode().partition(":")[2]


def _digest(image: str) -> str:
    """Return the image's digest, or its id when it came from no registry; empty when it is not here."""
    form = "{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}"
    found = run_quietly(["docker", "image", "inspect", "--format", form, image])
    return "" if found.status else found.last_line.rpartition("@")[2]
