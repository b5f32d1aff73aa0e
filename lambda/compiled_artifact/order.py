"""What a stack orders: the properties of its custom resource, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import CheckError
from .facts import FACT_NAMES, SHAPING

__all__ = ["Order", "integer", "mapping", "text"]

_INSTANCE_TYPE_PARTS = 3


@dataclass(frozen=True, kw_only=True)
class Order:
    """The resource's properties. CloudFormation passes every value as text.

    Attributes
    ----------
    values
        The settings of the stack by their parameters' names: what the operator gave, or else what was planned.
    planned_facts
        The facts without what the operator gave.
    image_given
        Whether the operator chose the serving image.
    """

    bucket: str
    deployment: str
    facts: Mapping[str, str]
    planned_facts: Mapping[str, str]
    values: Mapping[str, str]
    image_given: bool
    min_instances: int
    max_instances: int
    instance_type: str
    allowed_degrees: Mapping[str, tuple[int, ...]]
    max_sequence_length: int
    max_input_tokens: int
    compile_hint: str

    @classmethod
    def from_properties(cls, properties: Mapping[str, Any], *, scaled: bool = True) -> Order:
        """Read the properties of the custom resource.

        Parameters
        ----------
        scaled
            Whether they say how many instances serve; who only waits for the artifact is not told.

        Raises
        ------
        CheckError
            For a missing property or a value that is not what it should be, named.
        """
        planned, given = mapping(properties, "Planned"), properties.get("Given", {})
        # CloudFormation leaves a parameter that was not given empty: the plan holds.
        values = {name: str(given.get(name) or value) for name, value in planned.items()}
        planned_facts = mapping(properties, "Facts")
        facts = {**planned_facts, **{f: values[n] for n, f in SHAPING.items() if n in values}}
        if wrong := sorted(set(facts) ^ set(FACT_NAMES)):
            message = f"Facts must hold exactly {', '.join(FACT_NAMES)}; missing or unknown: {', '.join(wrong)}."
            raise CheckError(message)
        allowed = {
            instance_type: tuple(integer(f"AllowedTensorParallelDegrees.{instance_type}", item) for item in degrees)
            for instance_type, degrees in (
                (name, value.split(",")) for name, value in mapping(properties, "AllowedTensorParallelDegrees").items()
            )
        }
        return cls(
            bucket=text(properties, "Bucket"),
            deployment=text(properties, "Deployment"),
            facts=facts,
            planned_facts=planned_facts,
            values=values,
            image_given=bool(given.get("ImageUri")),
            min_instances=integer("MinInstanceCount", text(values, "MinInstanceCount")) if scaled else 1,
            max_instances=integer("MaxInstanceCount", text(values, "MaxInstanceCount")) if scaled else 1,
            instance_type=text(values, "InstanceType"),
            allowed_degrees=allowed,
            max_sequence_length=integer("MaxSequenceLength", text(properties, "MaxSequenceLength")),
            max_input_tokens=integer("MaxInputTokens", text(properties, "MaxInputTokens"), low=1),
            compile_hint=text(properties, "CompileHint"),
        )

    @property
    def overrides(self) -> dict[str, str]:
        """The facts that the operator changed at deploy time."""
        return {name: value for name, value in self.facts.items() if self.planned_facts.get(name) != value}

    def check_change(self, deployed: str | None) -> None:
        """Refuse a change that SageMaker refuses, before the endpoint is touched.

        Parameters
        ----------
        deployed
            `Artifact.physical_id` of what is deployed now, if anything is.

        Raises
        ------
        CheckError
            For another instance type: an endpoint with autoscaling keeps its own.
        """
        before = (deployed or "").rpartition("@")[2]
        if deployed and "@" in deployed and before != self.instance_type:
            message = (
                f"InstanceType cannot change from {before} to {self.instance_type}: SageMaker refuses it for an "
                "endpoint with autoscaling. Add a second deployment with the new type, move the clients, then remove "
                "this one; or destroy this stack and deploy it again."
            )
            raise CheckError(message)

    def check_numbers(self) -> None:
        """Refuse what cannot work before anything is looked up.

        Raises
        ------
        CheckError
            Naming the value and what is possible instead.
        """
        if self.min_instances < 1:
            message = f"MinInstanceCount is {self.min_instances}; an endpoint needs at least 1 instance."
            raise CheckError(message)
        if self.min_instances > self.max_instances:
            message = (
                f"MinInstanceCount is {self.min_instances} and MaxInstanceCount is {self.max_instances}: "
                "the first must not be above the second."
            )
            raise CheckError(message)
        degree = integer("TensorParallelDegree", self.facts["tensor_parallel_degree"], low=1)
        allowed = self.allowed_degrees.get(self.instance_type)
        if allowed is None:
            message = (
                f"InstanceType '{self.instance_type}' is not one this deployment can run on: choose one of "
                f"{', '.join(sorted(self.allowed_degrees))}."
            )
            raise CheckError(message)
        if degree not in allowed:
            message = (
                f"TensorParallelDegree {degree} is not possible on {self.instance_type}: choose one of "
                f"{', '.join(map(str, allowed))}."
            )
            raise CheckError(message)
        self._check_family()
        integer("BatchSize", self.facts["batch_size"], low=1)
        length = integer("SequenceLength", self.facts["sequence_length"], low=1)
        if length > self.max_sequence_length:
            message = f"SequenceLength is {length}; this model takes {self.max_sequence_length} at most."
            raise CheckError(message)
        if self.max_input_tokens >= length:
            message = (
                f"SequenceLength is {length} and prompts may have {self.max_input_tokens} tokens: no room for an "
                "answer. Lower max_input_tokens in the environment file or raise SequenceLength."
            )
            raise CheckError(message)

    def _check_family(self) -> None:
        parts = self.instance_type.split(".")
        family = parts[1] if len(parts) == _INSTANCE_TYPE_PARTS else ""
        if family != self.facts["instance_family"]:
            message = (
                f"InstanceType '{self.instance_type}' does not belong to the instance family "
                f"'{self.facts['instance_family']}' that the model is compiled for."
            )
            raise CheckError(message)


def text(properties: Mapping[str, Any], name: str) -> str:
    """Return a property that must be a text with something in it; numbers are taken for their text.

    Raises
    ------
    CheckError
        It is not there, or empty.
    """
    value = properties.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        message = f"Property {name} is missing or empty."
        raise CheckError(message)
    return value


def mapping(properties: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return a property that must be a map of texts.

    Raises
    ------
    CheckError
        It is not.
    """
    value = properties.get(name)
    if not isinstance(value, dict):
        message = f"Property {name} must be a map."
        raise CheckError(message)
    return {key: text({f"{name}.{key}": item}, f"{name}.{key}") for key, item in value.items()}


def integer(name: str, value: str, *, low: int = 0) -> int:
    """Return the number that a text says.

    Raises
    ------
    CheckError
        It is none, or too low.
    """
    if not value.strip().isdecimal() or int(value) < low:
        message = f"{name} is '{value}', expected a whole number of at least {low}."
        raise CheckError(message)
    return int(value)
