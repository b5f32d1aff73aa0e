"""What the parameters below ``/modelzone/`` say of artifacts: of all environments, because they may share a store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelzone.artifacts.key import artifact_prefix
from modelzone.compiling.aws import aws_errors, environments_in
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

__all__ = ["DeploymentEntry", "Order", "Parameters", "RegistryEntry", "read_order", "read_parameters"]

_ROOT = "/modelzone"
_ORDERS = "/compile/orders/"
_PROGRESS = "/compile/progress/"
_ARTIFACTS = "/artifacts/"
_DEPLOYMENTS = "/deployments/"


@dataclass(frozen=True, kw_only=True)
class RegistryEntry:
    """What the pipeline wrote of an artifact when it published it: ``/modelzone/<environment>/artifacts/<key>``."""

    parameter: str
    environment: str
    key: str
    artifact: str
    deployment: str
    created: str
    bytes: int | None
    seconds: float | None
    manifest_sha256: str


@dataclass(frozen=True, kw_only=True)
class DeploymentEntry:
    """One version of a deployment's registry entry. `artifact` is empty in entries of before there were artifacts."""

    environment: str
    deployment: str
    version: int
    current: bool
    artifact: str


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the compile stack of an environment would compile for a deployment."""

    environment: str
    deployment: str
    data: Mapping[str, Any]

    @property
    def facts(self) -> dict[str, str]:
        """The facts as planned when the stack was deployed."""
        return dict(self.data["facts"])

    @property
    def job(self) -> Mapping[str, Any]:
        """The fixed part of the job."""
        job: Mapping[str, Any] = self.data["job"]
        return job

    @property
    def bucket(self) -> str:
        """The model bucket that the environment uses."""
        return str(self.job["bucket"])

    @property
    def artifact(self) -> str:
        """Where the planned artifact lies."""
        return f"s3://{self.bucket}/{artifact_prefix(self.facts)}"


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Everything below ``/modelzone/`` that concerns artifacts.

    Attributes
    ----------
    progress
        Names of the parameters that compile jobs write, by environment and key.
    """

    environments: tuple[str, ...]
    orders: tuple[Order, ...]
    artifacts: tuple[RegistryEntry, ...]
    deployments: tuple[DeploymentEntry, ...]
    progress: Mapping[tuple[str, str], str]

    def using(self, bucket: str) -> set[str]:
        """Environments whose compile stack uses a bucket."""
        return {order.environment for order in self.orders if order.bucket == bucket}


def read_parameters(ssm: SSMClient, *, versions: int) -> Parameters:
    """Read them all.

    Parameters
    ----------
    versions
        How many versions of each deployment's entry count: the current one and those before it.

    Raises
    ------
    ModelzoneError
        They cannot be read, or one cannot be understood; the text names it.
    """
    orders: list[Order] = []
    artifacts: list[RegistryEntry] = []
    deployments: list[DeploymentEntry] = []
    progress: dict[tuple[str, str], str] = {}
    names: list[str] = []
    for name, value in _all(ssm):
        names.append(name)
        environment = name.split("/")[2]
        rest = name.removeprefix(f"{_ROOT}/{environment}")
        last = rest.rpartition("/")[2]
        if rest == _ORDERS + last:
            orders.append(_order(environment, last, name, value))
        elif rest == _PROGRESS + last:
            progress[environment, last] = name
        elif rest == _ARTIFACTS + last:
            artifacts.append(_artifact(environment, last, name, value))
        elif rest == _DEPLOYMENTS + last:
            deployments += _versions(ssm, environment, last, name, keep=versions)
    return Parameters(
        environments=environments_in(names),
        orders=tuple(orders),
        artifacts=tuple(artifacts),
        deployments=tuple(deployments),
        progress=progress,
    )


def read_order(ssm: SSMClient, *, environment: str, deployment: str) -> Order | None:
    """The order of one deployment; None where the compile stack has written none."""
    name = f"{_ROOT}/{environment}{_ORDERS}{deployment}"
    with aws_errors(f"reading parameter {name}"):
        try:
            value = ssm.get_parameter(Name=name)["Parameter"].get("Value", "")
        except ssm.exceptions.ParameterNotFound:
            return None
    return _order(environment, deployment, name, value)


def _all(ssm: SSMClient) -> Iterator[tuple[str, str]]:
    with aws_errors(f"reading the parameters below {_ROOT}/"):
        pages = ssm.get_paginator("get_parameters_by_path").paginate(Path=f"{_ROOT}/", Recursive=True)
        for page in pages:
            for parameter in page["Parameters"]:
                yield parameter.get("Name", ""), parameter.get("Value", "")


def _json(name: str, value: str) -> dict[str, Any]:
    try:
        data = json.loads(value)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ModelzoneError(
            f"parameter {name} is not a JSON object: {value!r:.80}\n  fix: deploy the stack that writes it again"
        )
    return data


def _order(environment: str, deployment: str, name: str, value: str) -> Order:
    data = _json(name, value)
    facts, job = data.get("facts"), data.get("job")
    if not (
        isinstance(facts, dict)
        and isinstance(facts.get("model_id"), str)
        and isinstance(job, dict)
        and isinstance(job.get("bucket"), str)
    ):
        raise ModelzoneError(
            f"parameter {name} is no order that this version reads\n"
            f"  fix: cdk deploy CompileStack -c environment={environment}"
        )
    return Order(environment=environment, deployment=deployment, data=data)


def _artifact(environment: str, key: str, name: str, value: str) -> RegistryEntry:
    data = _json(name, value)
    return RegistryEntry(
        parameter=name,
        environment=environment,
        key=key,
        artifact=str(data.get("artifact", "")),
        deployment=str(data.get("deployment", "")),
        created=str(data.get("created", "")),
        bytes=data["bytes"] if isinstance(data.get("bytes"), int) else None,
        seconds=float(data["seconds"]) if isinstance(data.get("seconds"), int | float) else None,
        manifest_sha256=str(data.get("manifest_sha256", "")),
    )


def _versions(ssm: SSMClient, environment: str, deployment: str, name: str, *, keep: int) -> Iterator[DeploymentEntry]:
    """The newest versions, oldest first. AWS keeps a hundred."""
    with aws_errors(f"reading the history of parameter {name}"):
        pages: Any = ssm.get_paginator("get_parameter_history").paginate(Name=name)
        rows = sorted((row["Version"], row["Value"]) for page in pages for row in page["Parameters"])
    if not rows:
        raise ModelzoneError(f"parameter {name} has no history, so nobody knows what it used\n  fix: try again")
    for version, value in rows[-keep:]:
        yield DeploymentEntry(
            environment=environment,
            deployment=deployment,
            version=version,
            current=version == rows[-1][0],
            artifact=str(_json(name, value).get("artifact", "")),
        )
