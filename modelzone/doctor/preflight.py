"""What would fail in a deploy, asked beforehand of the account or the embedded AWS."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from modelzone.doctor.checks import (
    DEFAULT_QUALIFIER,
    KINDS,
    Check,
    Clients,
    Context,
    Kind,
    Opener,
    Outcome,
    outcome_of_error,
)
from modelzone.doctor.checks.account import bootstrap_qualifier
from modelzone.doctor.masking import mask

if TYPE_CHECKING:
    from modelzone.planning import EnvironmentPlan

__all__ = ["Check", "Clients", "aws_clients", "bootstrap_qualifier", "permissions_markdown", "preflight"]


def aws_clients(region: str, *, profile: str | None = None, **client_options: Any) -> Clients:
    """Clients of the account that one is signed in to, or of an emulator (``endpoint_url``, AWS_ENDPOINT_URL).

    They give up sooner than boto3's own: a preflight is to answer in seconds. A profile that is named holds, unlike
    AWS_PROFILE, before keys in the environment.
    """
    import boto3  # noqa: PLC0415 - takes longer than everything else here
    from botocore.config import Config  # noqa: PLC0415

    config = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 4})
    # Any service by name: the stubs' overloads take literals only.
    create: Any = boto3.session.Session(region_name=region, profile_name=profile).client
    return lambda service: create(service, config=config, **client_options)


def preflight(
    plan: EnvironmentPlan,
    clients: Clients,
    *,
    opener: Opener | None = None,
    seconds: float | None = None,
    profile: str | None = None,
    qualifier: str | None = None,
) -> list[Check]:
    """Make all checks of an environment at once and return their results in a fixed order.

    No check raises: what cannot be looked up is said in its result.

    Parameters
    ----------
    clients
        Makes boto3 clients: `aws_clients`.
    opener
        Sends the requests to the model hub.
    seconds
        How long any one check may take; without it each has a limit of its own.
    profile
        AWS profile of the clients, for the commands in remedies.
    qualifier
        Of the CDK's bootstrap (`bootstrap_qualifier`), where it is not the CDK's own.
    """
    context = Context(
        plan=plan,
        clients=clients,
        opener=opener or _open,
        profile=profile,
        qualifier=qualifier or DEFAULT_QUALIFIER,
    )
    runs = [_Run(kind, item, context) for kind in KINDS for item in kind.items(plan)]
    for run in runs:
        run.start()
    started = time.monotonic()
    for run in runs:
        limit = run.kind.seconds if seconds is None else seconds
        run.join(max(0.0, started + limit - time.monotonic()))
    return [run.result() for run in runs]


def permissions_markdown() -> str:
    """The table of IAM actions in docs/doctor.md."""
    needed: dict[str, list[str]] = {}
    for kind in KINDS:
        for action in kind.permissions:
            needed.setdefault(action, []).append(kind.id)
    lines = ["| action | for the checks |", "|---|---|"]
    lines += [f"| `{action}` | {', '.join(dict.fromkeys(needed[action]))} |" for action in sorted(needed)]
    return "\n".join(lines) + "\n"


class _Run(threading.Thread):
    """One check in a thread of its own; a daemon, so that one that hangs does not hold up the end of the program."""

    def __init__(self, kind: Kind, item: object, context: Context) -> None:
        super().__init__(name=f"preflight-{kind.id}", daemon=True)
        self.kind = kind
        self._item, self._context = item, context
        self._outcome: Outcome | None = None

    def run(self) -> None:
        """Make the check."""
        try:
            self._outcome = self.kind.run(self._context, self._item)
        except Exception as error:
            self._outcome = self._of_error(error)

    def _of_error(self, error: Exception) -> Outcome:
        try:
            emulated = self._context.emulated()
        except Exception:
            emulated = False
        return outcome_of_error(error, permissions=self.kind.permissions, emulated=emulated, needed=self.kind.needed)

    def result(self) -> Check:
        """What was found until now."""
        silent = Outcome("fail" if self.kind.needed else "warn", "no answer in time", "try again")
        outcome = self._outcome or silent
        return Check(
            id=self.kind.id,
            title=self.kind.title(self._item),
            status=outcome.status,
            # Exceptions repeat what was sent, and services what they were given.
            detail=mask(outcome.detail),
            remedy=outcome.remedy,
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects are not followed: they would take the token along to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Never."""


def _open(request: urllib.request.Request, seconds: float) -> int:
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=seconds) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
