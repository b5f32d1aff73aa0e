"""``python -m modelzone.local {up,status,chat,down}``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modelzone.errors import ModelzoneError
from modelzone.local.main_job import Embedded, ask, describe, run_main_job
from modelzone.local.processes import running_emulator, stop_everything
from modelzone.local.workspace import Workspace
from modelzone.planning import plan_environment

_ROOT = Path(__file__).resolve().parent.parent.parent
_PROMPT = "What is Modelzone?"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m modelzone.local", description="The embedded AWS.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("up", "start it, deploy an environment, ask its models something"),
        ("status", "say what runs and where"),
        ("chat", "ask the deployed API something"),
        ("down", "stop it and everything in it"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        if name != "down":
            command.add_argument("--environment", default="dev", help="a file of environments/, without .yaml")
        if name == "up":
            command.add_argument("--prompt", default=_PROMPT)
        if name == "chat":
            command.add_argument("prompt")
            command.add_argument("--model", help="a deployment; the environment's first one without")
    return parser.parse_args(arguments)


def _running(workspace: Workspace, environment: str) -> Embedded:
    state = running_emulator(workspace)
    if state is None:
        raise ModelzoneError("the embedded AWS does not run; start it with: make local")
    return Embedded(workspace, plan_environment(workspace.root, environment), state)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _arguments(arguments)
    workspace = Workspace.of(_ROOT)
    try:
        if options.command == "up":
            run_main_job(workspace, environment=options.environment, prompt=options.prompt)
        elif options.command == "down":
            count = stop_everything(workspace)
            sys.stdout.write(f"[local] stopped {count} processes\n" if count else "[local] nothing was running\n")
        elif options.command == "status":
            describe(_running(workspace, options.environment))
        else:
            embedded = _running(workspace, options.environment)
            ask(embedded, prompt=options.prompt, model=options.model or embedded.plan.deployments[0].name)
    except ModelzoneError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the embedded AWS may still run: make local-down\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
