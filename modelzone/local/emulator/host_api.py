"""What hosts ask of the emulator that is no AWS, and what tests ask about hosts; all below ``/_modelzone/``."""

from __future__ import annotations

import asyncio
import json
import re

from modelzone.local.emulator.asgi import Receive, Scope, Send, json_reply, read_body
from modelzone.local.emulator.hosts import Hosts
from modelzone.local.emulator.hub import HUB_PATH, Hub
from modelzone.local.emulator.metadata import METADATA_PATH, Metadata
from modelzone.local.emulator.registry import Registry
from modelzone.local.emulator.settings import EmulatorSettings

__all__ = ["HostApi"]

_POWER_OFF = re.compile(r"/_modelzone/hosts/(?P<host>[^/]+)/power-off")


class HostApi:
    """Hosts, their metadata, their registry login and their hub."""

    def __init__(self, *, settings: EmulatorSettings, hosts: Hosts, registry: Registry) -> None:
        self._hosts, self._registry = hosts, registry
        self._metadata = Metadata(hosts=hosts)
        self._hub = Hub(faults=hosts.faults, log=settings.logs_dir / "hub.jsonl")

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a request if it is one of these; tells whether it was."""
        path = scope["path"]
        if path.startswith(f"{HUB_PATH}/"):
            await self._hub(scope, receive, send)
        elif path.startswith(METADATA_PATH):
            await self._metadata(scope, receive, send)
        elif path == "/_modelzone/hosts":
            hosts = await asyncio.to_thread(self._hosts.describe)
            await json_reply(send, 200, {"hosts": hosts})
        elif path == "/_modelzone/registry/login":
            given = json.loads(await read_body(receive))
            accepted = self._registry.accepts(str(given.get("user")), str(given.get("password")))
            await json_reply(send, 200 if accepted else 401, {})
        elif match := _POWER_OFF.fullmatch(path):
            host = self._hosts.get(match["host"])
            seconds = json.loads(await read_body(receive)).get("seconds")
            if host is not None:
                await asyncio.to_thread(self._hosts.power_off, host, None if seconds is None else float(seconds))
            await json_reply(send, 200 if host else 404, {})
        else:
            return False
        return True
