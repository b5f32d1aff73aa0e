"""The order of a deployment, as the compile stack left it in a parameter, and the job that it becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .facts import FACT_NAMES, SHAPING, artifact_key, artifact_prefix, weights_prefix

__all__ = ["CompileOrder", "HostChoice", "Job", "OrderError"]

FORMAT = 1
OVERRIDABLE = ("model_id", "model_revision", "tensor_parallel_degree", "batch_size", "sequence_length")
PURCHASES = ("on-demand", "spot")

_NUMBERS = ("tensor_parallel_degree", "batch_size", "sequence_length")
_PATTERNS = {
    "model_id": (re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII), "an id of the hub, as in owner/name"),
    "model_revision": (re.compile(r"[0-9a-f]{40}|main"), "40 hexadecimal digits, or main"),
    **dict.fromkeys(_NUMBERS, (re.compile(r"[1-9][0-9]{0,8}"), "a positive whole number")),
}

Job = dict[str, Any]


class OrderError(ValueError):
    """The order, or what is to differ from it, makes no job; the text says what is wrong, `remedy` what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True)
class HostChoice:
    """A type of host that can do the job, and the accelerators that must be seen on it."""

    instance_type: str
    devices: int
    degrees: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CompileOrder:
    """An order that was read.

    Attributes
    ----------
    job
        The job without what depends on the facts and on the host.
    hosts
        In the order in which they are tried.
    mirror
        The small host for jobs that end with the weights.
    """

    environment: str
    deployment: str
    facts: Mapping[str, str]
    job: Mapping[str, Any]
    hosts: tuple[HostChoice, ...]
    mirror: HostChoice
    launch_template: str
    launch_template_version: str
    purchase: str
    max_hours: int

    @classmethod
    def parse(cls, data: Any) -> CompileOrder:
        """Read an order.

        Raises
        ------
        OrderError
            Naming the key and the value at fault.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else None
            message = f"it has format {found!r}, this version reads format {FORMAT}"
            raise OrderError(message)
        facts = _object(data, "facts")
        if set(facts) != set(FACT_NAMES) or not all(isinstance(value, str) for value in facts.values()):
            wrong = ", ".join(sorted(set(facts) ^ set(FACT_NAMES))) or "a value that is no text"
            message = f"its facts must be {', '.join(FACT_NAMES)}, all texts; wrong: {wrong}"
            raise OrderError(message)
        job, template = _object(data, "job"), _object(data, "launch_template")
        _object(job, "weights")
        rows = data.get("hosts")
        if not isinstance(rows, list):
            message = f"its hosts are {rows!r:.200}, expected a list"
            raise OrderError(message)
        if data.get("purchase") not in PURCHASES:
            message = f"its purchase is {data.get('purchase')!r}, expected one of {', '.join(PURCHASES)}"
            raise OrderError(message)
        return cls(
            environment=_text(data, "environment"),
            deployment=_text(data, "deployment"),
            facts=facts,
            job=job,
            hosts=tuple(_host(row) for row in rows),
            mirror=_host({"devices": 0, **_object(data, "mirror_host")}),
            launch_template=_text(template, "id"),
            launch_template_version=_text(template, "version"),
            purchase=data["purchase"],
            max_hours=_number(data, "max_hours", low=1),
        )

    def mirrors_only(self, *, weights_only: bool) -> bool:
        """Whether the job ends with the weights in the mirror."""
        return weights_only or self.job.get("layout") == "none"

    def choices(self, job: Mapping[str, Any]) -> tuple[HostChoice, ...]:
        """The hosts that can do the job.

        Raises
        ------
        OrderError
            There is none.
        """
        if self.mirrors_only(weights_only=bool(job.get("weights_only"))):
            return (self.mirror,)
        degree = int(job["facts"]["tensor_parallel_degree"])
        found = tuple(host for host in self.hosts if not host.degrees or degree in host.degrees)
        if not found:
            names = ", ".join(
                f"{host.instance_type} with {' or '.join(map(str, host.degrees)) or 'any'}" for host in self.hosts
            )
            message = (
                f"no host of the order can compile with tensor_parallel_degree {degree} (hosts: {names or 'none'})"
            )
            possible = sorted({item for host in self.hosts for item in host.degrees})
            choice = f"one of {', '.join(map(str, possible))}" if possible else "another value"
            remedy = (
                f"Give {choice} ({_how('tensor_parallel_degree')}), or add a type of host that can do it to "
                "compile.instance_types of the environment and deploy the compile stack"
            )
            raise OrderError(message, remedy)
        return found

    def render(self, overrides: Mapping[str, Any], *, weights_only: bool, progress_path: str) -> Job:
        """Return the job for the order's facts with some of them replaced; image digest and devices are still open.

        Raises
        ------
        OrderError
            For a fact that may not be replaced, or a value that it cannot have.
        """
        facts = {**self.facts, **_overrides(overrides)}
        job: Job = {
            **self.job,
            "facts": facts,
            "prefix": artifact_prefix(facts),
            "image_digest": "",
            "devices": 0,
            "weights": {
                **self.job["weights"],
                "model_id": facts["model_id"],
                "revision": facts["model_revision"],
            },
            "weights_only": weights_only,
            "progress_parameter": f"{progress_path}/{artifact_key(facts)}",
        }
        if self.mirrors_only(weights_only=weights_only):
            # Nothing is compiled: the small host has neither the accelerators nor the memory for that.
            job |= {"accelerator": "none", "min_memory_gib": 0}
        return job

    def result_prefix(self, job: Mapping[str, Any]) -> str:
        """Where the job's manifest will lie in the bucket."""
        only = self.mirrors_only(weights_only=bool(job.get("weights_only")))
        return weights_prefix(job["facts"]) if only else str(job["prefix"])


def _overrides(given: Mapping[str, Any]) -> dict[str, str]:
    if not isinstance(given, Mapping):
        message = f"facts are {given!r:.200}, expected an object"
        raise OrderError(message)
    if unknown := sorted(set(given) - set(OVERRIDABLE)):
        message = f"facts {', '.join(unknown)} cannot be replaced; only {', '.join(OVERRIDABLE)} can"
        remedy = "Change the others in the environment file, and deploy the compile stack"
        raise OrderError(message, remedy)
    facts = {name: str(value) for name, value in given.items()}
    for name, value in facts.items():
        pattern, expected = _PATTERNS[name]
        if not pattern.fullmatch(value):
            message = f"fact {name} is {value!r:.200}, expected {expected}"
            raise OrderError(message, f"Give another one: {_how(name)}")
    return facts


def _how(fact: str) -> str:
    """Where the value of a fact is given."""
    parameter = next(name for name, shaped in SHAPING.items() if shaped == fact)
    return f"--set {fact}=<value> of modelzone compile, or parameter {parameter} of the deployment's stack"


def _host(row: Any) -> HostChoice:
    if not isinstance(row, dict):
        message = f"it has a host {row!r:.200}, expected an object"
        raise OrderError(message)
    degrees = row.get("tensor_parallel_degrees", ())
    return HostChoice(
        instance_type=_text(row, "instance_type"), devices=_number(row, "devices"), degrees=tuple(map(int, degrees))
    )


def _object(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name)
    if not isinstance(value, dict):
        message = f"its {name} is {value!r:.200}, expected an object"
        raise OrderError(message)
    return value


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value.strip():
        message = f"its {name} is {value!r:.200}, expected a text that is not empty"
        raise OrderError(message)
    return value


def _number(data: Mapping[str, Any], name: str, *, low: int = 0) -> int:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        message = f"its {name} is {value!r:.200}, expected a whole number of at least {low}"
        raise OrderError(message)
    return value
