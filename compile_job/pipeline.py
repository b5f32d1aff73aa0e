"""The steps in their order."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from . import events
from .errors import StepError
from .job import DirectoryWeights, HubWeights, Job
from .steps import devices, export, image, publish, resources, verify, weights

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["run_job"]

_Result = TypeVar("_Result")
_CONNECTIONS = 48


def run_job(job: Job) -> None:
    """Do what is not done yet.

    Raises
    ------
    StepError
        When a step failed; the text begins with the step's name.
    Stopped
        When a signal arrived.
    """
    session = boto3.session.Session(region_name=job.region)
    s3 = session.client(
        "s3", config=Config(max_pool_connections=_CONNECTIONS, retries={"mode": "standard", "max_attempts": 8})
    )
    events.emit("job", key=job.key, artifact=job.s3_uri, runner=job.runner)
    if _do("look", lambda: _look(job, s3))["published"]:
        events.emit("done", artifact=job.s3_uri, already=True)
        return
    folders = _Folders(job)
    producer = {"tool": "compile_job", "image": job.image}
    if job.devices:
        _do("devices", lambda: devices.check_devices(job.devices))
    _do(
        "resources",
        lambda: resources.check_resources(
            job.work_dir,
            min_free_gib=job.min_free_gib,
            min_memory_gib=job.min_memory_gib,
            used=folders.own,
        ),
    )
    if job.runner == "docker":
        producer["image_digest"] = str(_do("image", lambda: image.pull_image(job.image, session=session))["digest"])
    producer["weights_revision"] = str(_do("weights", lambda: _weights(job, folders, session))["revision"])
    _do("export", lambda: _export(job, folders))
    producer["compiler"] = str(_do("verify", lambda: verify.verify_artifact(job, folders.output))["compiler"])
    _do("publish", lambda: publish.publish_artifact(job, folders.output, s3=s3, producer=producer))
    shutil.rmtree(folders.output, ignore_errors=True)
    events.emit("done", artifact=job.s3_uri, already=False)


class _Folders:
    """Where a job works. Weights are shared by all jobs for the same revision, the rest is its own."""

    def __init__(self, job: Job) -> None:
        name = job.facts["model_id"].lower().replace("/", "--")
        self.weights = job.work_dir / "weights" / name / job.facts["model_revision"]
        if isinstance(job.weights, DirectoryWeights):
            self.weights = job.weights.path
        self.cache = job.work_dir / "cache" / job.key
        self.output = job.work_dir / "output" / job.key
        self.own = [self.cache, self.output]
        if isinstance(job.weights, HubWeights):
            self.own.append(self.weights)


def _do(name: str, action: Callable[[], dict[str, _Result]]) -> dict[str, _Result]:
    """Run one step; what AWS refuses is a failure of the step that asked for it."""
    try:
        with events.step(name) as details:
            result = action()
            details.update(result)
            return result
    except StepError as error:
        message = f"step '{name}' failed: {error}"
        raise StepError(message) from error
    except ClientError as error:
        message = f"step '{name}' failed: AWS refused {error.operation_name}: {error}; check the host's role"
        raise StepError(message) from error
    except (Boto3Error, BotoCoreError, OSError) as error:
        message = f"step '{name}' failed: {error}"
        raise StepError(message) from error


def _look(job: Job, s3: S3Client) -> dict[str, bool]:
    published = publish.is_published(job, s3=s3)
    if not published:
        publish.check_writable(job, s3=s3)
    return {"published": published}


def _weights(job: Job, folders: _Folders, session: boto3.session.Session) -> dict[str, object]:
    if isinstance(job.weights, DirectoryWeights):
        if job.runner == "docker":
            weights.check_snapshot(folders.weights)
        elif not folders.weights.is_dir():
            message = f"weights.path {folders.weights} is no folder"
            raise StepError(message)
        return {"revision": "local"}
    return weights.hub_snapshot(
        job.weights,
        image=job.image,
        name=f"modelzone-weights-{job.key}",
        folder=folders.weights,
        session=session,
    )


def _export(job: Job, folders: _Folders) -> dict[str, object]:
    export.export_model(job, model=folders.weights, output=folders.output, cache=folders.cache)
    return {"output": str(folders.output)}
