"""What a compilation would make, on what, for how much: checked before anything is started."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelzone.artifacts.copy import of_weights
from modelzone.artifacts.key import artifact_key, artifact_prefix, weights_prefix
from modelzone.artifacts.registry import Order
from modelzone.artifacts.store import s3_uri
from modelzone.artifacts.verify import check_objects
from modelzone.errors import ModelzoneError
from modelzone.prices import instance_price

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from modelzone.planning import DeploymentPlan, EnvironmentPlan

__all__ = ["MODEL_FIELDS", "PLANNED_FIELDS", "Request", "check_order", "mirror_exists", "other_differences", "request"]

# What an execution may be given to differ from the order: those that the planner checks, and those of the model.
PLANNED_FIELDS = ("tensor_parallel_degree", "batch_size", "sequence_length")
MODEL_FIELDS: Mapping[str, tuple[str, str]] = {
    "model_id": (r"[\w.-]+/[\w.-]+", "a hub id like org/name"),
    "model_revision": (r"[0-9a-f]{40}", "a commit of the hub, 40 hexadecimal digits"),
}
# How long a host may last beyond the hours of one compilation: its end leaves an hour for waiting for capacity, and
# what ends hosts looks every half hour.
_BEYOND_HOURS = 1.5


@dataclass(frozen=True, kw_only=True)
class Request:
    """One compilation as it would be started.

    Attributes
    ----------
    facts
        Of the artifact that it makes.
    changes
        Those that differ from the order.
    instance_types
        In the order in which they are tried.
    usd_per_hour
        On-demand price of the first of them; None when unknown.
    dearest_usd_per_hour
        Of the dearest of them, likewise.
    """

    order: Order
    facts: Mapping[str, str]
    changes: Mapping[str, str]
    weights_only: bool
    instance_types: tuple[str, ...]
    usd_per_hour: float | None
    dearest_usd_per_hour: float | None

    @property
    def key(self) -> str:
        """The artifact's key."""
        return artifact_key(self.facts)

    @property
    def prefix(self) -> str:
        """Where it will lie in the bucket; with `weights_only` where the weights will."""
        return self.weights_prefix if self.weights_only else artifact_prefix(self.facts)

    @property
    def weights_prefix(self) -> str:
        """Where the mirror of the weights lies."""
        return weights_prefix(self.facts["model_id"], self.facts["model_revision"])

    @property
    def uri(self) -> str:
        """`prefix` with its bucket."""
        return s3_uri(self.order.bucket, self.prefix)

    @property
    def purchase(self) -> str:
        """``on-demand`` or ``spot``."""
        return str(self.order.data.get("purchase", "on-demand"))

    @property
    def max_hours(self) -> int:
        """How long it may take."""
        return int(self.order.data.get("max_hours", 0))

    @property
    def most_hours(self) -> float:
        """How long its host can last, whatever happens to it."""
        return self.max_hours + _BEYOND_HOURS

    @property
    def most_usd(self) -> float | None:
        """What the dearest host costs for as long as it can last; None when a price is unknown."""
        return None if self.dearest_usd_per_hour is None else self.dearest_usd_per_hour * self.most_hours


def check_order(order: Order | None, plan: DeploymentPlan, *, context: str = "") -> Order:
    """The order, if it can make the artifact that is planned here: numbers and model may differ, an execution has them.

    Parameters
    ----------
    context
        Options of the CDK that the plan was made with, for the command that deploys it.

    Raises
    ------
    ModelzoneError
        There is none, or the compile stack was deployed from settings that differ otherwise.
    """
    deploy = f"cdk deploy CompileStack -c environment={plan.environment}{context}"
    if order is None:
        raise ModelzoneError(
            f"the compile stack of {plan.environment} knows no deployment {plan.name}: it was deployed before that was "
            f"added\n  fix: {deploy}"
        )
    planned = plan.facts.as_dict()
    wrong = [
        f"{name} {order.facts.get(name)!r} there, {planned.get(name)!r} here"
        for name in sorted({*planned, *order.facts})
        if order.facts.get(name) != planned.get(name) and name not in {*PLANNED_FIELDS, *MODEL_FIELDS}
    ]
    if wrong:
        raise ModelzoneError(
            f"the compile stack of {plan.environment} was deployed from other settings than those of this folder: "
            f"{'; '.join(wrong)}\n  fix: {deploy}"
        )
    return order


def other_differences(order: Order, environment: EnvironmentPlan, plan: DeploymentPlan) -> Iterator[str]:
    """What the compile stack would do differently from what is planned here; the artifact is what is planned here."""
    settings, ordered = environment.environment.compile, order.data
    planned = plan.facts.as_dict()
    for name in (*PLANNED_FIELDS, *MODEL_FIELDS):
        if order.facts.get(name) != planned.get(name):
            yield f"the compile stack orders {name} {order.facts.get(name)}; {planned.get(name)} is compiled, as here"
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("purchase", ordered.get("purchase"), settings.purchase),
        ("max_hours", ordered.get("max_hours"), settings.max_hours),
        (
            "instance types",
            ", ".join(host.get("instance_type", "") for host in ordered.get("hosts", ())),
            ", ".join(host.instance_type for host in plan.compile.hosts),
        ),
        ("image", order.job.get("image"), plan.compile.image_uri),
        ("weights", _mapping(order.job.get("weights")).get("source"), plan.compile.weights_source),
    )
    for name, there, here in pairs:
        if there != here:
            yield f"the compile stack has {name} {there}, this folder {here}: deploy CompileStack to compile as planned"


def request(
    order: Order, planned: DeploymentPlan, *, model: Mapping[str, str], weights_only: bool, region: str
) -> Request:
    """Put together what is asked for.

    Parameters
    ----------
    planned
        The deployment's plan with the fields that were given.
    model
        Facts of another model, which no plan checks.

    Raises
    ------
    ModelzoneError
        A value of the model cannot be, or no host of the order can compile it.
    """
    for name, value in model.items():
        pattern, what = MODEL_FIELDS[name]
        if not re.fullmatch(pattern, value):
            raise ModelzoneError(f"--set {name}={value}: that is not {what}")
    facts = {**planned.facts.as_dict(), **model}
    # Engines that compile nothing ahead of time only need the weights.
    weights_only = weights_only or order.job.get("layout") == "none"
    ordered = order.facts
    degree = int(facts["tensor_parallel_degree"])
    choices = order.data.get("hosts", ())
    types = [
        choice["instance_type"] for choice in choices if degree in choice.get("tensor_parallel_degrees", (degree,))
    ]
    if weights_only:
        types = [_mapping(order.data.get("mirror_host"))["instance_type"]]
    if not types:
        raise ModelzoneError(
            f"tensor_parallel_degree {degree} is possible on none of the hosts of the compile stack, "
            f"{', '.join(choice['instance_type'] for choice in choices)}\n"
            "  fix: plan it in the environment file, and deploy CompileStack"
        )
    prices = [price.usd if (price := instance_price(name, region=region)) else None for name in types]
    known = [price for price in prices if price is not None]
    return Request(
        order=order,
        facts=facts,
        changes={name: value for name, value in facts.items() if ordered.get(name) != value},
        weights_only=weights_only,
        instance_types=tuple(types),
        usd_per_hour=prices[0],
        dearest_usd_per_hour=max(known) if len(known) == len(prices) else None,
    )


def mirror_exists(s3: S3Client, wanted: Request) -> bool:
    """Whether the weights are mirrored completely: their manifest lists objects, and those are there as it says."""
    mirror = of_weights(s3, wanted.order.bucket, wanted.weights_prefix)
    if mirror is None:
        return False
    return not any(item.problem for item in check_objects(s3, mirror.bucket, mirror.prefix, mirror.objects))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
