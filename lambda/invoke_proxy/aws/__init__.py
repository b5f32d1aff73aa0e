"""AWS without an SDK: an asyncio HTTP client, Signature Version 4, and the few calls that the gateway makes.

boto3 takes 0.4 s of a cold start, and it blocks, so that each stream would hold a thread.
"""

from __future__ import annotations

from .client import AwsClient
from .errors import AwsError, TransportError

__all__ = ["AwsClient", "AwsError", "TransportError"]
