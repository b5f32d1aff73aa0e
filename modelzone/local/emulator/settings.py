"""What one emulator process is started with, and the folders it uses."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelzone.errors import ModelzoneError

__all__ = ["DEFAULT_ACCOUNT", "DEFAULT_REGION", "MODEL_SERVER_COMMAND_VARIABLE", "EmulatorSettings"]

DEFAULT_ACCOUNT = "000000000000"
DEFAULT_REGION = "us-east-1"

MODEL_SERVER_COMMAND_VARIABLE = "MODELZONE_MODEL_SERVER_COMMAND"
"""Environment variable with a JSON list of strings that replaces the model server's command."""


@dataclass(frozen=True, kw_only=True)
class EmulatorSettings:
    """Everything an emulator process needs to know about itself."""

    port: int
    state_dir: Path
    account: str = DEFAULT_ACCOUNT
    region: str = DEFAULT_REGION
    model_server_command: tuple[str, ...] = (sys.executable, "-m", "modelzone.local.model_server")

    def __post_init__(self) -> None:
        if not (self.account.isdigit() and len(self.account) == 12):  # noqa: PLR2004
            raise ModelzoneError(f"--account {self.account!r}: an AWS account id has 12 digits")

    @property
    def endpoint_url(self) -> str:
        """Where children of this process reach it.

        The address instead of ``localhost`` makes boto3 put S3 bucket names in the path, so that nothing has to
        resolve ``<bucket>.localhost``.
        """
        return f"http://127.0.0.1:{self.port}"

    @property
    def logs_dir(self) -> Path:
        """Folder of the emulator's, the functions' and the model servers' logs."""
        return self.state_dir / "logs"

    @property
    def scratch_dir(self) -> Path:
        """Folder for unpacked function code and temporary files; emptied when the emulator starts."""
        return self.state_dir / "tmp" / "emulator"

    @property
    def models_dir(self) -> Path:
        """Folder of the model data copied from S3, one sub-folder per hosted variant."""
        return self.scratch_dir / "models"

    @property
    def hosts_dir(self) -> Path:
        """Folder of the emulated hosts, one sub-folder per instance; emptied when the emulator starts."""
        return self.state_dir / "hosts"

    @property
    def faults_file(self) -> Path:
        """What shall go wrong (`modelzone.local.host.faults`); written by tests, never by the emulator."""
        return self.state_dir / "faults.json"

    @property
    def children_file(self) -> Path:
        """JSON file that lists the processes started by the emulator."""
        return self.state_dir / "children.json"

    @staticmethod
    def model_server_command_from(environment: Mapping[str, str]) -> tuple[str, ...] | None:
        """Read the model server's command from the environment, ``None`` when it is not set.

        Raises
        ------
        ModelzoneError
            The variable is not a JSON list of strings.
        """
        text = environment.get(MODEL_SERVER_COMMAND_VARIABLE)
        if not text:
            return None
        try:
            command = json.loads(text)
        except json.JSONDecodeError as error:
            raise ModelzoneError(f"{MODEL_SERVER_COMMAND_VARIABLE} is not JSON: {error}") from error
        if not (isinstance(command, list) and command and all(isinstance(part, str) for part in command)):
            raise ModelzoneError(f"{MODEL_SERVER_COMMAND_VARIABLE} must be a JSON list of strings, got {text!r}")
        return tuple(command)
