"""The answer to CloudFormation: one PUT to the address that came with the event."""

from __future__ import annotations

import bisect
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["MAX_REASON_BYTES", "put_response", "shorten"]

# CloudFormation takes 4096 bytes for the whole answer; ids and attributes need their share.
MAX_REASON_BYTES = 2048

_ATTEMPTS = 4
_TIMEOUT_SECONDS = 10.0


class _Sleep(Protocol):
    def __call__(self, seconds: float, /) -> None: ...


def put_response(
    event: Mapping[str, Any],
    *,
    succeeded: bool,
    physical_id: str,
    reason: str = "",
    attributes: Mapping[str, str] | None = None,
    sleep: _Sleep = time.sleep,
) -> None:
    """Tell CloudFormation how it went; without this answer it waits until its timeout.

    Raises
    ------
    OSError
        When the address cannot be reached in four attempts.
    ValueError
        When the event's address is not one of HTTP.
    """
    url = str(event["ResponseURL"])
    if not url.startswith(("https://", "http://")):
        message = "ResponseURL is not an address of HTTP"
        raise ValueError(message)
    body = {
        "Status": "SUCCESS" if succeeded else "FAILED",
        "Reason": shorten(reason),
        "PhysicalResourceId": physical_id,
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
        "NoEcho": False,
        "Data": dict(attributes or {}),
    }
    # The address is signed for an empty content type; urllib would otherwise send one of its own.
    request = urllib.request.Request(  # noqa: S310 - checked above
        url, data=json.dumps(body).encode(), method="PUT", headers={"Content-Type": ""}
    )
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310 - checked above
                return
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if attempt == _ATTEMPTS:
                raise
            sleep(2.0**attempt / 2)


def shorten(text: str, limit: int = MAX_REASON_BYTES) -> str:
    """Return the text, cut between characters to what fits into the answer as JSON."""
    if _size(text) <= limit:
        return text
    kept = bisect.bisect_right(range(len(text)), limit, key=lambda length: _size(text[:length] + "…")) - 1
    return text[:kept] + "…"


def _size(text: str) -> int:
    return len(json.dumps(text))
