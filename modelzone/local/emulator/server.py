"""Puts the emulator together around MiniStack and serves it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack import app as ministack_app
from ministack.core import hypercorn_compat, lambda_runtime

from modelzone.local.emulator import (
    api_gateway,
    cloudformation_types,
    ec2_hosts,
    fixes,
    functions,
    moto_services,
    s3_faults,
    seams,
    step_functions,
    web_adapter,
)
from modelzone.local.emulator.asgi import App, Receive, Scope, Send, json_reply
from modelzone.local.emulator.children import ChildProcesses
from modelzone.local.emulator.host_api import HostApi
from modelzone.local.emulator.hosts import Hosts
from modelzone.local.emulator.registry import Registry
from modelzone.local.emulator.run_command import RunCommand
from modelzone.local.emulator.sagemaker_control import SageMakerControl
from modelzone.local.emulator.sagemaker_hosting import ModelHosting
from modelzone.local.emulator.sagemaker_runtime import SageMakerRuntime
from modelzone.local.emulator.settings import EmulatorSettings

__all__ = ["Emulator"]

_SHUTDOWN_GRACE_S = 1.0
_HARD_LIMIT_S = 4.5
_KEEP_ALIVE_S = 75

logger = logging.getLogger("modelzone.emulator")


def _known_image(uri: str) -> bool:
    from modelzone.local.host.images import find_image  # noqa: PLC0415 - reads its table only when a model is hosted

    return find_image(uri) is not None


class Emulator:
    """MiniStack with everything this project adds, for one process."""

    def __init__(self, *, settings: EmulatorSettings, image_known: Callable[[str], bool] = _known_image) -> None:
        seams.check_version()
        hypercorn_compat.install()
        self._settings = settings
        self._children = ChildProcesses(children_file=settings.children_file)
        logs = functions.FunctionLogs(logs_dir=settings.logs_dir)
        hosting = ModelHosting(settings=settings, children=self._children, image_known=image_known)
        adapter = web_adapter.WebAdapter(settings=settings, children=self._children, logs=logs)
        self._hosts = Hosts(settings=settings, children=self._children)
        registry = Registry()
        moto_services.install(
            sagemaker=SageMakerControl(hosting=hosting), run_command=RunCommand(settings=settings, hosts=self._hosts)
        )
        ec2_hosts.install(hosts=self._hosts)
        registry.install()
        s3_faults.install(faults=self._hosts.faults)
        step_functions.install()
        self._host_api = HostApi(settings=settings, hosts=self._hosts, registry=registry)
        cloudformation_types.install(hosting=hosting)
        functions.install(settings=settings, children=self._children, logs=logs)
        web_adapter.install(adapter=adapter)
        api_gateway.install(adapter=adapter)
        fixes.install(forget_function=adapter.forget)
        self._runtime = SageMakerRuntime(hosting=hosting)
        self._ministack: App = ministack_app.app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: our own routes and the SageMaker runtime first, MiniStack for everything else."""
        if scope["type"] == "http":
            if scope["path"] == "/_modelzone/health":
                await json_reply(send, 200, {"status": "ready", "port": self._settings.port})
                return
            if scope["path"] == "/_modelzone/processes":
                await json_reply(send, 200, {"processes": self._children.describe()})
                return
            if await self._host_api.answer(scope, receive, send):
                return
            if self._runtime.matches(scope):
                await self._runtime(scope, receive, send)
                return
        await self._ministack(scope, receive, send)

    def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop every child; returns within five seconds of the signal."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            logger.info("stopping")
            stopping.set()
            # Whatever hangs then, the process goes: children are tied to it.
            watchdog = threading.Thread(target=_exit_after, args=(_HARD_LIMIT_S,), daemon=True)
            watchdog.start()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        config = Config()
        config.bind = [f"127.0.0.1:{self._settings.port}"]
        config.keep_alive_timeout = _KEEP_ALIVE_S
        config.graceful_timeout = _SHUTDOWN_GRACE_S
        config.shutdown_timeout = _SHUTDOWN_GRACE_S
        config.include_server_header = False
        config.accesslog = None
        config.errorlog = logging.getLogger("hypercorn.error")
        shutdown = asyncio.create_task(self._stop_children_on(stopping))
        try:
            await serve(self, config, shutdown_trigger=stopping.wait)  # type: ignore[arg-type]
        finally:
            stopping.set()
            await shutdown

    async def _stop_children_on(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        await asyncio.to_thread(self._hosts.close)
        await asyncio.to_thread(self._children.stop_all, grace_seconds=_SHUTDOWN_GRACE_S)
        with contextlib.suppress(Exception):
            await asyncio.to_thread(lambda_runtime.reset)


def _exit_after(seconds: float) -> None:
    time.sleep(seconds)
    logger.warning("requests did not end in time")
    logging.shutdown()
    os._exit(0)
