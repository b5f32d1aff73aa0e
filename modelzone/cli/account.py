"""Which account a verb talks to: the options that say so, and the clients that come of them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from modelzone.cli.completion import complete_environment
from modelzone.cli.project import project_root
from modelzone.errors import ModelzoneError

__all__ = ["Account", "EndpointOption", "EnvironmentOption", "LocalOption", "ProfileOption", "open_account"]

EnvironmentOption = Annotated[
    str,
    typer.Option(
        "-e",
        "--environment",
        metavar="ENV",
        help="A file of environments/, without .yaml. Default: dev.",
        show_default=False,
        autocompletion=complete_environment,
    ),
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="A profile of the AWS configuration.")
]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint-url", metavar="URL", help="An emulator of AWS instead of the account.")
]
LocalOption = Annotated[bool, typer.Option("--local", help="The embedded AWS that `make local` has started.")]


# Seconds between two looks.
_INTERVAL = 5.0
_LOCAL_INTERVAL = 1.0


@dataclass(frozen=True, kw_only=True)
class Account:
    """An account and region to ask.

    Attributes
    ----------
    client
        Makes the boto3 client of a service.
    transfers
        Makes a client of S3 that is patient: an answer takes as long as S3 copies.
    interval
        Seconds between two looks at something that goes on.
    """

    root: Path
    environment: str
    region: str
    client: Callable[[str], Any]
    transfers: Callable[[], Any]
    profile: str | None
    endpoint_url: str | None
    local: bool
    interval: float

    def words(self, command: str) -> str:
        """A command of this program, told to ask the same account: ``modelzone compile mixtral -e dev``."""
        extra = ["-e", self.environment]
        for option, value in (
            ("--profile", self.profile),
            ("--endpoint-url", None if self.local else self.endpoint_url),
        ):
            extra += [option, value] if value else []
        extra += ["--local"] if self.local else []
        return f"modelzone {command} {shlex.join(extra)}"

    @property
    def aws(self) -> list[str]:
        """How the AWS CLI is told to ask the same account."""
        words = ["aws", "--region", self.region]
        for option, value in (("--profile", self.profile), ("--endpoint-url", self.endpoint_url)):
            words += [option, value] if value else []
        return words


def open_account(
    context: typer.Context, environment: str, *, profile: str | None, endpoint_url: str | None, local: bool
) -> Account:
    """The account of an environment of the project; nothing is asked yet.

    Raises
    ------
    ModelzoneError
        There is no such environment or profile, or the embedded AWS does not run.
    """
    if local and (profile or endpoint_url):
        raise typer.BadParameter("--local names the endpoint and its credentials: leave out the other options")
    if endpoint_url and not _is_url(endpoint_url):
        raise typer.BadParameter(f"--endpoint-url {endpoint_url!r} is not like http://127.0.0.1:5000")
    from modelzone.settings.loading import load_environment  # noqa: PLC0415

    root = project_root(context)
    region = load_environment(root, environment).region
    if local:
        endpoint_url = _local_url(root)
    return Account(
        root=root,
        environment=environment,
        region=region,
        client=_clients(region, profile=profile, endpoint_url=endpoint_url, local=local),
        transfers=lambda: _transfers(region, profile=profile, endpoint_url=endpoint_url, local=local),
        profile=profile,
        endpoint_url=endpoint_url,
        local=local,
        interval=_LOCAL_INTERVAL if local else _INTERVAL,
    )


def _clients(region: str, *, profile: str | None, endpoint_url: str | None, local: bool) -> Callable[[str], Any]:
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    from modelzone.doctor.preflight import aws_clients  # noqa: PLC0415

    given: dict[str, Any] = {"profile": profile, "endpoint_url": endpoint_url, **_keys(local=local)}
    try:
        make = aws_clients(region, **{name: value for name, value in given.items() if value})
    except BotoCoreError as error:
        raise ModelzoneError(str(error)) from None
    made: dict[str, Any] = {}

    def client(service: str) -> Any:
        if service not in made:
            try:
                made[service] = make(service)
            except (BotoCoreError, ValueError) as error:
                raise ModelzoneError(str(error)) from None
        return made[service]

    return client


def _keys(*, local: bool) -> dict[str, str]:
    if not local:
        return {}
    from modelzone.local.workspace import ACCOUNT  # noqa: PLC0415

    # The emulator takes any secret; the key id is the account.
    return {"aws_access_key_id": ACCOUNT, "aws_secret_access_key": "embedded"}


def _transfers(region: str, *, profile: str | None, endpoint_url: str | None, local: bool) -> Any:
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    from modelzone.artifacts.copy import COPIES  # noqa: PLC0415

    config = Config(
        connect_timeout=5,
        read_timeout=600,
        max_pool_connections=COPIES,
        retries={"mode": "standard", "total_max_attempts": 6},
    )
    try:
        create: Any = boto3.session.Session(region_name=region, profile_name=profile).client
        return create("s3", config=config, endpoint_url=endpoint_url, **_keys(local=local))
    except (BotoCoreError, ValueError) as error:
        raise ModelzoneError(str(error)) from None


def _local_url(root: Path) -> str:
    from modelzone.cli.verbs.local import require_running  # noqa: PLC0415
    from modelzone.local.workspace import Workspace  # noqa: PLC0415

    return require_running(Workspace.of(root)).url


def _is_url(text: str) -> bool:
    from urllib.parse import urlsplit  # noqa: PLC0415

    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
