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
from modelzone.cli.exits import ExitCode
from modelzone.cli.formats import UNKNOWN, usd
from modelzone.cli.options import JsonOption, Overrides, context_overrides, examples
from modelzone.cli.output import note, write, write_facts, write_heading, write_json, write_table
from modelzone.errors import ModelzoneError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelzone.compiling.executions import Execution, Machine
    from modelzone.compiling.request import Request
    from modelzone.compiling.snapshot import Snapshot, Watch
    from modelzone.planning import DeploymentPlan, EnvironmentPlan

_START = examples(
    "modelzone compile mixtral",
    "modelzone compile mixtral -e prod --follow",
    "modelzone compile mixtral --set batch_size=2 --set sequence_length=2048",
    "modelzone compile mixtral -c deployment.mixtral.batch_size=4",
    "modelzone compile mixtral --weights-only",
)
_GROUP = examples(
    "modelzone compile mixtral --follow",
    "modelzone compile status",
    "modelzone compile logs mixtral --follow",
    "modelzone compile cancel mixtral",
)
# In the logical id of the steps' log group in the compile stack.
_STEPS_LOGS = "StepsLogs"
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


ExecutionOption = Annotated[
    str | None,
    typer.Option("--execution", metavar="NAME", help="One compilation. See: compile status --all.", show_default=False),
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
        (
            status,
            "Say how far compilations are.",
            ("modelzone compile status", "modelzone compile status mixtral", "modelzone compile status mixtral --all"),
        ),
        (
            cancel,
            "Cancel a compilation and end its host.",
            ("modelzone compile cancel mixtral", "modelzone compile cancel mixtral --execution NAME"),
        ),
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
    overrides: Overrides = None,
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
    planned, plan, wanted, machine = _prepare(
        account, deployment, given, overrides=overrides or [], weights_only=weights_only
    )
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
        "most_hours": wanted.most_hours,
        "most_usd": None if wanted.most_usd is None else round(wanted.most_usd, 2),
    }
    if document["already"]:
        if as_json:
            write_json({**document, "result": _complete(deployment, wanted)} if follow else document)
        else:
            write(f"{wanted.uri} is complete: there is nothing to compile")
        return
    again = _again(given, overrides or [], weights_only=weights_only)
    execution, mirrors = machine.find(wanted.key, weights_only=wanted.weights_only)
    document["attached"] = execution is not None
    if execution is None:
        if mirrors:
            note(f"note: {mirrors.name} mirrors the weights now; this compilation waits for its end")
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
    come_back = account.words(f"compile {deployment}") + again
    if not as_json:
        _show_start(wanted, execution, attached=document["attached"], come_back="" if follow else come_back)
    if follow:
        come_back += " --follow"
        final = _follow_to_end(account, machine, execution, document, come_back=come_back, as_json=as_json)
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
    every: Annotated[bool, typer.Option("--all", help="List all that there were, with their names.")] = False,
    execution_name: ExecutionOption = None,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far compilations are, or how the last ones ended.

    With --all one line for each; AWS keeps them for 90 days.
    """
    if every and execution_name:
        raise typer.BadParameter("--all lists compilations, --execution shows one: give one of them")
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    machine = state_machine(account)
    if every:
        _history(account, machine, deployment, as_json=as_json)
        return
    if execution_name:
        executions = [_named(machine, execution_name, deployment)]
        deployment = executions[0].deployment
    elif deployment is None:
        executions = machine.latest_of_each()
    elif latest := machine.latest(deployment):
        executions = [latest]
    else:
        _check_known(account, machine, deployment)
        executions = []
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
    execution_name: ExecutionOption = None,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cancel the compilations of a deployment that run, or one of them, and wait until their hosts are gone.

    What they downloaded and uploaded stays: the next compilation goes on from there.
    """
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    machine = state_machine(account)
    from modelzone.compiling.hosts import wait_until_gone  # noqa: PLC0415

    if execution_name:
        running = [one for one in [_named(machine, execution_name, deployment)] if one.running]
    else:
        running = [execution for execution in machine.running() if execution.is_of(deployment)]
        if not running:
            _check_known(account, machine, deployment)
    # All of them first: the next host could be started for one while another's end is waited for.
    for execution in running:
        machine.stop(execution, cause="modelzone compile cancel")
        note(f"cancelled {execution.name}; waiting until its host is gone")
    rows = []
    for execution in running:
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
        which = f"{execution_name} has ended" if execution_name else f"no compilation of {deployment} runs"
        write(f"{which} in {environment}")


def logs(
    context: typer.Context,
    deployment: DeploymentArgument,
    *,
    environment: EnvironmentOption = "dev",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the compilation ends.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the lines as the job wrote them.")] = False,
    execution_name: ExecutionOption = None,
    profile: ProfileOption = None,
    endpoint_url: EndpointOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print what the compile job said, on stdout and stderr, of the compilation that runs or of the last one.

    Where no job ran, it prints what the steps of the state machine said.
    """
    account = open_account(context, environment, profile=profile, endpoint_url=endpoint_url, local=local)
    machine = state_machine(account, "LogGroupName")
    execution = _named(machine, execution_name, deployment) if execution_name else machine.latest(deployment)
    if execution is None:
        _check_known(account, machine, deployment)
        raise ModelzoneError(f"environment {environment} has had no compilation of {deployment}")
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
        seen = account.words(f"compile status {deployment}")
        note(f"{execution.name} has logged nothing; see: {seen} --execution {execution.name}")


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


def _named(machine: Machine, name: str, deployment: str | None) -> Execution:
    execution = machine.named(name)
    if deployment is not None and not execution.is_of(deployment):
        raise ModelzoneError(f"{execution.name} is a compilation of {execution.deployment}, not of {deployment}")
    return execution


def _check_known(account: Account, machine: Machine, deployment: str) -> None:
    """Refuse a deployment that the environment has not, and has compiled nothing for."""
    from modelzone.settings.loading import load_environment  # noqa: PLC0415

    known = load_environment(account.root, account.environment).deployments
    if deployment not in known and not machine.all(deployment):
        raise ModelzoneError(
            f"environment {account.environment} has no deployment {deployment!r}; it has: {', '.join(known)}"
        )


def _history(account: Account, machine: Machine, deployment: str | None, *, as_json: bool) -> None:
    from modelzone.compiling.text import duration  # noqa: PLC0415

    found = machine.all(deployment)
    if not found and deployment is not None:
        _check_known(account, machine, deployment)
    now = datetime.now(UTC)
    rows = [
        {
            "execution": execution.name,
            "deployment": execution.deployment,
            "key": execution.key,
            "status": execution.word.replace(" ", "_"),
            "started": f"{execution.started.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "stopped": f"{execution.stopped.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if execution.stopped else None,
            "seconds": round(execution.seconds(now), 1),
        }
        for execution in found
    ]
    if as_json:
        write_json({"environment": account.environment, "compilations": rows})
    elif not rows:
        of = f" of {deployment}" if deployment else ""
        write(f"environment {account.environment} has had no compilation{of}")
    else:
        lines = [
            [one.name, one.word, f"{one.started.astimezone(UTC):%Y-%m-%d %H:%M}", duration(one.seconds(now))]
            for one in found
        ]
        write_table(["EXECUTION", "STATUS", "STARTED (UTC)", "TIME>"], lines)


def _complete(deployment: str, wanted: Request) -> dict[str, Any]:
    """What --follow says of an artifact that was there: the keys of a compilation that succeeded, without one."""
    none = dict.fromkeys(
        ("execution", "step", "waiting", "started", "stopped", "seconds", "progress", "host", "usd", "failure")
    )
    return {
        **none,
        "deployment": deployment,
        "key": wanted.key,
        "status": "succeeded",
        "steps": [],
        "artifact": wanted.uri,
    }


def _again(given: dict[str, str], overrides: list[str], *, weights_only: bool) -> str:
    """The options that name the same compilation again."""
    import shlex  # noqa: PLC0415

    words = [word for text in overrides for word in ("-c", text)]
    words += [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    words += ["--weights-only"] if weights_only else []
    return f" {shlex.join(words)}" if words else ""


def _prepare(
    account: Account, deployment: str, given: dict[str, str], *, overrides: list[str], weights_only: bool
) -> tuple[EnvironmentPlan, DeploymentPlan, Request, Machine]:
    from modelzone.artifacts.registry import read_order  # noqa: PLC0415
    from modelzone.compiling.request import PLANNED_FIELDS, check_order, request  # noqa: PLC0415

    shapes = {name: value for name, value in given.items() if name in PLANNED_FIELDS}
    fields = context_overrides(overrides)
    environment, base = planned_deployment(account, deployment, overrides=fields)
    changed = planned_deployment(account, deployment, shapes, overrides=fields)[1] if shapes else base
    machine = state_machine(account)
    order = check_order(
        read_order(account.client("ssm"), environment=account.environment, deployment=deployment),
        base,
        context=_again({}, overrides, weights_only=False),
    )
    model = {name: value for name, value in given.items() if name not in shapes}
    wanted = request(order, changed, model=model, weights_only=weights_only, region=account.region)
    if model:
        note("note: whether another model fits is not checked: modelzone plan checks a profile or a config.json")
    return environment, base, wanted, machine


def planned_deployment(
    account: Account,
    deployment: str,
    shapes: Mapping[str, str] | None = None,
    *,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[EnvironmentPlan, DeploymentPlan]:
    """An environment's plan and that of one of its deployments.

    Parameters
    ----------
    shapes
        Values that were given with ``--set``; they win over `overrides`.
    overrides
        Those that were given with ``-c``.

    Raises
    ------
    ModelzoneError
        There is no such deployment, or it cannot be planned so.
    """
    from modelzone.planning import plan_environment  # noqa: PLC0415

    fields = {name: dict(values) for name, values in (overrides or {}).items()}
    if shapes:
        fields[deployment] = {**fields.get(deployment, {}), **shapes}
    try:
        environment = plan_environment(account.root, account.environment, overrides=fields or None)
    except SettingsError as error:
        source = error.source
        for name in shapes or {}:
            source = source.replace(f"-c deployment.{deployment}.{name}=", f"--set {name}=")
        raise SettingsError(source=source, key=error.key, problem=error.problem, fix=error.fix) from None
    for plan in environment.deployments:
        if plan.name == deployment:
            return environment, plan
    names = ", ".join(plan.name for plan in environment.deployments)
    raise ModelzoneError(f"environment {account.environment} has no deployment {deployment!r}; it has: {names}")


def state_machine(account: Account, *more: str) -> Machine:
    """The compile state machine of the environment."""
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
    """Whether the result is there as its manifest says, by what S3 tells of every object."""
    from modelzone.artifacts.store import read_place  # noqa: PLC0415
    from modelzone.artifacts.verify import verify  # noqa: PLC0415
    from modelzone.compiling.request import mirror_exists  # noqa: PLC0415

    s3 = account.client("s3")
    if wanted.weights_only:
        return mirror_exists(s3, wanted)
    place = read_place(s3, wanted.order.bucket, wanted.prefix)
    if place is None or not place.complete or any(item.problem for item in verify(s3, place, deep=False)):
        return False
    if place.unlisted:
        note(
            f"warning: {wanted.uri} holds {', '.join(place.unlisted[:3])}, which its manifest does not list: SageMaker "
            f"would load it with the rest; see: {account.words(f'artifacts verify {wanted.key}')}"
        )
    return True


def _check_weights(account: Account, wanted: Request) -> None:
    from modelzone.compiling.request import mirror_exists  # noqa: PLC0415

    if wanted.order.job.get("weights", {}).get("source") != "s3":
        return
    where = f"s3://{wanted.order.bucket}/{wanted.weights_prefix}"
    if wanted.weights_only:
        raise ModelzoneError(
            f"environment {account.environment} has no way to the model hub (egress: none), so it cannot mirror weights"
            "\n  fix: run it in an environment with egress: nat, and copy what it mirrored: modelzone artifacts copy "
            f"--weights {wanted.order.deployment} -e ENV --to {account.environment} (docs/compiling.md)"
        )
    if not mirror_exists(account.client("s3"), wanted):
        raise ModelzoneError(
            f"environment {account.environment} has no way to the model hub (egress: none), and {where} is not there "
            f"or not complete\n  fix: in an environment with egress: nat: modelzone compile {wanted.order.deployment} "
            f"--weights-only -e ENV; unless that uses the same store: modelzone artifacts copy --weights "
            f"{wanted.order.deployment} -e ENV --to {account.environment} (docs/compiling.md)"
        )


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
    most = f"{usd(wanted.most_usd)} USD" if wanted.most_usd is not None else f"{UNKNOWN} price"
    dearest = " at the dearest type's price" if others and wanted.most_usd is not None else ""
    limit = f"{wanted.max_hours} h; a host ends after {wanted.most_hours:g} h at most: {most}{dearest}"
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


def _follow_to_end(
    account: Account,
    machine: Machine,
    execution: Execution,
    document: dict[str, Any],
    *,
    come_back: str,
    as_json: bool,
) -> Snapshot:
    """Follow a compilation that succeeds; of one that fails, JSON has the whole document and the exit status is 1."""
    try:
        final = _follow(account, machine, execution, come_back=come_back, as_json=as_json)
    except ModelzoneError as error:
        if not as_json:
            raise
        failure = str(error)
    else:
        document["result"] = final.as_dict()
        if not (failure := final.execution.failure):
            return final
        if not as_json:
            raise ModelzoneError(failure)
    note(f"error: {failure}")
    write_json({**document, "result": document.get("result"), "error": {"kind": "refused", "message": failure}})
    raise typer.Exit(ExitCode.REFUSED)


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
        note(f"cancel it with: {account.words(f'compile cancel {execution.deployment}')} --execution {execution.name}")
        raise
    except ModelzoneError as error:
        raise ModelzoneError(f"{error}\nthe compilation goes on; come back with: {come_back}") from None
    return final


def _show_status(snapshot: Snapshot) -> None:
    from modelzone.compiling.text import facts_of, step_rows  # noqa: PLC0415

    write_facts(facts_of(snapshot))
    if rows := step_rows(snapshot):
        write_heading("Steps")
        write_table(["STATE", "STEP", "TOOK>"], rows)


def _show_all(found: list[Snapshot]) -> None:
    from modelzone.compiling.text import clean, duration, progress_text  # noqa: PLC0415

    rows = []
    for snapshot in found:
        execution, host = snapshot.execution, snapshot.host
        job = snapshot.job if snapshot.step and snapshot.job and snapshot.job.state == "running" else None
        rows.append(
            [
                execution.deployment,
                execution.word,
                snapshot.step,
                progress_text(job) if job else snapshot.waiting and f"tries again: {clean(snapshot.waiting)}",
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
            break
        time.sleep(account.interval)
    if not commands and (group := _steps_group(account)):
        from modelzone.compiling.logs import step_lines  # noqa: PLC0415

        note(f"no job of {execution.name} ran on a host; this is what the steps said ({group}):")
        yield from step_lines(account.client("logs"), group, machine.describe(execution.arn))


def _steps_group(account: Account) -> str:
    """The log group of the state machine's steps; empty where the stack does not tell."""
    from modelzone.compiling.aws import stack_resources  # noqa: PLC0415

    found = stack_resources(
        account.client("cloudformation"), f"modelzone-{account.environment}-compile", kind="AWS::Logs::LogGroup"
    )
    return next((group for name, group in found.items() if _STEPS_LOGS in name), "")
