"""The API keys of API Gateway that tenants' requests are counted by."""

from __future__ import annotations

import hashlib

__all__ = ["meter_key"]


def meter_key(environment: str, tenant: str) -> str:
    """Value of a tenant's API key in API Gateway: 73 letters and digits, of 128 that it may have.

    No secret: API Gateway takes it from this function's answer only, never from a request. It is one of the whole
    account and region, hence the digest of both names. The stack that makes the keys has the same rule.
    """
    return "modelzone" + hashlib.sha256(f"{environment}\0{tenant}".encode()).hexdigest()
