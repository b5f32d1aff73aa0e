"""``modelzone local``: the embedded AWS on this machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzone.cli.completion import complete_environment
from modelzone.cli.exits import ExitCode
from modelzone.cli.options import JsonOption, examples
from modelzone.cli.output import note, write, write_json
from modelzone.cli.project import project_root
from modelzone.cli.verbs.chat import (
    ContinueOption,
    MaxTokensOption,
    ModelOption,
    PromptArgument,
    SystemOption,
    TemperatureOption,
    converse,
    given_prompt,
    local_target,
)
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.local.main_job import Embedded
    from modelzone.local.workspace import EmulatorState, Workspace

_PROMPT = "What is Modelzone?"
_Environment = Annotated[
    str,
    typer.Option("--environment", metavar="ENV", help="A file of environments/.", autocompletion=complete_environment),
]


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Deploy to an AWS emulator on this machine.",
        epilog=examples("modelzone local up", "modelzone local chat 'What is Modelzone?'", "modelzone local down"),
        rich_markup_mode=None,
    )
    for action, lines in (
        (up, ("modelzone local up", "modelzone local up --environment prod --prompt 'Who are you?'")),
        (status, ("modelzone local status", "modelzone local status --json")),
        (
            chat,
            (
                "modelzone local chat 'What is Modelzone?'",
                "modelzone local chat",
                "modelzone local chat --model mixtral 'Who are you?'",
            ),
        ),
        (drill, ("modelzone local drill", "modelzone local drill --kills 100 --seed 7")),
        (down, ("modelzone local down",)),
    ):
        group.command(action.__name__, epilog=examples(*lines))(action)
    app.add_typer(group, name="local")


def up(
    context: typer.Context,
    *,
    environment: _Environment = "dev",
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="What to ask in the end.")] = _PROMPT,
    as_json: JsonOption = False,
) -> None:
    """Start the embedded AWS, deploy an environment with the real CDK CLI, ask its models something."""
    workspace = _workspace(context)
    with _interruptible(), _progress_apart(apart=as_json):
        from modelzone.local.main_job import run_main_job  # noqa: PLC0415

        run_main_job(workspace, environment=environment, prompt=prompt)
    if as_json:
        write_json(_document(running(workspace, environment)))


def status(context: typer.Context, *, environment: _Environment = "dev", as_json: JsonOption = False) -> None:
    """Say what runs and where."""
    embedded = running(_workspace(context), environment)
    if as_json:
        write_json(_document(embedded))
        return
    from modelzone.local.main_job import describe  # noqa: PLC0415

    describe(embedded)


def chat(
    context: typer.Context,
    prompt: PromptArgument = None,
    *,
    model: ModelOption = None,
    system: SystemOption = None,
    temperature: TemperatureOption = None,
    max_tokens: MaxTokensOption = None,
    go_on: ContinueOption = False,
    environment: _Environment = "dev",
    as_json: JsonOption = False,
) -> None:
    """Ask the deployed API something and print the answer as it comes: short for `modelzone chat --local`."""
    embedded = running(_workspace(context), environment)
    question = given_prompt(prompt, as_json=as_json)
    parameters = {"temperature": temperature, "max_tokens": max_tokens, "continue_until_stop": go_on}
    converse(local_target(embedded), question, model=model, system=system, parameters=parameters, as_json=as_json)


def drill(
    context: typer.Context,
    *,
    kills: Annotated[int, typer.Option("--kills", metavar="N", min=1, help="How many kills.")] = 10,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the random moments.")] = 1,
    model: Annotated[
        str | None, typer.Option("--model", metavar="DEPLOYMENT", help="A deployment; without it the first.")
    ] = None,
    environment: _Environment = "dev",
    as_json: JsonOption = False,
) -> None:
    """Kill compilations on the embedded AWS at every step, and check what they leave.

    After each kill: no manifest over an incomplete artifact, no host running, nothing sent or downloaded twice; and the
    next run succeeds. A kill takes 10 to 25 seconds; it needs what "modelzone local up" deploys.
    """
    embedded = running(_workspace(context), environment)
    from modelzone.local.drill import Drill  # noqa: PLC0415

    name = model or embedded.plan.deployments[0].name
    if name not in {plan.name for plan in embedded.plan.deployments}:
        raise ModelzoneError(f"environment {environment} has no deployment {name!r}")
    with _interruptible(), _progress_apart(apart=as_json):
        report = Drill(embedded, deployment=name, seed=seed).run(kills, tell=note)
    document = report.document()
    if as_json:
        write_json(document)
    else:
        for key in ("by_kind", "by_place", "by_outcome"):
            write(f"{key[3:]:<8} " + ", ".join(f"{what} {count}" for what, count in sorted(document[key].items())))
        write(
            f"{document['kills']} kills in {document['attempts']} runs, {document['artifacts']} artifacts published, "
            f"{document['seconds']:.0f} s: {len(report.violations)} violations"
        )
        if report.not_hit:
            write(f"not hit: {', '.join(report.not_hit)}")
        for violation in report.violations:
            write(violation)
    if report.violations:
        raise typer.Exit(ExitCode.REFUSED)


def down(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Stop the embedded AWS and everything in it."""
    workspace = _workspace(context)
    _require_extras()
    from modelzone.local.processes import stop_everything  # noqa: PLC0415

    count = stop_everything(workspace)
    if as_json:
        write_json({"stopped_processes": count})
    else:
        write(f"[local] stopped {count} processes" if count else "[local] nothing was running")


def _workspace(context: typer.Context) -> Workspace:
    from modelzone.local.workspace import Workspace  # noqa: PLC0415

    return Workspace.of(project_root(context))


def _require_extras() -> None:
    """The embedded AWS has packages of its own, which an operator's installation may lack."""
    import importlib.util  # noqa: PLC0415

    if importlib.util.find_spec("psutil") is None:
        raise ModelzoneError("the embedded AWS is not installed here: make setup-local")


def require_running(workspace: Workspace) -> EmulatorState:
    """The embedded AWS that runs.

    Raises
    ------
    ModelzoneError
        None does.
    """
    _require_extras()
    from modelzone.local.processes import running_emulator  # noqa: PLC0415

    state = running_emulator(workspace)
    if state is None:
        raise ModelzoneError("the embedded AWS does not run; start it with: make local")
    return state


def running(workspace: Workspace, environment: str) -> Embedded:
    """An environment on the embedded AWS that runs.

    Raises
    ------
    ModelzoneError
        None runs, or there is no such environment.
    """
    state = require_running(workspace)
    from modelzone.local.main_job import Embedded  # noqa: PLC0415
    from modelzone.planning import plan_environment  # noqa: PLC0415

    return Embedded(workspace, plan_environment(workspace.root, environment), state)


def _document(embedded: Embedded) -> dict[str, Any]:
    from modelzone.local.workspace import ACCOUNT  # noqa: PLC0415

    return {
        "environment": embedded.plan.environment.name,
        "base_url": embedded.base_url,
        "api_key": embedded.api_key if embedded.takes_keys else None,
        "endpoints": {
            plan.name: embedded.outputs(f"deployment-{plan.name}")["EndpointName"] for plan in embedded.plan.deployments
        },
        "aws_endpoint_url": embedded.state.url,
        "aws_access_key_id": ACCOUNT,
        "region": embedded.region,
        "logs": str(embedded.workspace.logs),
    }


@contextlib.contextmanager
def _progress_apart(*, apart: bool) -> Iterator[None]:
    """With JSON on stdout, whatever is said on the way goes to stderr."""
    if not apart:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    _require_extras()
    try:
        yield
    except KeyboardInterrupt:
        note("stopped; the embedded AWS may still run: make local-down")
        raise
