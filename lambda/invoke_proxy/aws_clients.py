"""The two boto3 clients, made when they are first needed: a health check loads no AWS code at all."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient
    from mypy_boto3_ssm import SSMClient

__all__ = ["AwsClients"]

# SageMaker ends a call after 60 seconds and a stream after 8 minutes; the client waits a little longer.
STREAM_SECONDS = 490
CONNECT_SECONDS = 5
REGISTRY_SECONDS = 5


class AwsClients:
    """Makes each client once; safe to use from several threads.

    Endpoints and credentials come from the standard variables of the AWS SDKs.

    Parameters
    ----------
    max_connections
        Connections that the SageMaker client keeps, one for each request under way.
    """

    def __init__(self, *, max_connections: int = 64) -> None:
        self._lock = threading.Lock()
        self._max_connections = max_connections
        self._clients: dict[str, Any] = {}

    def sagemaker_runtime(self) -> SageMakerRuntimeClient:
        """Return the client for calling endpoints. It never retries: a generation is paid for, and clients retry."""
        return self._get("sagemaker-runtime")

    def ssm(self) -> SSMClient:
        """Return the client for reading the registry."""
        return self._get("ssm")

    @overload
    def _get(self, service: Literal["sagemaker-runtime"]) -> SageMakerRuntimeClient: ...
    @overload
    def _get(self, service: Literal["ssm"]) -> SSMClient: ...
    def _get(self, service: Literal["sagemaker-runtime", "ssm"]) -> Any:
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._make(service)
            return self._clients[service]

    def _make(self, service: Literal["sagemaker-runtime", "ssm"]) -> Any:
        import boto3  # noqa: PLC0415 - 0.3 s that a health check does not need
        from botocore.config import Config  # noqa: PLC0415

        # The SDK for Python reads AWS_DEFAULT_REGION only; Lambda documents AWS_REGION.
        session = boto3.session.Session(region_name=os.environ.get("AWS_REGION"))
        if service == "ssm":
            config = Config(
                connect_timeout=CONNECT_SECONDS, read_timeout=REGISTRY_SECONDS, retries={"mode": "standard"}
            )
            return session.client("ssm", config=config)
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=STREAM_SECONDS,
            max_pool_connections=self._max_connections,
            retries={"mode": "standard", "total_max_attempts": 1},
            tcp_keepalive=True,
        )
        return session.client("sagemaker-runtime", config=config)
