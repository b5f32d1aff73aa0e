"""SageMaker hosting: one model server process per production variant, from Creating to InService or Failed."""

from __future__ import annotations

import logging
import os
import random
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from modelzone.local.emulator.children import ChildProcesses
from modelzone.local.emulator.container_log import ContainerLog
from modelzone.local.emulator.environment import base_child_environment, package_root
from modelzone.local.emulator.model_data import ModelData, ModelDataError, S3ModelData
from modelzone.local.emulator.settings import EmulatorSettings

# The stand-in's own switches (such as a delay for each token), set by whoever starts the emulator.
_MODEL_SERVER_SETTINGS = "MODELZONE_LOCAL_TOKEN_"

__all__ = [
    "EndpointKey",
    "EndpointPlan",
    "EndpointStatus",
    "HostedEndpoint",
    "ModelHosting",
    "NoSuchVariant",
    "VariantPlan",
    "VariantUnavailable",
    "free_port",
]

_PING_TIMEOUT_S = 2.0
_PING_INTERVAL_S = 0.1
_HTTP_OK = 200

logger = logging.getLogger("modelzone.emulator.hosting")


class EndpointStatus(StrEnum):
    """The states of SageMaker's EndpointStatus that hosting goes through."""

    CREATING = "Creating"
    UPDATING = "Updating"
    IN_SERVICE = "InService"
    FAILED = "Failed"


class NoSuchVariant(Exception):  # noqa: N818 - named after the situation
    """The endpoint has no production variant of that name."""


class VariantUnavailable(Exception):  # noqa: N818 - named after the situation
    """The variant's model server is not running at the moment."""


@dataclass(frozen=True, kw_only=True)
class EndpointKey:
    """An endpoint's identity."""

    account: str
    region: str
    name: str


@dataclass(frozen=True, kw_only=True)
class VariantPlan:
    """What one production variant runs, resolved from the endpoint configuration and its model."""

    name: str
    image: str
    environment: Mapping[str, str]
    data: S3ModelData | None
    startup_timeout_s: float
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class EndpointPlan:
    """What an endpoint shall run."""

    config_name: str
    variants: tuple[VariantPlan, ...]


@dataclass(frozen=True, kw_only=True)
class _Instance:
    """A running model server."""

    plan: VariantPlan
    process: subprocess.Popen[Any]
    port: int
    folder: Path
    log: ContainerLog

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


class _StartFailed(Exception):  # noqa: N818 - carries SageMaker's FailureReason
    pass


@dataclass(kw_only=True)
class HostedEndpoint:
    """An endpoint's state. ``settled`` is set whenever no create or update is under way.

    ``failure_reason`` belongs to the last create or update, also when the endpoint kept serving.
    """

    key: EndpointKey
    status: EndpointStatus
    config_name: str
    failure_reason: str | None = None
    settled: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    instances: dict[str, _Instance] = field(default_factory=dict)


class ModelHosting:
    """Starts, watches, replaces and stops the model servers of all endpoints."""

    def __init__(
        self, *, settings: EmulatorSettings, children: ChildProcesses, image_known: Callable[[str], bool]
    ) -> None:
        self._settings = settings
        self._children = children
        self._image_known = image_known
        self._lock = threading.Lock()
        self._endpoints: dict[EndpointKey, HostedEndpoint] = {}

    def get(self, key: EndpointKey) -> HostedEndpoint | None:
        """The endpoint's state, ``None`` for an unknown one."""
        with self._lock:
            return self._endpoints.get(key)

    def create(
        self, key: EndpointKey, plan: EndpointPlan, *, on_settled: Callable[[HostedEndpoint], None]
    ) -> HostedEndpoint:
        """Start hosting in the background; ``on_settled`` is called when the endpoint is InService or Failed."""
        endpoint = HostedEndpoint(key=key, status=EndpointStatus.CREATING, config_name=plan.config_name)
        with self._lock:
            self._endpoints[key] = endpoint
        self._in_background(endpoint, plan, on_settled)
        return endpoint

    def update(
        self, endpoint: HostedEndpoint, plan: EndpointPlan, *, on_settled: Callable[[HostedEndpoint], None]
    ) -> None:
        """Replace what the endpoint runs; the old model servers serve until all the new ones are healthy."""
        endpoint.status = EndpointStatus.UPDATING
        endpoint.failure_reason = None
        endpoint.settled.clear()
        self._in_background(endpoint, plan, on_settled)

    def delete(self, key: EndpointKey) -> None:
        """Stop an endpoint, also one that is still starting. The process ends in the background."""
        with self._lock:
            endpoint = self._endpoints.pop(key, None)
            if endpoint is None:
                return
            endpoint.cancelled.set()
            instances, endpoint.instances = endpoint.instances, {}
        threading.Thread(target=self._stop, args=(instances,), name="hosting-delete", daemon=True).start()

    def port_for(self, endpoint: HostedEndpoint, *, target_variant: str | None = None) -> tuple[str, int]:
        """The variant (chosen by weight unless named) and port that serve an invocation.

        Raises
        ------
        NoSuchVariant
            ``target_variant`` names none of the endpoint's.
        VariantUnavailable
            The model server ended; it is being started again.
        """
        instances = endpoint.instances
        if target_variant is not None and target_variant not in instances:
            raise NoSuchVariant(target_variant)
        if not instances:
            raise VariantUnavailable(endpoint.key.name)
        candidates = [target_variant] if target_variant is not None else list(instances)
        weights = [max(instances[name].plan.weight, 0.0) for name in candidates]
        chosen = random.choices(candidates, weights if any(weights) else None)[0]  # noqa: S311 - traffic, no secret
        instance = instances[chosen]
        if not instance.alive:
            self._restart(endpoint, instance)
            raise VariantUnavailable(chosen)
        return chosen, instance.port

    def _in_background(
        self, endpoint: HostedEndpoint, plan: EndpointPlan, on_settled: Callable[[HostedEndpoint], None]
    ) -> None:
        def run() -> None:
            self._replace_instances(endpoint, plan)
            on_settled(endpoint)
            endpoint.settled.set()

        threading.Thread(target=run, name=f"hosting-{endpoint.key.name}", daemon=True).start()

    def _replace_instances(self, endpoint: HostedEndpoint, plan: EndpointPlan) -> None:
        creating = endpoint.status is EndpointStatus.CREATING
        started: dict[str, _Instance] = {}
        try:
            for variant in plan.variants:
                started[variant.name] = self._start(endpoint, variant)
        except Exception as failure:
            self._stop(started)
            if isinstance(failure, _StartFailed):
                logger.warning("endpoint %s: %s", endpoint.key.name, failure)
                endpoint.failure_reason = str(failure)
            else:  # whoever waits for the endpoint must not wait for ever
                logger.exception("endpoint %s", endpoint.key.name)
                endpoint.failure_reason = f"Request to service failed: {failure}"
            endpoint.status = EndpointStatus.FAILED if creating else EndpointStatus.IN_SERVICE
            return
        with self._lock:
            deleted = endpoint.cancelled.is_set()
            replaced = started if deleted else endpoint.instances
            if not deleted:
                endpoint.instances = started
                endpoint.config_name = plan.config_name
                endpoint.failure_reason = None
                endpoint.status = EndpointStatus.IN_SERVICE
        self._stop(replaced)

    def _start(self, endpoint: HostedEndpoint, plan: VariantPlan) -> _Instance:
        if not self._image_known(plan.image):
            raise _StartFailed(
                f"CannotPullContainerError: the image '{plan.image}' of production variant {plan.name} does not exist. "
                "Ensure that the image URI and its registry, repository and tag are correct."
            )
        folder = self._settings.models_dir / uuid.uuid4().hex
        folder.mkdir(parents=True)
        if plan.data is not None:
            try:
                ModelData(
                    endpoint_url=self._settings.endpoint_url, account=endpoint.key.account, region=endpoint.key.region
                ).copy(plan.data, folder)
            except ModelDataError as error:
                ModelData.discard(folder)
                raise _StartFailed(
                    f"Failed to download model data for the primary container of production variant {plan.name} from "
                    f'URL: "{plan.data.uri}". Please ensure that there is an object located at the URL and that the '
                    f"role passed to CreateModel has permissions to download the object. ({error})"
                ) from error
        instance = self._launch(endpoint, plan, folder)
        if not self._healthy_in_time(endpoint, instance):
            self._stop({plan.name: instance})
            instance.log.publish(self._settings)
            raise _StartFailed(
                f"The primary container for production variant {plan.name} did not pass the ping health check. "
                "Please check CloudWatch logs for this endpoint."
            )
        return instance

    def _launch(self, endpoint: HostedEndpoint, plan: VariantPlan, folder: Path) -> _Instance:
        port = free_port()
        environment = {
            **base_child_environment(self._settings),
            **{k: v for k, v in os.environ.items() if k.startswith(_MODEL_SERVER_SETTINGS)},
            "PYTHONPATH": str(package_root()),
            "AWS_REGION": endpoint.key.region,
            "AWS_DEFAULT_REGION": endpoint.key.region,
            **plan.environment,
        }
        command = [*self._settings.model_server_command, "--model-dir", str(folder), "--port", str(port)]
        log = ContainerLog.begin(
            file=self._settings.logs_dir / f"model-server-{endpoint.key.name}.log",
            account=endpoint.key.account,
            region=endpoint.key.region,
            group=f"/aws/sagemaker/Endpoints/{endpoint.key.name}",
            stream=f"{plan.name}/{folder.name}-{port}",
        )
        with log.file.open("ab") as output:
            process = self._children.spawn(
                command,
                name=f"{endpoint.key.name}/{plan.name}",
                kind="model-server",
                environment=environment,
                cwd=folder,
                port=port,
                stdout=output,
            )
        return _Instance(plan=plan, process=process, port=port, folder=folder, log=log)

    def _healthy_in_time(self, endpoint: HostedEndpoint, instance: _Instance) -> bool:
        deadline = time.monotonic() + instance.plan.startup_timeout_s
        while time.monotonic() < deadline and instance.alive and not endpoint.cancelled.is_set():
            if _ping(instance.port):
                return True
            endpoint.cancelled.wait(_PING_INTERVAL_S)
        return False

    def _restart(self, endpoint: HostedEndpoint, instance: _Instance) -> None:
        """Start a model server that ended anew, in the background and once."""
        name = instance.plan.name
        with self._lock:
            if endpoint.instances.get(name) is not instance or endpoint.cancelled.is_set():
                return
            logger.warning(
                "endpoint %s: the model server of variant %s ended with code %s and is started again",
                *(endpoint.key.name, name, instance.process.returncode),
            )
            fresh = self._launch(endpoint, instance.plan, instance.folder)
            endpoint.instances = {**endpoint.instances, name: fresh}
        instance.log.publish(self._settings)

    def _stop(self, instances: Mapping[str, _Instance]) -> None:
        for instance in instances.values():
            self._children.stop(instance.process)
            ModelData.discard(instance.folder)


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ping(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=_PING_TIMEOUT_S) as answer:
            return bool(answer.status == _HTTP_OK)
    except (urllib.error.URLError, OSError):
        return False
