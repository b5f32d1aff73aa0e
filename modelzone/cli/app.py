"""The application: its verbs and what stands before them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Protocol

import typer

from modelzone.cli.exits import ExitCode
from modelzone.cli.frame import PROGRAM, Frame
from modelzone.cli.options import examples
from modelzone.cli.output import write
from modelzone.cli.project import Project
from modelzone.cli.verbs import (
    artifacts,
    chat,
    compile,  # noqa: A004 - a verb
    cost,
    doctor,
    engines,
    environments,
    host,
    instances,
    keys,
    local,
    models,
    params,
    plan,
    prices,
    profile,
)

__all__ = ["VERBS", "app"]


class Verb(Protocol):
    """A module of ``verbs``."""

    def add_to(self, app: typer.Typer) -> None:
        """Add its command, or its group of commands."""
        ...


# In the order of the help.
VERBS: tuple[Verb, ...] = (
    plan, cost, params, models, engines, instances, environments, profile, doctor, compile, artifacts, host, chat, keys,
    prices, local,
)  # fmt: skip

_EXAMPLES = examples(
    "modelzone plan mixtral-8x7b-instruct",
    "modelzone cost dev --compare",
    "modelzone params dev mixtral scaling.max_instances=4",
    "modelzone doctor preflight dev",
    "modelzone compile mixtral --follow",
    "modelzone chat 'What is deep learning?'",
)
_STATUSES = "\b\nExit status:\n" + "\n".join(f"  {code.value:>3}  {code.meaning}" for code in ExitCode)

app = typer.Typer(
    name=PROGRAM,
    cls=Frame,
    no_args_is_help=True,
    epilog=f"{_EXAMPLES}\n\n{_STATUSES}",
    # Plain help: Typer's coloured one imports Markdown and doubles the time until it shows.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _say_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

        try:
            write(f"{PROGRAM} {version(PROGRAM)}")
        except PackageNotFoundError:
            write(f"{PROGRAM} (run from a checkout)")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    *,
    project: Annotated[
        Path | None,
        typer.Option("--project", metavar="PATH", help="The checkout to work on; without it the one around here."),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Know what fits before paying for it: plan, price and check deployments of open models on AWS."""
    context.obj = Project(project)


for verb in VERBS:
    verb.add_to(app)
