"""Stands in for the Lambda Web Adapter: runs a function's web application and speaks HTTP to it.

On AWS the adapter is a layer whose ``/opt/bootstrap`` starts the function's handler as a program, waits until that
answers HTTP, and turns each Lambda event into a request. The layer's binary is not needed here: the same is done
by the emulator itself, with one process a function for all requests.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from ministack.services import lambda_svc

from modelzone.local.emulator import seams
from modelzone.local.emulator.children import ChildProcesses
from modelzone.local.emulator.functions import (
    FunctionLogs,
    code_folder,
    function_environment,
    is_web_function,
    variables_of,
)
from modelzone.local.emulator.http_client import ChildResponse, ResponseBroken, request
from modelzone.local.emulator.sagemaker_hosting import free_port
from modelzone.local.emulator.settings import EmulatorSettings

__all__ = ["FunctionFailed", "WebAdapter", "buffered_response", "install", "streams"]

_INIT_SECONDS = 10.0
_END_SECONDS = 0.5
_READINESS_INTERVAL_S = 0.02
_READINESS_TIMEOUT_S = 2.0
_RETIRE_GRACE_S = 300.0
_METADATA_DELIMITER = b"\0" * 8
_TEXT_TYPES = ("text/", "application/json", "application/javascript", "application/xml", "image/svg+xml")

Config = Mapping[str, Any]

logger = logging.getLogger("modelzone.emulator.web_adapter")


class FunctionFailed(Exception):  # noqa: N818 - named after what the Lambda service reports
    """The function's application did not start, or broke off. The text is for the log, not for the caller."""


def streams(config: Config) -> bool:
    """Whether the adapter is set to stream its responses."""
    return variables_of(config).get("AWS_LWA_INVOKE_MODE", "buffered").lower() == "response_stream"


@dataclass(kw_only=True, eq=False)
class _Application:
    """A function's running web application."""

    fingerprint: str
    name: str
    process: subprocess.Popen[Any]
    port: int
    log: Path
    log_offset: int
    in_flight: int = 0
    retired: bool = False

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


@dataclass(kw_only=True)
class _Slot:
    """The place of one function version; its lock lets a single request start the application."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    application: _Application | None = None


class WebAdapter:
    """Starts the applications lazily, reuses them, and replaces them when code or configuration changes."""

    def __init__(self, *, settings: EmulatorSettings, children: ChildProcesses, logs: FunctionLogs) -> None:
        self._settings, self._children, self._logs = settings, children, logs
        self._lock = threading.Lock()
        self._slots: dict[tuple[str, str], _Slot] = {}

    @contextlib.asynccontextmanager
    async def forward(
        self, function: Mapping[str, Any], config: Config, event: Any, *, request_id: str, report: bool = True
    ) -> AsyncIterator[ChildResponse]:
        """Send an event to the function's application and give its answer, body still to be read.

        With ``report`` the invocation is written to the function's log group when it is over.

        Raises
        ------
        FunctionFailed
            The application does not start or does not answer.
        """
        application, answer = await self._answer(function, config, _http_request(config, event, request_id))
        started, failed = time.monotonic(), True
        try:
            yield answer
            failed = False
        except ResponseBroken:
            # When it ended, the next request must not find it.
            await asyncio.to_thread(_ended, application.process)
            raise
        finally:
            answer.close()
            elapsed_ms = int((time.monotonic() - started) * 1000)
            self._release(application)
            if report:
                self._report(function, config, application, request_id, failed=failed, elapsed_ms=elapsed_ms)

    async def _answer(
        self, function: Mapping[str, Any], config: Config, wanted: _HttpRequest
    ) -> tuple[_Application, ChildResponse]:
        """Send a request, to a fresh application when the one at hand turns out to have ended."""
        while True:
            application = await asyncio.to_thread(self._acquire, function, config)
            try:
                answer = await request(
                    port=application.port,
                    method=wanted.method,
                    target=wanted.target,
                    headers=wanted.headers,
                    body=wanted.body,
                )
            except ConnectionRefusedError as error:
                self._release(application)
                # Refused before the request was sent, so it may be sent again once the process is seen to be gone.
                if not await asyncio.to_thread(_ended, application.process):
                    raise FunctionFailed(f"function {application.name} listens no longer") from error
            except (OSError, ResponseBroken) as error:
                self._release(application)
                await asyncio.to_thread(_ended, application.process)
                raise FunctionFailed(f"function {application.name} did not answer: {error}") from error
            except BaseException:
                self._release(application)
                raise
            else:
                return application, answer

    def invoke(self, function: Mapping[str, Any], event: Any, request_id: str) -> dict[str, Any]:
        """Answer an Invoke call: MiniStack's result record, to be called from a thread without a loop."""
        config = function.get("config") or function
        try:
            return asyncio.run(self._invoke(function, config, event, request_id))
        except (FunctionFailed, ResponseBroken) as error:
            logger.warning("%s", error)
            body = {"errorMessage": str(error), "errorType": "Extension.Crash"}
            return {"body": body, "error": True, "log": ""}

    async def _invoke(self, function: Mapping[str, Any], config: Config, event: Any, request_id: str) -> dict[str, Any]:
        # MiniStack itself reports an Invoke call.
        async with self.forward(function, config, event, request_id=request_id, report=False) as answer:
            body = await answer.read()
            if streams(config):
                metadata = {"statusCode": answer.status, "headers": dict(answer.headers), "cookies": []}
                payload = json.dumps(metadata).encode() + _METADATA_DELIMITER + body
                return {"body": payload.decode(errors="replace"), "raw_payload": True, "log": ""}
            return {"body": buffered_response(answer.status, answer.headers, body), "log": ""}

    def forget(self, name: str) -> None:
        """Stop the applications of a deleted function."""
        with self._lock:
            slots = [self._slots.pop(key) for key in list(self._slots) if key[0] == name]
        for slot in slots:
            with slot.lock:
                if slot.application is not None:
                    self._retire(slot.application)

    def _acquire(self, function: Mapping[str, Any], config: Config) -> _Application:
        """The function's running application, started or replaced when need be, with one request more in flight."""
        key = (str(config["FunctionName"]), str(config.get("FunctionArn", "")) + str(config.get("Version", "$LATEST")))
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
        with slot.lock:
            application = slot.application
            if application is None or not application.alive or application.fingerprint != _fingerprint(config):
                slot.application = self._start(function, config)
                if application is not None:
                    self._retire(application)
                application = slot.application
            with self._lock:
                application.in_flight += 1
            return application

    def _release(self, application: _Application) -> None:
        with self._lock:
            application.in_flight -= 1
            over = application.retired and not application.in_flight
        if over:
            self._stop_soon(application)

    def _retire(self, application: _Application) -> None:
        """Stop a replaced application when its last request is answered, or after a while in any case."""
        with self._lock:
            application.retired = True
            busy = application.in_flight > 0
        if not busy:
            self._stop_soon(application)
            return
        timer = threading.Timer(_RETIRE_GRACE_S, self._children.stop, args=(application.process,))
        timer.daemon = True
        timer.start()

    def _stop_soon(self, application: _Application) -> None:
        threading.Thread(target=self._children.stop, args=(application.process,), daemon=True).start()

    def _start(self, function: Mapping[str, Any], config: Config) -> _Application:
        name, port = str(config["FunctionName"]), free_port()
        code = function.get("code_zip")
        if not code:
            raise FunctionFailed(f"function {name} has no code")
        folder = code_folder(code)
        environment = function_environment(self._settings, config, folder)
        environment["AWS_LWA_PORT"] = str(port)
        log = self._logs.path(name)
        with log.open("ab") as output:
            offset = output.tell()
            process = self._children.spawn(
                [str(folder / str(config.get("Handler", "")))],
                name=name,
                kind="web-adapter",
                environment=environment,
                cwd=folder,
                port=port,
                stdout=output,
            )
        application = _Application(
            fingerprint=_fingerprint(config), name=name, process=process, port=port, log=log, log_offset=offset
        )
        self._await_ready(application, config)
        return application

    def _await_ready(self, application: _Application, config: Config) -> None:
        path = variables_of(config).get("AWS_LWA_READINESS_CHECK_PATH", "/")
        # Lambda gives the first start 10 s and then starts anew within the function's own timeout.
        deadline = time.monotonic() + max(_INIT_SECONDS, float(config.get("Timeout", 3)))
        while time.monotonic() < deadline:
            if not application.alive:
                raise FunctionFailed(
                    f"the application of function {application.name} ended with code {application.process.returncode} "
                    f"while it started; {application.log.name} has its output"
                )
            if _ready(application.port, path):
                return
            time.sleep(_READINESS_INTERVAL_S)
        self._children.stop(application.process)
        raise FunctionFailed(f"the application of function {application.name} did not become ready at {path}")

    def _report(
        self,
        function: Mapping[str, Any],
        config: Config,
        application: _Application,
        request_id: str,
        *,
        failed: bool,
        elapsed_ms: int,
    ) -> None:
        """Hand what the application printed since the last request to the function's log group."""
        with self._lock, application.log.open("rb") as log:
            log.seek(application.log_offset)
            text = log.read()
            application.log_offset += len(text)
        # A stream ends outside the request's scope, so the account and region are those of the function.
        in_scope = seams.attribute(lambda_svc, "_run_with_function_config_scope")
        emit = seams.attribute(lambda_svc, "_emit_lambda_logs")
        record = {**function, "config": config}
        in_scope(record, emit, record, request_id, text.decode(errors="replace"), failed, elapsed_ms)


def _fingerprint(config: Config) -> str:
    """Changes with the function's code and with the configuration its process was started under."""
    parts = [config.get(key) for key in ("CodeSha256", "Environment", "Handler", "Runtime", "MemorySize", "Timeout")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _ended(process: subprocess.Popen[Any]) -> bool:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _ready(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=_READINESS_TIMEOUT_S):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500  # noqa: PLR2004 - the adapter's default: 100 to 499 is healthy
    except (urllib.error.URLError, OSError):
        return False


@dataclass(frozen=True, kw_only=True)
class _HttpRequest:
    """A request to an application."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes


def _http_request(config: Config, event: Any, request_id: str) -> _HttpRequest:
    """The request the adapter makes of an event: API Gateway's path without the stage, and two context headers."""
    lambda_context = {
        "request_id": request_id,
        "deadline": int((time.time() + float(config.get("Timeout", 3))) * 1000),
        "invoked_function_arn": config.get("FunctionArn", ""),
        "xray_trace_id": None,
        "client_context": None,
        "identity": None,
        "env_config": {
            "function_name": config.get("FunctionName", ""),
            "memory": int(config.get("MemorySize", 128)),
            "version": config.get("Version", "$LATEST"),
            "log_stream": "",
            "log_group": (config.get("LoggingConfig") or {}).get("LogGroup", ""),
        },
    }
    context_headers = [("x-amzn-lambda-context", json.dumps(lambda_context))]
    if not (isinstance(event, dict) and "httpMethod" in event):
        # Not an HTTP event: the adapter posts it to the path for such events.
        path = variables_of(config).get("AWS_LWA_PASS_THROUGH_PATH", "/events")
        headers = [("content-type", "application/json"), *context_headers]
        return _HttpRequest(method="POST", target=path, headers=headers, body=json.dumps(event).encode())
    context_headers.append(("x-amzn-request-context", json.dumps(event.get("requestContext") or {})))
    path = event["path"].removeprefix(variables_of(config).get("AWS_LWA_REMOVE_BASE_PATH", ""))
    query = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters") or {}
    target = quote(path, safe="/:@!$&'()*+,;=~-._") + (f"?{urlencode(query, doseq=True)}" if query else "")
    given = event.get("multiValueHeaders") or {name: [value] for name, value in (event.get("headers") or {}).items()}
    replaced = {name for name, _ in context_headers}
    headers = [(name, value) for name, values in given.items() for value in values if name.lower() not in replaced]
    body = event.get("body") or ""
    content = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    return _HttpRequest(method=event["httpMethod"], target=target, headers=[*headers, *context_headers], body=content)


def buffered_response(status: int, headers: list[tuple[str, str]], body: bytes) -> dict[str, Any]:
    """The proxy integration's response document for a complete answer."""
    grouped: dict[str, list[str]] = {}
    for name, value in headers:
        grouped.setdefault(name, []).append(value)
    content_type = next((value for name, value in headers if name.lower() == "content-type"), "")
    textual = content_type.startswith(_TEXT_TYPES) or not body
    return {
        "statusCode": status,
        "headers": {},
        "multiValueHeaders": grouped,
        "body": body.decode() if textual else base64.b64encode(body).decode(),
        "isBase64Encoded": not textual,
    }


def install(*, adapter: WebAdapter) -> None:
    """Route Invoke calls of web functions to the stand-in, and stop their processes with them."""

    def execute_warm(function: dict[str, Any], event: Any, request_id: str) -> Any:
        config = function.get("config") or function
        if is_web_function(config):
            return adapter.invoke(function, event, request_id)
        return original_warm(function, event, request_id)

    original_warm = seams.replace(lambda_svc, "_execute_function_warm", execute_warm)
