"""Watches for the notice that EC2 gives two minutes before it takes a Spot instance away."""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .events import emit

__all__ = ["watch_for_notice"]

_ENDPOINT = "http://169.254.169.254"
_EVERY_SECONDS = 5.0
_TIMEOUT_SECONDS = 2.0
_TOKEN_SECONDS = 21600
_UNAUTHORIZED = 401


@contextmanager
def watch_for_notice(on_notice: Callable[[], None], *, every: float = _EVERY_SECONDS) -> Iterator[None]:
    """Ask the instance metadata service in a thread until the block ends.

    Where nothing answers (a host of another kind), nothing happens.
    """
    ended = threading.Event()
    service = _Metadata(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "") or _ENDPOINT)

    def watch() -> None:
        while True:
            found = service.instance_action()
            if found is not None:
                emit("spot-notice", action=found)
                on_notice()
                return
            if ended.wait(every):
                return

    thread = threading.Thread(target=watch, name="spot", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1)


class _Metadata:
    """IMDSv2: every question needs a session's token."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._token = ""
        # A proxy must not be asked for a link-local address.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def instance_action(self) -> str | None:
        """Return what will happen to the instance, as in "terminate"; None when nothing will, or nobody answers."""
        try:
            if not self._token:
                self._token = self._ask(
                    "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
                )
            answer = self._ask(
                "GET", "/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token}
            )
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == _UNAUTHORIZED:
                self._token = ""
            return None
        except (OSError, ValueError):
            return None
        try:
            return str(json.loads(answer).get("action", "terminate"))
        except (ValueError, AttributeError):
            # Whatever the notice says, there is one.
            return "terminate"

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self._endpoint + path, method=method, headers=headers)  # noqa: S310 - http
        with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            return str(answer.read(4096).decode("utf-8", "replace"))
