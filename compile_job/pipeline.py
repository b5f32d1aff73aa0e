"""The steps in their order."""

from __future__ import annotations

import ipaddress
import shutil
import threading
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from . import events
from .alone import alone
from .errors import StepError, Stopped
from .failures import explain
from .job import Job
from .layouts import Ordered
from .progress import Progress, Writer
from .signatures import named
from .steps import publish, weights
from .steps.cache import CompileCache
from .steps.devices import check_devices
from .steps.export import Folders, export_model
from .steps.hub import Hub
from .steps.image import Image, pull_image
from .steps.mirror import Mirror
from .steps.resources import check_resources
from .steps.verify import verify_artifact
from .stopping import Stop
from .transfer import client_config

__all__ = ["run_job"]

_Result = TypeVar("_Result")
# EC2 gives two minutes; what is not saved by then is compiled again.
_SAVING_SECONDS = 45.0


def run_job(job: Job, stop: Stop) -> None:
    """Do what is not done yet.

    Raises
    ------
    StepError
        When a step failed; the text begins with the step's name.
    Stopped
        When a signal or a Spot notice arrived.
    """
    # Before the progress is told: one that may not run must not say that the other one failed.
    with alone(job.work_dir):
        _run_alone(job, stop)


def _run_alone(job: Job, stop: Stop) -> None:
    session = boto3.session.Session(region_name=job.region)
    progress = Progress(job.key, _writer(job, session))
    try:
        _Run(job, session, progress, stop).run()
    except StepError as error:
        progress.close("failed", str(error))
        raise
    except Stopped:
        progress.close("stopped", "Spot interruption notice" if stop.spot else "stopped by a signal")
        raise
    except BaseException as error:
        progress.close("failed", type(error).__name__)
        raise
    progress.close("done")


class _Run:
    def __init__(self, job: Job, session: boto3.session.Session, progress: Progress, stop: Stop) -> None:
        self._job = job
        self._session = session
        self._progress = progress
        self._stop = stop
        self._s3 = session.client("s3", config=client_config())
        self._mirror = Mirror(self._s3, job.bucket, job.weights)
        self._folders = Folders(job)
        self._options: list[str] = []
        self._image = Image("", "", pulled=False)

    def run(self) -> None:
        job = self._job
        events.emit("job", key=job.key, artifact=job.s3_uri, layout=job.layout, mirrors_only=job.mirrors_only)
        if self._do("look", self._look):
            events.emit("done", artifact=job.s3_uri, already=True)
            return
        if job.devices and not job.mirrors_only:
            self._do("devices", self._devices)
        self._do("resources", self._resources)
        if not job.mirrors_only or job.weights.source == "hub":
            self._do("image", self._pull)
        revision = self._do("weights", self._weights)
        if not job.mirrors_only:
            self._do("export", self._export)
            compiler = self._do("verify", self._verify)
            published = self._do("publish", lambda details: self._publish(details, revision, compiler))
            shutil.rmtree(self._folders.output, ignore_errors=True)
            events.emit("done", artifact=job.s3_uri, already=published.already, unlisted=list(published.unlisted))
            return
        events.emit("done", artifact=job.s3_uri, already=False)

    def _do(self, name: str, action: Callable[[dict[str, object]], _Result]) -> _Result:
        """Run one step; what AWS or the host refuses is a failure of the step that asked for it."""
        self._stop.check()
        try:
            with self._progress.step(name) as details:
                return action(details)
        except (StepError, ClientError, Boto3Error, BotoCoreError, OSError) as error:
            self._stop.check()
            message = f"step '{name}' failed: {named(explain(error, self._job.bucket))}"
            raise StepError(message) from error

    def _look(self, details: dict[str, object]) -> bool:
        job, check = self._job, self._stop.check
        if job.mirrors_only:
            # What a branch is now, the hub has to say.
            settled = job.weights.source == "s3" or job.weights.revision != "main"
            found = settled and self._mirror.is_complete(check)
        else:
            found = publish.is_published(job, s3=self._s3, check=check)
        details["published"] = found
        if not found:
            places = [job.weights.prefix] if job.weights.source == "hub" else []
            places += [] if job.mirrors_only else [job.prefix]
            for prefix in places:
                publish.check_writable(job.bucket, prefix, s3=self._s3)
        return found

    def _devices(self, details: dict[str, object]) -> None:
        self._options = check_devices(self._job.accelerator, self._job.devices)
        details["options"] = " ".join(self._options)

    def _resources(self, details: dict[str, object]) -> None:
        job = self._job
        details.update(
            check_resources(
                job.work_dir,
                min_free_gib=job.min_free_gib,
                # A host that only mirrors compiles nothing.
                min_memory_gib=0 if job.mirrors_only else job.min_memory_gib,
                used=self._folders.all,
            )
        )

    def _pull(self, details: dict[str, object]) -> None:
        job = self._job
        self._image = pull_image(job.image, job.image_digest, session=self._session, check=self._stop.check)
        details.update(vars(self._image))

    def _weights(self, details: dict[str, object]) -> str:
        found = weights.get_weights(
            self._job,
            self._folders.weights,
            mirror=self._mirror,
            hub=self._hub,
            progress=self._progress,
            stop=self._stop,
        )
        details.update(vars(found))
        return found.revision

    def _hub(self) -> Hub:
        return Hub(
            weights=self._job.weights,
            image=self._image.reference,
            name=f"modelzone-weights-{self._job.key}",
            session=self._session,
            check=self._stop.check,
        )

    def _export(self, details: dict[str, object]) -> None:
        job, folders = self._job, self._folders
        cache = CompileCache(self._s3, job.bucket, job.key, folders.cache) if job.accelerator == "neuron" else None
        if cache is not None:
            cache.restore(self._stop.event)
        try:
            export_model(job, folders, image=self._image.reference, options=self._options, check=self._stop.check)
        except StepError:
            if cache is not None:
                cache.save(self._stop.event)
            raise
        except Stopped:
            if cache is not None and self._stop.spot:
                _save_in_time(cache)
            raise
        if cache is not None:
            cache.save(self._stop.event)
        details["output"] = str(folders.output)

    def _verify(self, details: dict[str, object]) -> str:
        ordered = Ordered(self._job.facts, stand_in_allowed=_is_on_this_machine(self._s3.meta.endpoint_url))
        found = verify_artifact(ordered, self._folders.output, layout=self._job.layout)
        details.update(vars(found))
        return found.compiler

    def _publish(self, details: dict[str, object], revision: str, compiler: str) -> publish.Published:
        producer = {
            "tool": "compile_job",
            "image": self._job.image,
            "image_digest": self._image.digest,
            "weights_revision": revision,
            "compiler": compiler,
        }
        published = publish.publish_artifact(
            self._job,
            self._folders.output,
            s3=self._s3,
            producer=producer,
            progress=self._progress,
            stop=self._stop,
        )
        details.update(objects=published.objects, sent=published.sent, bytes=published.bytes)
        return published


def _writer(job: Job, session: boto3.session.Session) -> Writer | None:
    if not job.progress_parameter:
        return None
    ssm = session.client(
        "ssm", config=Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "max_attempts": 2})
    )

    def write(value: str) -> None:
        ssm.put_parameter(Name=job.progress_parameter, Value=value, Type="String", Overwrite=True)

    return write


def _save_in_time(cache: CompileCache) -> None:
    """The host goes away in two minutes, and hours of compiling with it: what is finished is worth some of them."""
    enough = threading.Event()
    timer = threading.Timer(_SAVING_SECONDS, enough.set)
    timer.daemon = True
    timer.start()
    try:
        cache.save(enough)
    except Stopped:
        events.emit("warning", message=f"not all of the compiler's cache was saved within {_SAVING_SECONDS:.0f} s")
    finally:
        timer.cancel()


def _is_on_this_machine(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
