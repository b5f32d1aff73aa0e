"""What the checks of a preflight share: their results and what they look at."""

from __future__ import annotations

import shlex
import threading
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from modelzone.planning import EnvironmentPlan

__all__ = ["DEFAULT_QUALIFIER", "Check", "Clients", "Context", "Kind", "Opener", "Outcome", "Stack", "Status"]

# The CDK's own, in the names of everything that its bootstrap makes.
DEFAULT_QUALIFIER = "hnb659fds"

Status = Literal["ok", "warn", "fail", "skipped"]
Clients = Callable[[str], Any]
"""Makes the boto3 client of a service by its name."""
Opener = Callable[[urllib.request.Request, float], int]
"""Sends a request, within seconds, and answers with its HTTP status; raises `OSError` when there is no answer."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check. ``remedy`` is empty when there is nothing to do."""

    id: str
    title: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a check found."""

    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A check that is made once for each of its items.

    Attributes
    ----------
    permissions
        IAM actions that it needs.
    items
        What of a plan it is made for; nothing when it does not apply.
    title
        What it is called for an item.
    seconds
        How long it may take.
    needed
        Without an answer to it nothing has been checked: then it fails, where others only warn.
    """

    id: str
    permissions: tuple[str, ...]
    items: Callable[[EnvironmentPlan], Iterable[Any]]
    title: Callable[[Any], str]
    run: Callable[[Context, Any], Outcome]
    seconds: float = 30
    needed: bool = False


@dataclass(frozen=True)
class Stack:
    """A stack of the environment as CloudFormation has it."""

    status: str
    outputs: dict[str, str]


@dataclass
class Context:
    """What checks look at. Clients are made, and shared answers are asked for, once.

    Attributes
    ----------
    profile
        AWS profile that the commands in remedies have to name, as the one who asks did.
    qualifier
        Of the CDK's bootstrap.
    """

    plan: EnvironmentPlan
    clients: Clients
    opener: Opener
    profile: str | None = None
    qualifier: str = DEFAULT_QUALIFIER
    _made: dict[str, Any] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, service: str) -> Any:
        """The boto3 client of a service. Making one is not safe in threads, using one is."""
        with self._lock:
            if service not in self._made:
                self._made[service] = self.clients(service)
            return self._made[service]

    def once(self, key: str, ask: Callable[[], _Result]) -> _Result:
        """An answer that several checks need; an error is not kept."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._made:
                self._made[key] = ask()
            found: _Result = self._made[key]
            return found

    def emulated(self, service: str = "sts") -> bool:
        """Whether this is not AWS but something that answers in its place."""
        host = urlsplit(str(self.client(service).meta.endpoint_url)).hostname or ""
        # The second is the domain of the dual-stack endpoints.
        return not (".amazonaws." in host or host.endswith(".api.aws"))

    def aws(self, words: str) -> str:
        """A command of the AWS CLI that asks where this preflight asked."""
        return f"aws --region {self.plan.environment.region}{self._profile} {words}"

    def cdk(self, words: str) -> str:
        """A command of the CDK CLI for this environment."""
        return f"cdk {words} -c environment={self.plan.environment.name}{self._profile}"

    @property
    def _profile(self) -> str:
        return f" --profile {shlex.quote(self.profile)}" if self.profile else ""

    def stack_name(self, suffix: str) -> str:
        """CloudFormation's name of one of the environment's stacks."""
        return f"modelzone-{self.plan.environment.name}-{suffix}"

    def stack(self, suffix: str) -> Stack | None:
        """One of the environment's stacks, or None while there is none."""
        name = self.stack_name(suffix)
        return self.once(f"stack:{name}", lambda: self._ask_stack(name))

    def stack_outputs(self, suffix: str) -> dict[str, str]:
        """Outputs of a stack; it has none while it is not deployed, or when its creation failed."""
        stack = self.stack(suffix)
        return stack.outputs if stack else {}

    def _ask_stack(self, name: str) -> Stack | None:
        client = self.client("cloudformation")
        try:
            stack = client.describe_stacks(StackName=name)["Stacks"][0]
        except client.exceptions.ClientError as error:
            if "does not exist" in str(error):
                return None
            raise
        return Stack(stack["StackStatus"], {row["OutputKey"]: row["OutputValue"] for row in stack.get("Outputs", [])})
