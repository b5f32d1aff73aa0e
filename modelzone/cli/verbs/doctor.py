"""``modelzone doctor``: what is wrong, and what would be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzone.cli.exits import ExitCode
from modelzone.cli.options import EnvironmentArgument, JsonOption, Overrides, context_overrides, examples
from modelzone.cli.output import note, write, write_facts, write_heading, write_json, write_table
from modelzone.cli.project import project_root
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from pathlib import Path

    from modelzone.doctor.checks import Check, Clients
    from modelzone.doctor.log import Diagnosis, Finding

_LOG = examples(
    "modelzone doctor log compile.log",
    "aws logs tail /aws/sagemaker/Endpoints/NAME --since 2h | modelzone doctor log -",
    "modelzone doctor log --json container.log.gz",
)
_PREFLIGHT = examples(
    "modelzone doctor preflight dev",
    "modelzone doctor preflight prod --profile production",
    "modelzone doctor preflight dev --local",
)


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        no_args_is_help=True, help="Explain failures, and find them before a deploy.", rich_markup_mode=None
    )
    group.command("log", epilog=_LOG, short_help="Recognise known failures in a log.")(log)
    group.command("preflight", epilog=_PREFLIGHT, short_help="Check before a deploy what would fail in it.")(preflight)
    app.add_typer(group, name="doctor")


def log(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A log, also with gzip, or - for standard input.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Recognise known failures in the output of containers, compilations, SageMaker and CloudFormation.

    Prints the likely cause first, with its remedy. The exit status is 1 when a failure is recognised, or when part of
    the log could not be read, and else 0; that does not say that there is none.
    """
    from modelzone.doctor.log import diagnose_file  # noqa: PLC0415

    diagnosis = diagnose_file(file)
    failures = [finding for finding in diagnosis.findings if finding.level != "note"]
    if as_json:
        write_json(_plain(diagnosis.as_dict()))
    else:
        _show(diagnosis)
    # What was not read may hold the failure: that is no clean log.
    if failures or diagnosis.unread:
        raise typer.Exit(ExitCode.REFUSED)


def _plain(value: Any) -> Any:
    """Tuples and mappings as JSON has them."""
    from msgspec import to_builtins  # noqa: PLC0415

    return to_builtins(value)


def _show(diagnosis: Diagnosis) -> None:
    if diagnosis.unread:
        note(f"warning: the rest of the log was not read: {diagnosis.unread}")
    for finding in diagnosis.findings:
        _show_finding(finding)
    count = len(diagnosis.findings)
    write(f"{count} known message{'s' * (count != 1)} in {diagnosis.lines:,} line{'s' * (diagnosis.lines != 1)}")
    if not diagnosis.findings:
        write("Where to look next:")
        for step in diagnosis.next_steps:
            write(f"  {step}")


def _show_finding(finding: Finding) -> None:
    lines = f"line {finding.first_line}"
    if finding.count > 1:
        lines = f"{finding.count} times, lines {finding.first_line} to {finding.last_line}"
    follows = f", follows from {finding.explained_by}" if finding.explained_by else ""
    write_heading(f"{finding.level}: {finding.id} ({lines}{follows})")
    facts = [("cause", finding.cause), ("remedy", finding.remedy), ("seen", finding.excerpt)]
    if finding.settings:
        facts.append(("settings", ", ".join(finding.settings)))
    write_facts([*facts, ("source", finding.source)])
    write("")


def preflight(
    context: typer.Context,
    environment: EnvironmentArgument,
    *,
    overrides: Overrides = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="A profile of the AWS configuration.")
    ] = None,
    endpoint_url: Annotated[
        str | None, typer.Option("--endpoint-url", metavar="URL", help="An emulator of AWS instead of the account.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="The embedded AWS that `make local` has started.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check an account before an environment is deployed to it: quotas, zones, AMIs, images, secret, bootstrap.

    Nothing is changed. The exit status is 1 when a check fails.
    """
    if local and (profile or endpoint_url):
        raise typer.BadParameter("--local names the endpoint and its credentials: leave out the other options")
    if endpoint_url and not _is_url(endpoint_url):
        raise typer.BadParameter(f"--endpoint-url {endpoint_url!r} is not like http://127.0.0.1:5000")
    from modelzone.doctor.preflight import bootstrap_qualifier  # noqa: PLC0415
    from modelzone.doctor.preflight import preflight as check  # noqa: PLC0415
    from modelzone.planning import plan_environment  # noqa: PLC0415

    root = project_root(context)
    plan = plan_environment(root, environment, overrides=context_overrides(overrides))
    region = plan.environment.region
    clients = _local_clients(root, region) if local else _clients(region, profile=profile, endpoint_url=endpoint_url)
    named: dict[str, Any] = {"profile": profile, "qualifier": bootstrap_qualifier(root)}
    checks = check(plan, clients, **{name: value for name, value in named.items() if value})
    failed = any(each.status == "fail" for each in checks)
    if as_json:
        rows = [_plain(_row(each)) for each in checks]
        write_json({"environment": environment, "region": region, "passed": not failed, "checks": rows})
    else:
        _show_checks(checks)
    if failed:
        raise typer.Exit(ExitCode.REFUSED)


def _is_url(text: str) -> bool:
    from urllib.parse import urlsplit  # noqa: PLC0415

    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _clients(region: str, *, profile: str | None, endpoint_url: str | None) -> Clients:
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    from modelzone.doctor.preflight import aws_clients  # noqa: PLC0415

    given = {"profile": profile, "endpoint_url": endpoint_url}
    try:
        return aws_clients(region, **{name: value for name, value in given.items() if value})
    except BotoCoreError as error:
        raise ModelzoneError(str(error)) from None


def _local_clients(root: Path, region: str) -> Clients:
    from modelzone.cli.verbs.local import require_running  # noqa: PLC0415
    from modelzone.doctor.preflight import aws_clients  # noqa: PLC0415
    from modelzone.local.workspace import ACCOUNT, Workspace  # noqa: PLC0415

    state = require_running(Workspace.of(root))
    # The emulator takes any secret; the key id is the account.
    return aws_clients(
        region,
        endpoint_url=state.url,
        aws_access_key_id=ACCOUNT,
        aws_secret_access_key="embedded",  # noqa: S106
    )


def _row(check: Check) -> dict[str, str]:
    return {
        "id": check.id,
        "title": check.title,
        "status": check.status,
        "detail": check.detail,
        "remedy": check.remedy,
    }


def _show_checks(checks: list[Check]) -> None:
    write_table(["STATUS", "CHECK", "FOUND"], [[check.status, check.title, check.detail] for check in checks])
    # Not in the table: they are commands to paste, which must not be wrapped.
    for check in checks:
        if check.remedy:
            write(f"\n{check.status}: {check.title}\n  {check.remedy}")
    counts = {status: sum(check.status == status for check in checks) for status in ("ok", "warn", "fail", "skipped")}
    write("\n" + ", ".join(f"{count} {status}" for status, count in counts.items() if count))
