"""What the checks of a preflight share: their results, what they look at, and what AWS's refusals mean."""

from __future__ import annotations

import re
import threading
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from modelzone.planning import EnvironmentPlan

__all__ = ["Check", "Clients", "Context", "Kind", "Opener", "Outcome", "Status", "outcome_of_error"]

Status = Literal["ok", "warn", "fail", "skipped"]
Clients = Callable[[str], Any]
"""Makes the boto3 client of a service by its name."""
Opener = Callable[[urllib.request.Request, float], int]
"""Sends a request, within seconds, and answers with its HTTP status; raises `OSError` when there is no answer."""
_Result = TypeVar("_Result")

_DENIED = re.compile(r"AccessDenied|Unauthorized|NotAuthorized|Forbidden|^403$")
_EXPIRED = re.compile(
    r"ExpiredToken|InvalidClientTokenId|UnrecognizedClient|AuthFailure|SignatureDoesNotMatch|RequestExpired"
)
# What emulators answer to an operation that they do not have.
_UNKNOWN = re.compile(
    r"InvalidAction|MethodNotAllowed|NotImplemented|UnknownOperation|NotYetImplemented|^(404|405|501)$"
)
_ACTION = re.compile(r"is not authorized to perform: ([\w-]+:\w+)")


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
    """

    id: str
    permissions: tuple[str, ...]
    items: Callable[[EnvironmentPlan], Iterable[Any]]
    title: Callable[[Any], str]
    run: Callable[[Context, Any], Outcome]
    seconds: float = 30


@dataclass
class Context:
    """What checks look at. Clients are made, and shared answers are asked for, once."""

    plan: EnvironmentPlan
    clients: Clients
    opener: Opener
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
        return ".amazonaws." not in str(self.client(service).meta.endpoint_url)

    def stack_outputs(self, suffix: str) -> dict[str, str] | None:
        """Outputs of one of the environment's stacks, or None while it is not deployed."""
        name = f"modelzone-{self.plan.environment.name}-{suffix}"
        return self.once(f"stack:{name}", lambda: self._ask_stack(name))

    def _ask_stack(self, name: str) -> dict[str, str] | None:
        client = self.client("cloudformation")
        try:
            stack = client.describe_stacks(StackName=name)["Stacks"][0]
        except client.exceptions.ClientError as error:
            if "does not exist" in str(error):
                return None
            raise
        return {row["OutputKey"]: row["OutputValue"] for row in stack.get("Outputs", [])}


def outcome_of_error(error: Exception, *, permissions: tuple[str, ...], emulated: bool) -> Outcome:
    """What an exception of botocore means for a check; ``permissions`` are those that the check needs."""
    detail = getattr(error, "response", {}).get("Error", {})
    code, operation = str(detail.get("Code", "")), getattr(error, "operation_name", "")
    if emulated and _UNKNOWN.search(code):
        return Outcome("skipped", f"the emulator has no {operation}")
    if _EXPIRED.search(code):
        return Outcome("fail", f"AWS does not accept these credentials ({code})", "sign in again (aws sso login)")
    if _DENIED.search(code):
        named = _ACTION.search(str(detail.get("Message", "")))
        wanted = named[1] if named else " and ".join(permissions)
        return Outcome("warn", f"not allowed to look ({code})", f"allow {wanted} to be told beforehand")
    if type(error).__name__ in {
        "NoCredentialsError",
        "PartialCredentialsError",
        "TokenRetrievalError",
        "SSOTokenLoadError",
    }:
        return Outcome("fail", "there are no AWS credentials", "sign in (aws sso login), or set AWS_PROFILE")
    words = " ".join(str(detail.get("Message") or error).split())
    return Outcome("warn", f"could not be looked up: {f'{code}: ' if code else ''}{words:.300}", "try again")
