"""The instance metadata service of an emulated host, version 2: a token first, then what the host may know.

A host finds it at ``AWS_EC2_METADATA_SERVICE_ENDPOINT``, below a path of its own. A Spot host whose interruption notice
was read is ended after `NOTICE_SECONDS`, which stand for EC2's two minutes.
"""

from __future__ import annotations

import re
import secrets
import time
from datetime import UTC, datetime, timedelta

from ministack.services import ec2

from modelzone.local.emulator import seams
from modelzone.local.emulator.asgi import Receive, Scope, Send, headers_of, read_body, reply
from modelzone.local.emulator.hosts import EmulatedHost, Hosts

__all__ = ["METADATA_PATH", "NOTICE_SECONDS", "Metadata"]

METADATA_PATH = "/_modelzone/metadata/"
NOTICE_SECONDS = 30.0

_REQUEST = re.compile(rf"{METADATA_PATH}(?P<host>[^/]+)(?P<path>/.*)")
_TOKEN_HEADER = "x-aws-ec2-metadata-token"  # noqa: S105 - a header's name
_LIFETIME_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
_NOTICE_OF_EC2 = timedelta(minutes=2)
_REASON = "Server.SpotInstanceTermination: Spot instance termination"


class Metadata:
    """Answers for every host."""

    def __init__(self, *, hosts: Hosts) -> None:
        self._hosts = hosts
        self._tokens: dict[str, tuple[str, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request below `METADATA_PATH`."""
        await read_body(receive)
        match = _REQUEST.fullmatch(scope["path"])
        host = self._hosts.get(match["host"]) if match else None
        if match is None or host is None or not host.running:
            await reply(send, 404, [("content-type", "text/plain")], b"")
            return
        headers, plain = headers_of(scope), [("content-type", "text/plain")]
        if match["path"] == "/latest/api/token":
            lifetime = headers.get(_LIFETIME_HEADER, "")
            if scope["method"] != "PUT" or not lifetime.isdecimal():
                await reply(send, 400 if scope["method"] == "PUT" else 405, plain, b"")
                return
            token = secrets.token_urlsafe(32)
            self._tokens[token] = (host.launch.instance_id, time.time() + int(lifetime))
            await reply(send, 200, [*plain, (_LIFETIME_HEADER, lifetime)], token.encode())
            return
        owner, expires = self._tokens.get(headers.get(_TOKEN_HEADER, ""), ("", 0.0))
        if owner != host.launch.instance_id or expires < time.time():
            await reply(send, 401, plain, b"Unauthorized")
            return
        text = self._value(host, match["path"].removeprefix("/latest/"))
        await reply(send, 404 if text is None else 200, plain, (text or "").encode())

    def _value(self, host: EmulatedHost, path: str) -> str | None:
        launch = host.launch
        if path == "meta-data/spot/instance-action":
            return self._notice(host)
        record = seams.attribute(ec2, "_instances").get_scoped(launch.account, launch.region, launch.instance_id) or {}
        zone = (record.get("Placement") or {}).get("AvailabilityZone", f"{launch.region}a")
        return {
            "meta-data/instance-id": launch.instance_id,
            "meta-data/instance-type": launch.instance_type,
            "meta-data/instance-life-cycle": "spot" if launch.spot else "on-demand",
            "meta-data/ami-id": record.get("ImageId"),
            "meta-data/local-ipv4": record.get("PrivateIpAddress"),
            "meta-data/placement/availability-zone": zone,
            "meta-data/placement/region": launch.region,
        }.get(path)

    def _notice(self, host: EmulatedHost) -> str | None:
        if not host.launch.spot or self._hosts.faults().spot != "notice":
            return None
        if host.noticed is None:
            host.noticed = time.time()
            self._hosts.end_later(host, NOTICE_SECONDS, reason=_REASON, terminate=True)
        when = datetime.fromtimestamp(host.noticed, UTC) + _NOTICE_OF_EC2
        return f'{{"action": "terminate", "time": "{when:%Y-%m-%dT%H:%M:%SZ}"}}'
