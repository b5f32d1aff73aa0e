"""S3 refuses to write artifacts while a fault says that their key is denied, and is slow when all is to be slow."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from ministack import app
from ministack.core.responses import get_account_id, get_region

from modelzone.local.emulator import seams
from modelzone.local.emulator.bridge import Handler, HandlerResponse
from modelzone.local.host.faults import Faults

__all__ = ["install"]

_ARTIFACT = re.compile(r"/[^/]+/compiled/.+")


def install(*, faults: Callable[[], Faults]) -> None:
    """Put the refusal before MiniStack's S3."""
    handlers: dict[str, Handler] = seams.attribute(app, "SERVICE_HANDLERS")
    original = handlers["s3"]

    async def handle(
        method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> HandlerResponse:
        if method in {"PUT", "POST"} and _ARTIFACT.fullmatch(path):
            now = faults()
            if now.kms == "denied":
                return _denied()
            # As slow as the stand-ins on hosts, so that there is time to kill a job that publishes.
            await asyncio.sleep(now.slow_seconds)
        answered: HandlerResponse = await original(method, path, headers, body, query)
        return answered

    handlers["s3"] = handle


def _denied() -> HandlerResponse:
    account = get_account_id()
    message = (
        f"User: arn:aws:sts::{account}:assumed-role/compile-host/session is not authorized to perform: "
        f"kms:GenerateDataKey on resource: arn:aws:kms:{get_region()}:{account}:key/embedded because no "
        "identity-based policy allows the kms:GenerateDataKey action"
    )
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>'
    )
    return 403, {"Content-Type": "application/xml"}, body.encode()
