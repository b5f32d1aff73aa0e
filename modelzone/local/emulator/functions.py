"""Lambda functions as processes: Python ones under AWS's own runtime client, every one with a clean environment."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
from ministack.core import lambda_runtime
from ministack.core.responses import get_account_id, get_region, new_uuid
from ministack.services import lambda_svc

from modelzone.local.emulator import seams
from modelzone.local.emulator.children import ChildProcesses
from modelzone.local.emulator.environment import base_child_environment, package_root
from modelzone.local.emulator.settings import EmulatorSettings

__all__ = [
    "ADAPTER_WRAPPER",
    "FunctionLogs",
    "code_folder",
    "function_environment",
    "install",
    "is_python",
    "is_web_function",
    "variables_of",
]

Config = Mapping[str, Any]

ADAPTER_WRAPPER = "/opt/bootstrap"
"""The Lambda Web Adapter's entry point, as a function names it in ``AWS_LAMBDA_EXEC_WRAPPER``."""

_FUNCTION_NAME = "AWS_LAMBDA_FUNCTION_NAME"


def variables_of(config: Config) -> Mapping[str, str]:
    """The environment variables a function is configured with."""
    return (config.get("Environment") or {}).get("Variables") or {}


def is_web_function(config: Config) -> bool:
    """Whether a function runs behind the Lambda Web Adapter."""
    return variables_of(config).get("AWS_LAMBDA_EXEC_WRAPPER") == ADAPTER_WRAPPER


def is_python(config: Config) -> bool:
    """Whether a function declares a Python runtime."""
    return str(config.get("Runtime", "")).startswith("python")


def code_folder(code_zip: bytes) -> Path:
    """The folder a deployment package is unpacked in, once per package."""
    return Path(seams.attribute(lambda_svc, "_provided_runtime_code_dir")(code_zip))


def function_environment(settings: EmulatorSettings, config: Config, folder: str | Path) -> dict[str, str]:
    """The environment of a function's process as Lambda documents it; the function's own variables win."""
    name = config.get("FunctionName", "unknown")
    return {
        **base_child_environment(settings),
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{config.get('Runtime', '')}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(config.get("MemorySize", 128)),
        _FUNCTION_NAME: name,
        "AWS_LAMBDA_FUNCTION_VERSION": config.get("Version", "$LATEST"),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": (config.get("LoggingConfig") or {}).get("LogGroup") or f"/aws/lambda/{name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d', time.gmtime())}/[$LATEST]{new_uuid()}",
        "LAMBDA_RUNTIME_DIR": str(Path(boto3.__file__).parents[1]),
        "LAMBDA_TASK_ROOT": str(folder),
        "_HANDLER": config.get("Handler", ""),
        **{key: str(value) for key, value in variables_of(config).items()},
        "AWS_ACCESS_KEY_ID": get_account_id(),
        "AWS_SECRET_ACCESS_KEY": "embedded",
        "AWS_SESSION_TOKEN": "embedded",
        "AWS_REGION": get_region(),
        "AWS_DEFAULT_REGION": get_region(),
        "AWS_ENDPOINT_URL": settings.endpoint_url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class FunctionLogs:
    """Appends what functions print to ``function-<name>.log``, beside MiniStack's log groups."""

    def __init__(self, *, logs_dir: Path) -> None:
        self._logs_dir = logs_dir
        self._lock = threading.Lock()

    def path(self, name: str) -> Path:
        """The log file of a function."""
        return self._logs_dir / f"function-{name}.log"

    def append(self, name: str, text: str) -> None:
        """Add lines to a function's log."""
        if not text:
            return
        with self._lock, self.path(name).open("a", encoding="utf-8") as log:
            log.write(text if text.endswith("\n") else text + "\n")


class _Subprocess:
    """Stands in for the ``subprocess`` module where MiniStack starts functions: children are tied to the emulator."""

    def __init__(self, *, settings: EmulatorSettings, children: ChildProcesses) -> None:
        self._settings, self._children = settings, children

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(  # noqa: N802 - takes subprocess.Popen's place
        self,
        command: list[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.STDOUT,
        text: bool = False,
        bufsize: int = -1,
    ) -> subprocess.Popen[Any]:
        # What equals a variable of the emulator was inherited from it.
        given = {name: value for name, value in env.items() if os.environ.get(name) != value}
        if Path(command[0]).name == "node":
            # The parts of the SDK that Lambda's Node runtime brings along; CDK's own functions count on them.
            packages = [given["NODE_PATH"]] if "NODE_PATH" in given else []
            given["NODE_PATH"] = os.pathsep.join([*packages, str(package_root() / "node_modules")])
        return self._children.spawn(
            command,
            name=given.get(_FUNCTION_NAME, "function"),
            kind="function",
            environment={**base_child_environment(self._settings), **given},
            cwd=cwd or str(self._settings.scratch_dir),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            bufsize=bufsize,
        )


def install(*, settings: EmulatorSettings, children: ChildProcesses, logs: FunctionLogs) -> None:
    """Have MiniStack run Python functions by ``awslambdaric`` through its Runtime API for custom runtimes."""

    def code_dir(code_zip: bytes) -> str:
        folder = str(original_code_dir(code_zip))
        bootstrap = Path(folder) / "bootstrap"
        if not bootstrap.exists():
            bootstrap.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -u -m awslambdaric "$_HANDLER"\n')
            bootstrap.chmod(0o755)
        return folder

    def worker_env(config: Config, folder: str, port: int) -> dict[str, str]:
        return {
            **function_environment(settings, config, folder),
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
        }

    def worker_class_for(config: Config) -> Any:
        return lambda_runtime.ProvidedWorker if is_python(config) else original_class_for(config)

    def execute_warm(function: dict[str, Any], event: Any, request_id: str) -> Any:
        config = function.get("config") or function
        if is_python(config):
            return seams.attribute(lambda_svc, "_execute_function_provided_warm")(function, event, request_id)
        return original_warm(function, event, request_id)

    def emit_logs(function: dict[str, Any], request_id: str, text: str, *args: Any, **options: Any) -> None:
        config = function.get("config") or function
        if not is_web_function(config):  # a web application writes to the file itself
            logs.append(config.get("FunctionName", "unknown"), text)
        original_emit(function, request_id, text, *args, **options)

    original_code_dir = seams.replace(lambda_svc, "_provided_runtime_code_dir", code_dir)
    seams.replace(lambda_svc, "_provided_worker_env", worker_env)
    original_class_for = seams.replace(lambda_runtime, "_worker_class_for", worker_class_for)
    original_warm = seams.replace(lambda_svc, "_execute_function_warm", execute_warm)
    original_emit = seams.replace(lambda_svc, "_emit_lambda_logs", emit_logs)
    seams.replace(lambda_runtime, "subprocess", _Subprocess(settings=settings, children=children))
