"""``modelzone host``: a debugging host for some hours, reached through Session Manager."""

from __future__ import annotations

import os
import shlex
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzone.cli.account import Account, EndpointOption, EnvironmentOption, LocalOption, ProfileOption, open_account
from modelzone.cli.exits import ExitCode
from modelzone.cli.formats import usd
from modelzone.cli.options import JsonOption, examples
from modelzone.cli.output import note, write, write_facts, write_json, write_table
from modelzone.cli.verbs.compile import DeploymentArgument
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.compiling.executions import Execution
    from modelzone.compiling.hosts import Host

_HOURS = 12
_PORT = 65_535


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Keep a debugging host for some hours, like those that compile.",
        short_help="Keep a debugging host for some hours.",
        epilog=examples(
            "modelzone host start mixtral --hours 3",
            "modelzone host connect",
            "modelzone host connect --port 8888",
            "modelzone host stop i-0123456789abcdef0",
        ),
        rich_markup_mode=None,
    )
    for name, action, short, lines in (
        ("start", start, "Start a debugging host.", ("start mixtral --hours 3",)),
        ("list", list_hosts, "List hosts that run.", ("list", "list -e prod --json")),
        ("connect", connect, "Open a shell on a host, or forward a port.", ("connect", "connect --port 8888")),
        ("stop", stop, "End a host before its time.", ("stop i-0123456789abcdef0",)),
    ):
        epilog = examples(*(f"modelzone host {line}" for line in lines))
        group.command(name, epilog=epilog, short_help=short)(action)
    app.add_typer(group, name="host")


def start(
    context: typer.Context,
    deployment: DeploymentArgument,
    *,
    hours: Annotated[
        int,
        typer.Option("--hours", metavar="N", min=1, max=_HOURS, help=f"How long it is kept at most: 1 to {_HOURS}."),
    ],
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Start a host like the one that compiles a deployment, for at most N hours.

    It ends itself after that, has no public address and no key, and is reached with: host connect.
    """
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    from modelzone.artifacts.registry import read_order  # noqa: PLC0415
    from modelzone.compiling.aws import stack_outputs  # noqa: PLC0415
    from modelzone.compiling.hosts import start_debug_host  # noqa: PLC0415

    outputs = stack_outputs(
        account.client("cloudformation"), environment=environment, suffix="compile", needed=("SubnetIds",)
    )
    order = read_order(account.client("ssm"), environment=environment, deployment=deployment)
    if order is None:
        raise ModelzoneError(
            f"the compile stack of {environment} knows no deployment {deployment!r}\n"
            f"  fix: name one of the environment's deployments, or cdk deploy CompileStack -c environment={environment}"
        )
    host = start_debug_host(
        account.client("ec2"),
        environment=environment,
        deployment=deployment,
        order=order.data,
        subnets=[subnet.strip() for subnet in outputs["SubnetIds"].split(",") if subnet.strip()],
        hours=hours,
        now=datetime.now(UTC),
    )
    if as_json:
        write_json(_row(host, account.region))
        return
    price = host.usd_per_hour(account.region)
    write_facts(
        [
            ("host", f"{host.instance_id}, {host.instance_type} in {host.zone or 'an unknown zone'}"),
            ("ends", f"{host.until}, or with: {account.words(f'host stop {host.instance_id}')}"),
            ("cost", f"{usd(price)} USD an hour, {usd(None if price is None else price * hours)} for {hours} h"),
            ("connect", f"{account.words(f'host connect {host.instance_id}')}  (in a minute or two)"),
        ]
    )


def list_hosts(
    context: typer.Context,
    *,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the hosts of an environment that run: those that compile and debugging hosts."""
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    hosts = _hosts(account)
    rows = [_row(host, account.region) for host in hosts]
    if as_json:
        write_json({"environment": environment, "hosts": rows})
    elif not rows:
        write(f"no host of {environment} runs")
    else:
        lines = [
            [
                row["instance_id"],
                row["role"],
                row["instance_type"],
                row["zone"],
                row["state"],
                row["purchase"],
                row["until"] or "",
                row["execution"] or row["name"],
                usd(row["usd_per_hour"]),
                usd(row["usd"]),
            ]
            for row in rows
        ]
        columns = ["ID", "ROLE", "TYPE", "ZONE", "STATE", "PURCHASE", "UNTIL", "FOR", "USD/H>", "USD>"]
        write_table(columns, lines)


def connect(
    context: typer.Context,
    instance_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A host. Without it the one debugging host that runs.")
    ] = None,
    *,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=1, max=_PORT, help="Forward this port of the host, such as 8888."),
    ] = None,
    local_port: Annotated[
        int | None,
        typer.Option("--local-port", metavar="N", min=1, max=_PORT, help="To this port here. Default: the same."),
    ] = None,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Open a shell on a host, or forward one of its ports to this machine, through Session Manager.

    It needs the AWS CLI and its session-manager-plugin; where one is missing the command is printed instead.
    """
    if local_port is not None and port is None:
        raise typer.BadParameter("--local-port says where --port arrives: give that too")
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    if local:
        raise ModelzoneError("the embedded AWS has no Session Manager: its hosts are folders of this machine")
    from modelzone.compiling.hosts import connect_command  # noqa: PLC0415

    host = _one(account, instance_id)
    command = connect_command(host.instance_id, aws=account.aws, port=port, local_port=local_port)
    if as_json:
        write_json({"instance_id": host.instance_id, "command": command})
        return
    missing = [tool for tool in ("aws", "session-manager-plugin") if shutil.which(tool) is None]
    if missing:
        note(
            f"error: {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed here; the command is:"
        )
        write(shlex.join(command))
        raise typer.Exit(ExitCode.REFUSED)
    if port is not None:
        note(f"http://127.0.0.1:{local_port or port} is port {port} of {host.instance_id}; Ctrl-C ends it")
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


def stop(
    context: typer.Context,
    instance_id: Annotated[str, typer.Argument(metavar="ID", help="A host. See: host list.")],
    *,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """End a debugging host before its time, or a compile host whose compilation has ended.

    What is on its disk is lost.
    """
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    from modelzone.compiling.hosts import terminate  # noqa: PLC0415
    from modelzone.hosts import DEBUG_HOST  # noqa: PLC0415

    host = _named(_hosts(account), instance_id, account)
    if host.role != DEBUG_HOST and (execution := _compiling(account, host)):
        raise ModelzoneError(
            f"{instance_id} compiles for {host.execution}: cancel that instead, and the host goes with it\n"
            f"  fix: {account.words(f'compile cancel {execution.deployment}')} --execution {execution.name}"
        )
    terminate(account.client("ec2"), [host.instance_id])
    if as_json:
        write_json({"instance_id": host.instance_id, "stopped": True})
    else:
        write(f"{host.instance_id} ends now")


def _compiling(account: Account, host: Host) -> Execution | None:
    """The compilation that a host works for, if that runs. What cannot be asked for might run: that is an error."""
    from modelzone.cli.verbs.compile import state_machine  # noqa: PLC0415

    running = state_machine(account).running()
    return next((execution for execution in running if execution.name == host.execution), None)


def _hosts(account: Account) -> list[Host]:
    from modelzone.compiling.hosts import hosts_of  # noqa: PLC0415

    return hosts_of(account.client("ec2"), environment=account.environment)


def _one(account: Account, instance_id: str | None) -> Host:
    from modelzone.hosts import DEBUG_HOST  # noqa: PLC0415

    hosts = _hosts(account)
    if instance_id is not None:
        return _named(hosts, instance_id, account)
    debugging = [host for host in hosts if host.role == DEBUG_HOST]
    if len(debugging) == 1:
        return debugging[0]
    if not debugging:
        raise ModelzoneError(
            f"no debugging host of {account.environment} runs\n"
            f"  fix: {account.words('host start DEPLOYMENT')} --hours 3"
        )
    raise ModelzoneError(f"several debugging hosts run, name one: {', '.join(host.instance_id for host in debugging)}")


def _named(hosts: list[Host], instance_id: str, account: Account) -> Host:
    found = next((host for host in hosts if host.instance_id == instance_id), None)
    if found is None:
        known = ", ".join(host.instance_id for host in hosts) or "none"
        raise ModelzoneError(
            f"{instance_id!r} is no host of environment {account.environment} that runs; it has: {known}"
        )
    return found


def _row(host: Host, region: str) -> dict[str, Any]:
    from modelzone.compiling.hosts import usd_so_far  # noqa: PLC0415

    spent = usd_so_far([host], region=region, now=datetime.now(UTC))
    return {
        "instance_id": host.instance_id,
        "role": host.role,
        "instance_type": host.instance_type,
        "zone": host.zone,
        "state": host.state,
        "purchase": host.purchase,
        "launched": host.launched.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "until": host.until or None,
        "execution": host.execution or None,
        "name": host.name,
        "usd_per_hour": host.usd_per_hour(region),
        "usd": None if spent is None else round(spent, 4),
    }
