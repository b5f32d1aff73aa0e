"""``modelzone compile``: compilations, started, followed and cancelled."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzone.cli.account import Account, EndpointOption, EnvironmentOption, LocalOption, ProfileOption, open_account
from modelzone.cli.completion import complete_deployment
from modelzone.cli.default_command import DefaultCommandGroup
from modelzone.cli.formats import UNKNOWN, usd
from modelzone.cli.options import JsonOption, examples
from modelzone.cli.output import note, write, write_facts, write_heading, write_json, write_table
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.compiling.executions import Execution, Machine
    from modelzone.compiling.request import Request
    from modelzone.compiling.snapshot import Snapshot, Watch
    from modelzone.planning import DeploymentPlan, EnvironmentPlan

_START = examples(
    "modelzone compile mixtral",
    "modelzone compile mixtral -e prod --follow",
    "modelzone compile mixtral --set batch_size=2 --set sequence_length=2048",
    "modelzone compile mixtral --weights-only",
)
_GROUP = examples(
    "modelzone compile mixtral --follow",
    "modelzone compile status",
    "modelzone compile logs mixtral --follow",
    "modelzone compile cancel mixtral",
)
_HELP = """Compile a deployment's model, and follow, cancel or explain compilations.

`modelzone compile DEPLOYMENT` is short for `modelzone compile start DEPLOYMENT`; see: compile start --help.
"""


def complete_deployment_here(context: typer.Context, incomplete: str) -> list[str]:
    """Deployments of the environment that was named, or of the default one."""
    context.params.setdefault("environment", "dev")
    context.params["environment"] = context.params["environment"] or "dev"
    return complete_deployment(context, incomplete)


DeploymentArgument = Annotated[
    str,
    typer.Argument(
        metavar="DEPLOYMENT", help="A deployment of the environment.", autocompletion=complete_deployment_here
    ),
]


def complete_set(incomplete: str) -> list[str]:
    """Fields that a compilation may be given, with the equals sign."""
    fields = ("batch_size=", "model_id=", "model_revision=", "sequence_length=", "tensor_parallel_degree=")
    return [field for field in fields if field.startswith(incomplete)]


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        cls=DefaultCommandGroup,
        no_args_is_help=True,
        help=_HELP,
        short_help="Compile models, follow and cancel compilations.",
        epilog=_GROUP,
        rich_markup_mode=None,
        subcommand_metavar="DEPLOYMENT | COMMAND [ARGS]...",
    )
    group.command("start", epilog=_START, short_help="Compile a model; the word start may be left out.")(start)
    for action, short, lines in (
        (status, "Say how far compilations are.", ("modelzone compile status", "modelzone compile status mixtral")),
        (cancel, "Cancel a compilation and end its host.", ("modelzone compile cancel mixtral",)),
        (
            logs,
            "Print what the compile job said.",
            ("modelzone compile logs mixtral", "modelzone compile logs mixtral --follow --raw"),
        ),
    ):
        group.command(action.__name__, epilog=examples(*lines), short_help=short)(action)
    app.add_typer(group, name="compile")


def start(
    context: typer.Context,
    deployment: DeploymentArgument,
    *,
    environment: EnvironmentOption = "dev",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show the progress until it ends.")] = False,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Only mirror the weights to the model store, on a small host.")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Compile with another value than the planned one. Can be repeated.",
            autocompletion=complete_set,
        ),
    ] = None,
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compile a deployment's model on a host of its own, or attach to the compilation that runs already.

    Nothing is started when the artifact is complete. The host ends when the compilation does, whatever its result.
    """
    given = _pairs(changes or [])
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    planned, plan, wanted, machine = _prepare(account, deployment, given, weights_only=weights_only)
    document: dict[str, Any] = {
        "environment": environment,
        "deployment": deployment,
        "key": wanted.key,
        "artifact": wanted.uri,
        "weights_only": wanted.weights_only,
        "already": _is_there(account, wanted),
        "attached": False,
        "execution": None,
        "instance_types": list(wanted.instance_types),
        "purchase": wanted.purchase,
        "usd_per_hour": wanted.usd_per_hour,
        "max_hours": wanted.max_hours,
    }
    if document["already"]:
        if as_json:
            write_json(document)
        else:
            write(f"{wanted.uri} is complete: there is nothing to compile")
        return
    execution = _running(machine, wanted)
    document["attached"] = execution is not None
    if execution is None:
        _check_weights(account, wanted)
        for difference in _differences(wanted, planned, plan):
            note(f"note: {difference}")
        execution = machine.start(
            deployment=deployment,
            key=wanted.key,
            facts=wanted.changes,
            weights_only=wanted.weights_only,
            requested_by="modelzone compile",
            now=datetime.now(UTC),
        )
    document["execution"] = execution.name
    come_back = account.words(f"compile {deployment}") + _again(given, weights_only=weights_only)
    if not as_json:
        _show_start(wanted, execution, attached=document["attached"], come_back="" if follow else come_back)
    if follow:
        final = _follow(account, machine, execution, come_back=f"{come_back} --follow", as_json=as_json)
        document["result"] = final.as_dict()
        if not as_json:
            write(f"artifact: {final.execution.output.get('artifact', wanted.uri)}")
    if as_json:
        write_json(document)


def status(
    context: typer.Context,
    deployment: Annotated[
        str | None,
        typer.Argument(metavar="[DEPLOYMENT]", help="Without it all of them.", autocompletion=complete_deployment_here),
    ] = None,
    *,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far compilations are, or how the last ones ended."""
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    machine = _machine(account)
    if deployment is None:
        executions = machine.latest_of_each()
    else:
        latest = machine.latest(deployment)
        executions = [latest] if latest else []
    found = [_watch(account, machine, execution).look() for execution in executions]
    if as_json:
        write_json({"environment": environment, "compilations": [snapshot.as_dict() for snapshot in found]})
    elif not found:
        of = f" of {deployment}" if deployment else ""
        write(f"environment {environment} has had no compilation{of}")
    elif deployment:
        _show_status(found[0])
    else:
        _show_all(found)


def cancel(
    context: typer.Context,
    deployment: DeploymentArgument,
    *,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cancel the compilations of a deployment that run, and wait until their hosts are gone.

    What they downloaded and uploaded stays: the next compilation goes on from there.
    """
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    machine = _machine(account)
    from modelzone.compiling.hosts import wait_until_gone  # noqa: PLC0415

    running = [execution for execution in machine.running() if execution.deployment == deployment]
    rows = []
    for execution in running:
        machine.stop(execution, cause="modelzone compile cancel")
        note(f"cancelled {execution.name}; waiting until its host is gone")
        try:
            hosts = wait_until_gone(account.client("ec2"), execution.name, interval=account.interval)
        except KeyboardInterrupt:
            note("the compilation is cancelled, and its environment ends the host; see: " + account.words("host list"))
            raise
        rows.append({"execution": execution.name, "hosts": [host.instance_id for host in hosts]})
        if not as_json:
            ended = ", ".join(host.instance_id for host in hosts)
            write(f"{execution.name}: cancelled, {f'host {ended} is gone' if ended else 'it had no host'}")
    if as_json:
        write_json({"environment": environment, "deployment": deployment, "cancelled": rows})
    elif not running:
        write(f"no compilation of {deployment} runs in {environment}")


def logs(
    context: typer.Context,
    deployment: DeploymentArgument,
    *,
    environment: EnvironmentOption = "dev",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the compilation ends.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the lines as the job wrote them.")] = False,
    execution_name: Annotated[
        str | None,
        typer.Option("--execution", metavar="NAME", help="An earlier compilation. See: compile status --json."),
    ] = None,
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print what the compile job said, on stdout and stderr, of the compilation that runs or of the last one."""
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    machine = _machine(account, "LogGroupName")
    execution = machine.named(execution_name) if execution_name else machine.latest(deployment)
    if execution is None:
        raise ModelzoneError(f"environment {environment} has had no compilation of {deployment}")
    if execution.deployment != deployment:
        raise ModelzoneError(f"{execution.name} is a compilation of {execution.deployment}, not of {deployment}")
    from modelzone.compiling.logs import readable  # noqa: PLC0415

    rows: list[dict[str, str]] = []
    count = 0
    for line in _log_lines(account, machine, execution, follow=follow):
        count += 1
        if as_json:
            rows.append(
                {"time": line.when.isoformat(timespec="milliseconds"), "stream": line.stream, "text": line.text}
            )
        else:
            write(line.text if raw else readable(line))
            if follow:
                sys.stdout.flush()
    if as_json:
        write_json({"environment": environment, "execution": execution.name, "lines": rows})
    elif not count:
        note(f"{execution.name} has logged nothing; see: {account.words(f'compile status {deployment}')}")


def _pairs(changes: list[str]) -> dict[str, str]:
    from modelzone.compiling.request import MODEL_FIELDS, PLANNED_FIELDS  # noqa: PLC0415

    pairs: dict[str, str] = {}
    for text in changes:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise typer.BadParameter(f"--set {text!r} is not FIELD=VALUE")
        if name not in {*PLANNED_FIELDS, *MODEL_FIELDS}:
            known = ", ".join(sorted((*PLANNED_FIELDS, *MODEL_FIELDS)))
            raise typer.BadParameter(
                f"--set {name}: a compilation may be given {known}; change others in the environment file and deploy "
                "CompileStack"
            )
        if name in pairs:
            raise typer.BadParameter(f"--set {name} is given twice")
        pairs[name] = value
    return pairs


def _again(given: dict[str, str], *, weights_only: bool) -> str:
    """The options that name the same compilation again."""
    import shlex  # noqa: PLC0415

    words = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    words += ["--weights-only"] if weights_only else []
    return f" {shlex.join(words)}" if words else ""


def _prepare(
    account: Account, deployment: str, given: dict[str, str], *, weights_only: bool
) -> tuple[EnvironmentPlan, DeploymentPlan, Request, Machine]:
    from modelzone.artifacts.registry import read_order  # noqa: PLC0415
    from modelzone.compiling.request import PLANNED_FIELDS, check_order, request  # noqa: PLC0415

    shapes = {name: value for name, value in given.items() if name in PLANNED_FIELDS}
    environment, base = _plan(account, deployment, {})
    changed = _plan(account, deployment, shapes)[1] if shapes else base
    machine = _machine(account)
    order = check_order(read_order(account.client("ssm"), environment=account.environment, deployment=deployment), base)
    model = {name: value for name, value in given.items() if name not in shapes}
    wanted = request(order, changed, model=model, weights_only=weights_only, region=account.region)
    if model:
        note("note: whether another model fits is not checked: modelzone plan checks a profile or a config.json")
    return environment, base, wanted, machine


def _plan(account: Account, deployment: str, shapes: dict[str, str]) -> tuple[EnvironmentPlan, DeploymentPlan]:
    from modelzone.planning import plan_environment  # noqa: PLC0415

    environment = plan_environment(
        account.root, account.environment, overrides={deployment: shapes} if shapes else None
    )
    for plan in environment.deployments:
        if plan.name == deployment:
            return environment, plan
    names = ", ".join(plan.name for plan in environment.deployments)
    raise ModelzoneError(f"environment {account.environment} has no deployment {deployment!r}; it has: {names}")


def _machine(account: Account, *more: str) -> Machine:
    from modelzone.compiling.aws import stack_outputs  # noqa: PLC0415
    from modelzone.compiling.executions import Machine  # noqa: PLC0415

    outputs = stack_outputs(
        account.client("cloudformation"),
        environment=account.environment,
        suffix="compile",
        needed=("StateMachineArn", *more),
    )
    return Machine(account.client("stepfunctions"), outputs["StateMachineArn"])


def _is_there(account: Account, wanted: Request) -> bool:
    from modelzone.artifacts.store import read_place  # noqa: PLC0415
    from modelzone.compiling.request import mirror_exists  # noqa: PLC0415

    s3 = account.client("s3")
    if wanted.weights_only:
        return mirror_exists(s3, wanted)
    place = read_place(s3, wanted.order.bucket, wanted.prefix)
    return place is not None and place.complete


def _check_weights(account: Account, wanted: Request) -> None:
    from modelzone.compiling.request import mirror_exists  # noqa: PLC0415

    if wanted.order.job.get("weights", {}).get("source") != "s3":
        return
    where = f"s3://{wanted.order.bucket}/{wanted.weights_prefix}"
    if wanted.weights_only:
        raise ModelzoneError(
            f"environment {account.environment} has no way to the model hub (egress: none), so it cannot mirror weights"
            "\n  fix: run it in an environment with egress: nat whose model store this one shares (docs/compiling.md)"
        )
    if not mirror_exists(account.client("s3"), wanted):
        raise ModelzoneError(
            f"environment {account.environment} has no way to the model hub (egress: none), and {where} is not there "
            f"or not complete\n  fix: in an environment with egress: nat that uses the same store: "
            f"modelzone compile {wanted.order.deployment} --weights-only -e ENV (docs/compiling.md)"
        )


def _running(machine: Machine, wanted: Request) -> Execution | None:
    found = next((execution for execution in machine.running() if execution.key == wanted.key), None)
    if found is None:
        return None
    execution = machine.describe(found.arn)
    if bool(execution.given.get("weights_only")) and not wanted.weights_only:
        raise ModelzoneError(
            f"{execution.name} mirrors the weights of this model now\n  fix: try again when it has ended; follow it: "
            f"modelzone compile {execution.deployment} --weights-only --follow"
        )
    return execution


def _differences(wanted: Request, environment: EnvironmentPlan, plan: DeploymentPlan) -> list[str]:
    from modelzone.compiling.request import other_differences  # noqa: PLC0415

    return list(other_differences(wanted.order, environment, plan))


def _show_start(wanted: Request, execution: Execution, *, attached: bool, come_back: str) -> None:
    facts = wanted.facts
    model = f"{facts['model_id']} at {facts['model_revision'][:12]}"
    shape = (
        f"{facts['engine']} {facts['engine_version']}, degree {facts['tensor_parallel_degree']}, batch "
        f"{facts['batch_size']}, sequence {facts['sequence_length']}, {facts['dtype']}"
    )
    first, *others = wanted.instance_types
    spot = wanted.purchase == "spot" and not wanted.weights_only
    price = f"{usd(wanted.usd_per_hour)} USD an hour{' on demand, less as Spot' if spot else ''}"
    most = wanted.usd_per_hour * wanted.max_hours if wanted.usd_per_hour is not None else None
    limit = f"{wanted.max_hours} h at most" + (f", {usd(most)} USD" if most is not None else f", {UNKNOWN} price")
    rows = [
        ("mirrors" if wanted.weights_only else "compiles", model if wanted.weights_only else f"{model}: {shape}"),
        ("to", wanted.uri),
        ("host", f"{first}, {wanted.purchase}, {price}" + (f"; else {', '.join(others)}" if others else "")),
        ("limit", limit),
        ("attached to" if attached else "started", execution.name),
    ]
    if come_back:
        rows.append(("follow with", f"{come_back} --follow"))
    write_facts(rows)
    sys.stdout.flush()


def _watch(account: Account, machine: Machine, execution: Execution) -> Watch:
    from modelzone.compiling.snapshot import Watch  # noqa: PLC0415

    return Watch(
        execution,
        machine=machine,
        ec2=account.client("ec2"),
        ssm=account.client("ssm"),
        environment=account.environment,
        region=account.region,
    )


def _follow(account: Account, machine: Machine, execution: Execution, *, come_back: str, as_json: bool) -> Snapshot:
    from modelzone.cli.live import progress_view  # noqa: PLC0415
    from modelzone.compiling.snapshot import follow  # noqa: PLC0415

    watch = _watch(account, machine, execution)
    try:
        with progress_view(apart=as_json) as view:
            final = follow(watch.look, view.show, interval=account.interval)
    except KeyboardInterrupt:
        note(f"\nthe compilation goes on; come back with: {come_back}")
        note(f"cancel it with: {account.words(f'compile cancel {execution.deployment}')}")
        raise
    except ModelzoneError as error:
        raise ModelzoneError(f"{error}\nthe compilation goes on; come back with: {come_back}") from None
    if final.execution.failure:
        raise ModelzoneError(final.execution.failure)
    return final


def _show_status(snapshot: Snapshot) -> None:
    from modelzone.compiling.text import facts_of, step_rows  # noqa: PLC0415

    write_facts(facts_of(snapshot))
    if rows := step_rows(snapshot):
        write_heading("Steps")
        write_table(["STATE", "STEP", "TOOK>"], rows)


def _show_all(found: list[Snapshot]) -> None:
    from modelzone.compiling.text import duration, progress_text  # noqa: PLC0415

    rows = []
    for snapshot in found:
        execution, host = snapshot.execution, snapshot.host
        job = snapshot.job if snapshot.step and snapshot.job and snapshot.job.state == "running" else None
        rows.append(
            [
                execution.deployment,
                execution.status.lower().replace("_", " "),
                snapshot.step,
                progress_text(job) if job else "",
                f"{execution.started.astimezone(UTC):%Y-%m-%d %H:%M}",
                duration(snapshot.seconds),
                f"{host.instance_type} {host.zone}" if host and not host.gone else "",
                usd(snapshot.usd) if snapshot.usd is not None else "",
            ]
        )
    write_table(["DEPLOYMENT", "STATUS", "STEP", "PROGRESS", "STARTED (UTC)", "TIME>", "HOST", "USD>"], rows)
    for snapshot in found:
        if snapshot.execution.failure:
            write(f"\n{snapshot.execution.name}\n  {snapshot.execution.failure}")


def _log_lines(account: Account, machine: Machine, execution: Execution, *, follow: bool) -> Any:
    """Lines as they come; after the end once more, for what the agent sent last."""
    from modelzone.compiling.aws import stack_outputs  # noqa: PLC0415
    from modelzone.compiling.logs import JobLog, command_ids  # noqa: PLC0415

    outputs = stack_outputs(
        account.client("cloudformation"), environment=account.environment, suffix="compile", needed=("LogGroupName",)
    )
    log = JobLog(account.client("logs"), outputs["LogGroupName"])
    commands: dict[str, None] = {}
    last = 0
    while True:
        running = follow and machine.describe(execution.arn).running
        for event in (events := machine.events(execution, after=last, data=True)):
            last = max(last, event["id"])
        commands.update(dict.fromkeys(command_ids(events)))
        yield from log.new_lines(list(commands))
        if not running:
            return
        time.sleep(account.interval)
