"""What a compilation would make, on what, for how much: checked before anything is started."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from modelzone.artifacts.key import artifact_key, artifact_prefix
from modelzone.artifacts.manifest import MANIFEST
from modelzone.artifacts.registry import Order
from modelzone.artifacts.store import s3_uri
from modelzone.compiling.aws import aws_errors, code_of
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
_ABSENT = {"404", "NoSuchKey", "NotFound"}


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
    """

    order: Order
    facts: Mapping[str, str]
    changes: Mapping[str, str]
    weights_only: bool
    instance_types: tuple[str, ...]
    usd_per_hour: float | None

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
        slug = self.facts["model_id"].lower().replace("/", "--")
        return f"weights/{slug}/{self.facts['model_revision']}/"

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


def check_order(order: Order | None, plan: DeploymentPlan) -> Order:
    """The order, if it is for the artifact that is planned here.

    Raises
    ------
    ModelzoneError
        There is none, or the compile stack was deployed from other settings.
    """
    deploy = f"cdk deploy CompileStack -c environment={plan.environment}"
    if order is None:
        raise ModelzoneError(
            f"the compile stack of {plan.environment} knows no deployment {plan.name}: it was deployed before that was "
            f"added\n  fix: {deploy}"
        )
    planned = plan.facts.as_dict()
    wrong = [
        f"{name} {order.facts.get(name)!r} there, {planned.get(name)!r} here"
        for name in sorted({*planned, *order.facts})
        if order.facts.get(name) != planned.get(name)
    ]
    if wrong:
        raise ModelzoneError(
            f"the compile stack of {plan.environment} was deployed from other settings than those of this folder: "
            f"{'; '.join(wrong)}\n  fix: {deploy}"
        )
    return order


def other_differences(order: Order, environment: EnvironmentPlan, plan: DeploymentPlan) -> Iterator[str]:
    """What else the compile stack would do differently from what is planned here; the artifact is the same."""
    settings, ordered = environment.environment.compile, order.data
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
    price = instance_price(types[0], region=region)
    return Request(
        order=order,
        facts=facts,
        changes={name: value for name, value in facts.items() if ordered.get(name) != value},
        weights_only=weights_only,
        instance_types=tuple(types),
        usd_per_hour=price.usd if price else None,
    )


def mirror_exists(s3: S3Client, wanted: Request) -> bool:
    """Whether the weights are mirrored completely: their manifest is written last."""
    key = wanted.weights_prefix + MANIFEST
    with aws_errors(f"looking for {s3_uri(wanted.order.bucket, key)}"):
        try:
            s3.head_object(Bucket=wanted.order.bucket, Key=key)
        except ClientError as error:
            if code_of(error) in _ABSENT:
                return False
            raise
    return True


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
