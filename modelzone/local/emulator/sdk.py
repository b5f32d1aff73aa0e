"""boto3 clients for the emulator's own use."""

from __future__ import annotations

import threading
from typing import Any

import boto3
from botocore.config import Config

__all__ = ["make_client"]

_LOCK = threading.Lock()
_MAKE: Any = boto3.client


def make_client(service: str, *, endpoint_url: str, account: str, region: str, attempts: int = 1) -> Any:
    """A client for one account and region; its credentials are the account's id, as MiniStack reads them."""
    with _LOCK:  # boto3's default session is not made for threads
        return _MAKE(
            service,
            endpoint_url=endpoint_url,
            region_name=region,
            aws_access_key_id=account,
            aws_secret_access_key="embedded",  # noqa: S106 - nothing checks it
            config=Config(retries={"total_max_attempts": attempts}, s3={"addressing_style": "path"}),
        )
