"""Who uses an artifact: deployments now and before, SageMaker models, compilations that run, plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from modelzone.artifacts.registry import Order, Parameters
from modelzone.artifacts.store import ArtifactPlace
from modelzone.compiling.aws import aws_errors, stack_outputs_or_none
from modelzone.compiling.executions import Machine

if TYPE_CHECKING:
    from mypy_boto3_sagemaker import SageMakerClient

__all__ = ["Use", "of_executions", "of_models", "of_orders", "of_registry", "used_by"]

Kind = Literal["deployment", "retained version", "model", "running compilation", "plan"]


@dataclass(frozen=True, kw_only=True)
class Use:
    """Something that needs an artifact: the one with this key, or whatever lies below or around this URI."""

    kind: Kind
    who: str
    key: str = ""
    uri: str = ""

    @property
    def text(self) -> str:
        """In words: ``deployment dev/mixtral``."""
        return f"{self.kind} {self.who}"

    def concerns(self, place: ArtifactPlace) -> bool:
        """Whether it needs this artifact. A prefix without its slash, or one that is shorter, needs all below it."""
        if self.key:
            return self.key == place.key
        return bool(self.uri) and (place.uri.startswith(self.uri) or self.uri.startswith(place.uri))


def used_by(place: ArtifactPlace, uses: list[Use]) -> list[Use]:
    """Those that need an artifact."""
    return [use for use in uses if use.concerns(place)]


def of_registry(parameters: Parameters) -> Iterator[Use]:
    """Deployments of all environments: what they serve, and what their last versions served."""
    for entry in parameters.deployments:
        if entry.artifact:
            name = f"{entry.environment}/{entry.deployment}"
            yield Use(
                kind="deployment" if entry.current else "retained version",
                who=name if entry.current else f"{entry.version} of {name}",
                uri=entry.artifact,
            )


def of_orders(parameters: Parameters) -> Iterator[Use]:
    """What environments plan: their next deploy would compile it again."""
    for order in parameters.orders:
        yield Use(kind="plan", who=f"of {order.environment}/{order.deployment}", uri=order.artifact)


def of_models(sagemaker: SageMakerClient) -> Iterator[Use]:
    """SageMaker models of the account that load something from S3."""
    with aws_errors("reading the account's SageMaker models"):
        for page in sagemaker.get_paginator("list_models").paginate():
            for row in page["Models"]:
                try:
                    model: Any = sagemaker.describe_model(ModelName=row["ModelName"])
                except sagemaker.exceptions.ClientError as error:
                    # It was deleted since it was listed.
                    if "Could not find" in str(error):
                        continue
                    raise
                for uri in _sources(model):
                    yield Use(kind="model", who=row["ModelName"], uri=uri)


def _sources(model: dict[str, Any]) -> set[str]:
    """Every S3 URI in a model's description, wherever it stands: fields for models come with every year."""
    found: set[str] = set()
    pending: list[Any] = [model]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str) and value.startswith("s3://"):
            found.add(value)
    return found


def of_executions(
    parameters: Parameters, *, cloudformation: Any, machines: Callable[[str], Machine], also: tuple[str, ...] = ()
) -> Iterator[Use]:
    """Compilations that run, in all environments.

    Parameters
    ----------
    machines
        Makes the state machine of an ARN.
    also
        Environments that may have no parameters yet.
    """
    orders = {(order.environment, order.deployment): order for order in parameters.orders}
    for environment in sorted({*parameters.environments, *also}):
        outputs = stack_outputs_or_none(cloudformation, f"modelzone-{environment}-compile")
        arn = (outputs or {}).get("StateMachineArn")
        if not arn:
            # Nothing can run where there is no state machine.
            continue
        machine = machines(arn)
        for execution in machine.running():
            key = execution.key or machine.key_by_input(execution, _order_facts(orders, environment))
            yield Use(kind="running compilation", who=execution.name, key=key)


def _order_facts(orders: dict[tuple[str, str], Order], environment: str) -> Callable[[str], dict[str, str] | None]:
    def facts(deployment: str) -> dict[str, str] | None:
        order = orders.get((environment, deployment))
        return order.facts if order else None

    return facts
