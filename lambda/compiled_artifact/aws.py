"""Clients of AWS, and what its errors mean."""

from __future__ import annotations

import os
import re
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .errors import CompileError, TransientError, one_line

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_ssm import SSMClient

__all__ = ["Clients", "code_of", "failure_of", "is_refused", "is_transient", "words_of"]

_CONNECTIONS = 16
_TRANSIENT = {
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServiceError",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServerInternal",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TooManyUpdates",
    "Unavailable",
}
_REFUSED = {
    "403",
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "AuthorizationError",
    "NotAuthorized",
    "UnauthorizedOperation",
}
_SERVER_FAULT = 500
# EC2 adds half a page that only an administrator can decode.
_ENCODED = re.compile(r"\s*Encoded authorization failure message:.*", re.DOTALL)


class Clients:
    """Clients that give up in time for their caller to say so. Each is made when it is first needed."""

    def __init__(self, session: Any = None, *, read_timeout: int = 20, attempts: int = 5) -> None:
        self._session: Any = session or boto3.session.Session(region_name=os.environ.get("AWS_REGION"))
        self._config = Config(
            connect_timeout=5,
            read_timeout=read_timeout,
            max_pool_connections=_CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": attempts},
        )

    @classmethod
    @cache
    def shared(cls) -> Clients:
        """The clients of this function's process, which outlives one invocation."""
        return cls()

    @classmethod
    @cache
    def quick(cls) -> Clients:
        """The same for a step that comes again soon: one service that hangs must not take all of its time."""
        return cls(read_timeout=5, attempts=2)

    @cached_property
    def s3(self) -> S3Client:
        """Models and artifacts."""
        client: S3Client = self._client("s3")
        return client

    @cached_property
    def ec2(self) -> EC2Client:
        """Compile hosts."""
        client: EC2Client = self._client("ec2")
        return client

    @cached_property
    def ec2_once(self) -> EC2Client:
        """For starting hosts: missing capacity is an HTTP 500, which the SDK would ask for again, and again."""
        client: EC2Client = self._client_once("ec2")
        return client

    @cached_property
    def ssm(self) -> SSMClient:
        """Parameters, and commands on hosts."""
        client: SSMClient = self._client("ssm")
        return client

    @cached_property
    def ssm_once(self) -> SSMClient:
        """For sending commands: one that was sent, and whose answer was lost, must not be sent by the SDK again."""
        client: SSMClient = self._client_once("ssm")
        return client

    @cached_property
    def stepfunctions(self) -> Any:
        """Executions of the compile machine."""
        return self._client("stepfunctions")

    @cached_property
    def cloudformation(self) -> Any:
        """Stacks that are rolled back."""
        return self._client("cloudformation")

    @cached_property
    def sagemaker(self) -> Any:
        """Models that load artifacts."""
        return self._client("sagemaker")

    @cached_property
    def sns(self) -> Any:
        """Notices to people."""
        return self._client("sns")

    @cached_property
    def cloudwatch(self) -> Any:
        """Metrics."""
        return self._client("cloudwatch")

    @cached_property
    def events(self) -> Any:
        """Events to programs."""
        return self._client("events")

    def ecr(self, region: str) -> ECRClient:
        """The registry of serving images, which may be in another region."""
        client: ECRClient = self._client("ecr", region)
        return client

    def _client(self, service: str, region: str | None = None) -> Any:
        return self._session.client(service, region_name=region, config=self._config)

    def _client_once(self, service: str) -> Any:
        once = self._config.merge(Config(retries={"mode": "standard", "total_max_attempts": 1}))
        return self._session.client(service, config=once)


def code_of(error: ClientError) -> str:
    """Return AWS's code of the error."""
    return str(error.response.get("Error", {}).get("Code") or "unknown error")


def words_of(error: ClientError) -> str:
    """Return code and message in one line."""
    message = _ENCODED.sub("", str(error.response.get("Error", {}).get("Message") or ""))
    return one_line(f"{code_of(error)}: {message}").rstrip(": ")


def is_refused(error: ClientError) -> bool:
    """Whether a permission is missing."""
    return code_of(error) in _REFUSED


def is_transient(error: ClientError) -> bool:
    """Whether the same call may succeed later."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0
    return code_of(error) in _TRANSIENT or status >= _SERVER_FAULT


def failure_of(step: str, error: ClientError | BotoCoreError) -> CompileError:
    """Return the failure of a step that an error of AWS means, where the step itself knows nothing better."""
    if not isinstance(error, ClientError):
        return TransientError(step, f"AWS could not be reached: {error}", "Start the compilation again")
    operation = error.operation_name
    if is_transient(error):
        why = f"{operation} did not succeed in several tries ({words_of(error)})"
        return TransientError(step, why, "Start the compilation again")
    if is_refused(error):
        remedy = f"Allow the role of the compile steps what {operation} needs, or deploy the compile stack again"
        return CompileError(step, f"AWS refused {operation} ({words_of(error)})", remedy)
    return CompileError(step, f"{operation} failed ({words_of(error)})", "Deploy the compile stack again and retry")
