"""Calls to SageMaker endpoints, and their failures in HTTP's words.

botocore blocks, so every call and every read of a stream runs in a thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from .errors import ApiError

if TYPE_CHECKING:
    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient

__all__ = ["MAX_BODY_BYTES", "EndpointRuntime", "EndpointStream", "engine_failure", "map_client_error"]

logger = logging.getLogger(__name__)

# The older documented payload limit of InvokeEndpoint and botocore's model; newer documents say 25 MB.
MAX_BODY_BYTES = 6 * 1024 * 1024

NOT_READY_RETRY_SECONDS = 10
NO_CAPACITY_RETRY_SECONDS = 30
THROTTLED_RETRY_SECONDS = 1

_LOADING = {
    "status": 503,
    "message": "The model is being loaded. Try again soon.",
    "code": "model_not_ready",
    "retry_after": NOT_READY_RETRY_SECONDS,
}
_THROTTLED = {
    "status": 429,
    "message": "Too many requests for this model. Try again soon.",
    "code": "rate_limit_exceeded",
    "retry_after": THROTTLED_RETRY_SECONDS,
}
_UNAVAILABLE = {
    "status": 503,
    "message": "The model's endpoint is unavailable. Try again soon.",
    "code": "service_unavailable",
}
_BROKEN_OFF = {
    "status": 502,
    "message": "The model broke off in the middle of its answer.",
    "code": "stream_failed",
}
_DENIED = {
    "status": 502,
    "message": "The gateway is not allowed to call the model's endpoint. Its role has to be corrected.",
    "code": "endpoint_access_denied",
}
_UNKNOWN = {"status": 502, "message": "SageMaker failed on this request.", "code": "endpoint_failed"}

# What SageMaker's runtime says, and what the client is told. Texts of AWS may name the account: they stay here.
_REFUSALS: dict[str, dict[str, Any]] = {
    "AccessDeniedException": _DENIED,
    "InternalStreamFailure": _BROKEN_OFF,
    "ModelNotReadyException": _LOADING,
    "ModelStreamError": _BROKEN_OFF,
    "ServiceUnavailable": _UNAVAILABLE,
    "ServiceUnavailableException": _UNAVAILABLE,
    "ThrottlingException": _THROTTLED,
    "TooManyRequestsException": _THROTTLED,
}

_CLIENT_ERROR, _TOO_MANY, _SERVER_ERROR = 400, 429, 500
_QUOTED_CHARACTERS = 500


class _EventStream(Protocol):
    def __iter__(self) -> Iterator[Any]: ...
    def close(self) -> None: ...


class EndpointStream:
    """The bytes of a streamed answer, in the pieces in which they arrive."""

    def __init__(self, *, stream: _EventStream, pool: ThreadPoolExecutor) -> None:
        self._stream = stream
        self._events = iter(stream)
        self._pool = pool
        self._closed = False

    def __aiter__(self) -> EndpointStream:
        return self

    async def __anext__(self) -> bytes:
        part = await asyncio.get_running_loop().run_in_executor(self._pool, self._read)
        if part is None:
            raise StopAsyncIteration
        return part

    def _read(self) -> bytes | None:
        try:
            for event in self._events:
                part = event.get("PayloadPart", {}).get("Bytes", b"")
                if part:
                    return bytes(part)
        except Exception as error:
            raise map_error(error) from error
        return None

    def close(self) -> None:
        """Stop reading and drop the connection. Returns at once; safe to call twice.

        Closing waits, in its thread, for a read that is under way: at most until the next event.
        """
        if not self._closed:
            self._closed = True
            self._pool.submit(self._stream.close)


class EndpointRuntime:
    """SageMaker's runtime API for an event loop.

    Parameters
    ----------
    client
        Returns the boto3 client; called in a thread on first use.
    workers
        Requests that can be under way at once. One Lambda environment serves one; a local server serves many.
    """

    def __init__(self, *, client: Callable[[], SageMakerRuntimeClient], workers: int = 64) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="sagemaker")

    async def invoke(self, endpoint_name: str, body: bytes) -> bytes:
        """Return the whole answer of an endpoint.

        Raises
        ------
        ApiError
            With the status that the client shall see.
        """

        def call() -> bytes:
            try:
                answer = self._client().invoke_endpoint(
                    EndpointName=endpoint_name, ContentType="application/json", Accept="application/json", Body=body
                )
                with answer["Body"] as payload:
                    return payload.read()
            except Exception as error:
                raise map_error(error, endpoint_name=endpoint_name) from error

        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def stream(self, endpoint_name: str, body: bytes) -> EndpointStream:
        """Return the answer of an endpoint as a stream; it returns when the first headers are there.

        Raises
        ------
        ApiError
            With the status that the client shall see.
        """

        def call() -> EndpointStream:
            try:
                answer = self._client().invoke_endpoint_with_response_stream(
                    EndpointName=endpoint_name, ContentType="application/json", Accept="text/event-stream", Body=body
                )
            except Exception as error:
                raise map_error(error, endpoint_name=endpoint_name) from error
            return EndpointStream(stream=answer["Body"], pool=self._pool)

        future = asyncio.get_running_loop().run_in_executor(self._pool, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_close_late)
            raise

    def shutdown(self) -> None:
        """End the threads that are idle; those in a call end with it."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _close_late(future: asyncio.Future[EndpointStream]) -> None:
    """Close a stream whose client was gone before it opened."""
    if not future.cancelled() and future.exception() is None:
        future.result().close()


def map_error(error: Exception, *, endpoint_name: str | None = None) -> ApiError:
    """Return the client's view of whatever a call to SageMaker raised."""
    if isinstance(error, ApiError):
        return error
    from botocore import exceptions  # noqa: PLC0415 - slow to import, and already loaded when this runs

    if isinstance(error, exceptions.ClientError):
        return map_client_error(dict(error.response), endpoint_name=endpoint_name)
    logger.warning("endpoint call failed", extra={"fields": {"error": type(error).__name__}})
    if isinstance(error, exceptions.ReadTimeoutError):
        return ApiError(status=504, message="The model did not answer in time.", code="timeout")
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return ApiError(status=502, message="The connection to the model's endpoint failed.", code="connection_failed")
    return ApiError(
        status=502,
        message="The model's endpoint broke off in the middle of its answer or could not be called.",
        code="endpoint_failed",
    )


def map_client_error(response: dict[str, Any], *, endpoint_name: str | None = None) -> ApiError:
    """Return the client's view of an error that SageMaker's runtime reported."""
    detail = response.get("Error", {})
    code = str(detail.get("Code", ""))
    if code == "ModelError":
        status = response.get("OriginalStatusCode")
        return engine_failure(int(status) if status else 0, str(response.get("OriginalMessage") or ""))
    if code in ("ValidationError", "ValidationException"):
        return _validation_error(str(detail.get("Message", "")), endpoint_name)
    if code not in _REFUSALS:
        # InternalFailure, InternalDependencyException and whatever comes to be.
        logger.warning("endpoint call refused", extra={"fields": {"aws_code": code}})
    return ApiError(**_REFUSALS.get(code, _UNKNOWN))


def _validation_error(message: str, endpoint_name: str | None) -> ApiError:
    lower = message.lower()
    if "has no capacity" in lower or "no capacity" in lower:
        return ApiError(
            status=503,
            message="The model has no running instance; one is being started. Try again soon.",
            code="no_capacity",
            retry_after=NO_CAPACITY_RETRY_SECONDS,
        )
    if "not found" in lower or "could not find" in lower or "does not exist" in lower:
        return ApiError(
            status=404,
            message=f"The deployment's endpoint '{endpoint_name}' does not exist. Deploy it again.",
            code="endpoint_not_found",
            param="model",
        )
    return ApiError(
        status=400,
        message="SageMaker refused the request as invalid for this endpoint.",
        code="endpoint_validation_failed",
    )


def engine_failure(status: int, text: str) -> ApiError:
    """Return the client's view of an error that the engine in the container answered.

    4xx keep their status; everything else is a bad gateway. The engine's own words are kept when they are the
    JSON that engines write (`{"error": ...}`, `{"error": {"message": ...}}`, `{"message": ...}`).
    """
    words, error_type = _engine_words(text)
    if status == _TOO_MANY:
        return ApiError(
            status=status,
            message=words or "The model is overloaded. Try again soon.",
            code="model_overloaded",
            error_type=error_type or "overloaded",
            retry_after=THROTTLED_RETRY_SECONDS,
        )
    if _CLIENT_ERROR <= status < _SERVER_ERROR:
        quoted = words or text[:_QUOTED_CHARACTERS]
        return ApiError(
            status=status,
            message=quoted or f"The model server refused the request with HTTP {status}.",
            code="model_refused",
            error_type=error_type or "model_error",
        )
    return ApiError(
        status=502,
        message=words or "The model server failed on this request.",
        code="model_failed",
        error_type=error_type or "model_error",
    )


def _engine_words(text: str) -> tuple[str | None, str | None]:
    try:
        body = json.loads(text)
    except ValueError:
        return None, None
    if not isinstance(body, dict):
        return None, None
    error = body.get("error", body.get("message"))
    if isinstance(error, dict):
        error = error.get("message")
    kind = body.get("error_type")
    return (error if isinstance(error, str) else None), (kind if isinstance(kind, str) else None)
