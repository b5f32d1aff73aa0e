"""Which AWS services are reached through interface endpoints in the environment's VPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelzone.settings import Environment

__all__ = ["API_ENDPOINT", "INTERFACE_ENDPOINTS", "interface_endpoints"]

# What a private API is called through.
API_ENDPOINT = "execute-api"

# Service -> who needs it: names as in `com.amazonaws.<region>.<service>`.
INTERFACE_ENDPOINTS = {
    "sagemaker.runtime": "the invoke proxy calls endpoints",
    "sagemaker.api": "operators and the compile host describe endpoints",
    "ssm": "the proxy reads the registry; the compile host's agent",
    "ssmmessages": "Session Manager and Run Command",
    "ec2messages": "Run Command of older agents",
    "secretsmanager": "the compile host reads the hub token",
    "ecr.api": "the compile host logs in to the registry",
    "ecr.dkr": "image manifests; layers come from S3",
    "logs": "function and compile logs",
    "kms": "decrypting artifacts and logs",
    "sts": "role credentials",
}


def interface_endpoints(environment: Environment) -> Mapping[str, str]:
    """The endpoints of this environment: `INTERFACE_ENDPOINTS`, and that of the API where it is private."""
    if not environment.gateway.private:
        return INTERFACE_ENDPOINTS
    return {**INTERFACE_ENDPOINTS, API_ENDPOINT: "clients call the private API"}
