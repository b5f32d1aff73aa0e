"""What SageMaker and its containers say, and what the client is told."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from invoke_proxy.aws import AwsError, TransportError
from invoke_proxy.aws.errors import (
    AnswerTimeoutError,
    BadAnswerError,
    ConfigurationError,
    ConnectError,
    ConnectionBrokenError,
)
from invoke_proxy.endpoints.failures import engine_failure, map_error, stream_failure
from invoke_proxy.errors import ApiError

SECRET = "a prompt in account 123456789012"


def refused(code: str, message: str = SECRET, status: int = 400, **document: Any) -> AwsError:
    return AwsError(code, message, status, document=document)


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (refused("ModelNotReadyException"), 503, "model_not_ready", True),
        (refused("ThrottlingException"), 429, "rate_limit_exceeded", True),
        (refused("TooManyRequestsException"), 429, "rate_limit_exceeded", True),
        (refused("ServiceUnavailable"), 503, "service_unavailable", False),
        (refused("ServiceUnavailableException"), 503, "service_unavailable", False),
        (refused("InternalFailure"), 502, "endpoint_failed", False),
        (refused("InternalDependencyException", status=530), 502, "endpoint_failed", False),
        (refused("SomethingNew"), 502, "endpoint_failed", False),
        (refused("HTTP500", ""), 502, "endpoint_failed", False),
        (refused("AccessDeniedException"), 502, "endpoint_access_denied", False),
        (refused("ModelStreamError"), 502, "stream_failed", False),
        (refused("InternalStreamFailure"), 502, "stream_failed", False),
        (refused("ValidationError"), 400, "endpoint_validation_failed", False),
        (refused("ValidationException"), 400, "endpoint_validation_failed", False),
        (refused("ValidationError", "Endpoint e of account 1 not found."), 404, "endpoint_not_found", False),
        (refused("ValidationError", "Could not find endpoint e"), 404, "endpoint_not_found", False),
        (refused("ValidationError", "Inference component c has no capacity to process"), 503, "no_capacity", True),
        (refused("ModelError", OriginalStatusCode=422, OriginalMessage="words"), 422, "model_refused", False),
        (refused("ModelError", OriginalStatusCode=429, OriginalMessage=""), 429, "model_overloaded", True),
        (refused("ModelError", OriginalStatusCode=500, OriginalMessage="trace"), 502, "model_failed", False),
        (refused("ModelError", OriginalStatusCode=0, OriginalMessage="timed out"), 502, "model_failed", False),
        (refused("ModelError", OriginalStatusCode=None), 502, "model_failed", False),
        (refused("ModelError", OriginalStatusCode="x"), 502, "model_failed", False),
        (refused("ModelError"), 502, "model_failed", False),
        (AnswerTimeoutError("x"), 504, "timeout", False),
        (ConnectError("x"), 502, "connection_failed", False),
        (ConnectionBrokenError("x"), 502, "connection_failed", False),
        (BadAnswerError("x"), 502, "endpoint_failed", False),
        (ConfigurationError("x"), 502, "endpoint_failed", False),
        (TransportError("x"), 502, "connection_failed", False),
        (RuntimeError(SECRET), 502, "endpoint_failed", False),
    ],
)
def test_the_table(error: Exception, status: int, code: str, *, retry: bool, caplog: pytest.LogCaptureFixture) -> None:
    found = map_error(error, endpoint_name="endpoint-1")

    assert (found.status, found.code) == (status, code)
    assert (found.retry_after is not None) == retry
    assert (found.retry_after or 1) <= 120
    assert SECRET not in found.message
    assert SECRET not in str([vars(record) for record in caplog.records])


def test_an_error_for_the_client_stays_as_it_is() -> None:
    error = ApiError(status=418, message="x", code="x")

    assert map_error(error) is error
    assert stream_failure(error) is error


def test_the_unknown_endpoint_is_named() -> None:
    found = map_error(refused("ValidationError", "not found"), endpoint_name="endpoint-1")

    assert "'endpoint-1'" in found.message
    assert found.param == "model"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ConnectionBrokenError("x"), 502, "stream_failed"),
        (BadAnswerError("x"), 502, "stream_failed"),
        (AnswerTimeoutError("x"), 504, "timeout"),
        (refused("ModelStreamError"), 502, "stream_failed"),
        (refused("ThrottlingException"), 429, "rate_limit_exceeded"),
    ],
)
def test_failures_in_the_middle(error: Exception, status: int, code: str) -> None:
    found = stream_failure(error)

    assert (found.status, found.code) == (status, code)


@pytest.mark.parametrize(
    ("status", "text", "expected", "words"),
    [
        (400, '{"error": {"message": "nested"}}', 400, "nested"),
        (400, '{"message": "flat"}', 400, "flat"),
        (400, "plain text", 400, "plain text"),
        (404, "", 404, "HTTP 404"),
        (500, "a stack trace", 502, "The model server failed"),
        (500, '{"error": "CUDA out of memory"}', 502, "CUDA out of memory"),
        (0, "", 502, "The model server failed"),
        (200, "", 502, "The model server failed"),
        (400, "[1]", 400, "[1]"),
        (400, '{"error": ["a list"]}', 400, "a list"),
        (400, "x" * 1000, 400, "x" * 500),
        (429, "", 429, "overloaded"),
    ],
)
def test_words_of_the_engine(status: int, text: str, expected: int, words: str) -> None:
    found = engine_failure(status, text)

    assert found.status == expected
    assert words in found.message
    assert "stack trace" not in found.message
    assert len(found.message) <= 500


def test_the_engine_s_kind_of_error_is_kept() -> None:
    text = json.dumps({"error": "Input validation error: too long", "error_type": "validation"})

    assert engine_failure(422, text).error_type == "validation"


def test_what_is_logged_names_kind_and_code_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "invoke_proxy")
    map_error(refused("SomethingNew"))
    map_error(RuntimeError(SECRET))
    stream_failure(ConnectionBrokenError(SECRET))

    fields = [vars(record)["fields"] for record in caplog.records]
    assert fields == [{"aws_code": "SomethingNew"}, {"error": "RuntimeError"}, {"error": "ConnectionBrokenError"}]
