"""``python -m modelzone.local.emulator --port PORT --state-dir DIR [--account ACCOUNT]``."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from modelzone.errors import ModelzoneError
from modelzone.local.emulator import environment
from modelzone.local.emulator.logs import configure
from modelzone.local.emulator.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, EmulatorSettings


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modelzone.local.emulator", description="An AWS of this project's services on one port."
    )
    parser.add_argument("--port", type=int, required=True, help="port of 127.0.0.1 to serve on")
    parser.add_argument("--state-dir", type=Path, required=True, help="folder for logs, model data and children.json")
    parser.add_argument("--account", default=DEFAULT_ACCOUNT, help="the account of requests without credentials")
    parser.add_argument("--region", default=DEFAULT_REGION, help="the region of requests without one")
    return parser.parse_args(arguments)


def _check_port(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise ModelzoneError(f"port {port} is in use; is an embedded AWS running already?")


def run(arguments: list[str]) -> None:
    """Serve until the process is told to stop."""
    parsed = _parse(arguments)
    state_dir = parsed.state_dir.resolve()
    command = EmulatorSettings.model_server_command_from(os.environ)
    settings = EmulatorSettings(
        port=parsed.port,
        state_dir=state_dir,
        account=parsed.account,
        region=parsed.region,
        **({"model_server_command": command} if command else {}),
    )
    _check_port(settings.port)
    for folder in (settings.scratch_dir, settings.hosts_dir):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (settings.logs_dir, settings.scratch_dir, settings.models_dir, settings.hosts_dir):
        folder.mkdir(parents=True, exist_ok=True)
    environment.prepare(settings, os.environ)
    tempfile.tempdir = None  # TMPDIR has changed
    # MiniStack reads the environment and installs log handlers while it loads: not before this line.
    from modelzone.local.emulator.server import Emulator  # noqa: PLC0415

    configure(log_file=settings.logs_dir / "emulator.log")
    Emulator(settings=settings).serve()


def main() -> None:
    """Entry point."""
    try:
        run(sys.argv[1:])
    except ModelzoneError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
