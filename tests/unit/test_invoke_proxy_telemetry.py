"""The metrics of a request, in CloudWatch's embedded metric format."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from invoke_proxy import telemetry
from invoke_proxy.logs import RequestLog


def log(**known: Any) -> RequestLog:
    return RequestLog(request_id="r1", route="/x", **{"tenant": "blue", "deployment": "mixtral", **known})


def metrics(status: int = 200, **known: Any) -> dict[str, Any]:
    return telemetry.document(log(**known), status=status, environment="dev")


def definition(document: dict[str, Any]) -> dict[str, Any]:
    (made,) = document["_aws"]["CloudWatchMetrics"]
    return dict(made)


def test_a_document_is_what_cloudwatch_reads() -> None:
    """The rules of the format's specification: members exist, at most 100 metrics, at most 30 dimensions, units."""
    document = metrics(prompt_tokens=3, completion_tokens=4, cache="miss")
    made = definition(document)
    names = [metric["Name"] for metric in made["Metrics"]]

    assert made["Namespace"] == "Modelzone/Gateway"
    assert abs(document["_aws"]["Timestamp"] - time.time() * 1000) < 60_000
    assert set(document) == {"_aws", "request_id", "Environment", "Tenant", "Deployment", *names}
    assert all(isinstance(document[name], int | float) for name in names)
    assert all(isinstance(document[name], str) for names in made["Dimensions"] for name in names)
    assert {metric["Unit"] for metric in made["Metrics"]} <= {"Count", "Milliseconds", "Count/Second"}
    assert "\n" not in json.dumps(document)


def test_dimensions_are_those_that_are_known() -> None:
    everything = [["Environment", "Tenant", "Deployment"], ["Environment", "Deployment"], ["Environment"]]
    assert definition(metrics())["Dimensions"] == everything
    assert definition(metrics(tenant=None))["Dimensions"] == everything[1:]
    unknown = metrics(deployment=None)
    assert definition(unknown)["Dimensions"] == everything[2:]
    assert "Deployment" not in unknown


KINDS = ("ClientErrors", "ThrottledRequests", "UpstreamErrors", "GatewayErrors", "ClientDisconnects")


@pytest.mark.parametrize(
    ("status", "error", "kind", "counts"),
    [
        (200, None, None, 0),
        (400, "invalid_value", "ClientErrors", 1),
        (404, "model_not_found", "ClientErrors", 1),
        (429, "throttled", "ThrottledRequests", 1),
        (499, "client_disconnected", "ClientDisconnects", 0),
        (200, "client_disconnected", "ClientDisconnects", 0),
        (500, "internal_error", "GatewayErrors", 1),
        (500, None, "GatewayErrors", 1),
        (502, "model_error", "UpstreamErrors", 1),
        (503, "no_capacity", "UpstreamErrors", 1),
        (503, "registry_unavailable", "GatewayErrors", 1),
        (502, "endpoint_access_denied", "GatewayErrors", 1),
        (200, "incomplete_answer", "UpstreamErrors", 1),
        (200, "internal_error", "GatewayErrors", 1),
    ],
)
def test_every_outcome_has_its_kind(status: int, error: str | None, kind: str | None, counts: int) -> None:
    document = metrics(status, error=error)

    assert document["Requests"] == 1
    assert document["Errors"] == counts
    assert {name: document[name] for name in KINDS} == {name: int(name == kind) for name in KINDS}


def test_unknown_numbers_are_left_out() -> None:
    assert {"TimeToFirstToken", "InputTokens", "OutputTokens", "OutputTokensPerSecond", "CacheHits"}.isdisjoint(
        metrics()
    )


def test_tokens_and_their_rate() -> None:
    seen = log(prompt_tokens=10)
    seen.token(20)
    time.sleep(0.02)
    document = telemetry.document(seen, status=200, environment="dev")

    assert (document["InputTokens"], document["OutputTokens"]) == (10, 20)
    assert 0 <= document["TimeToFirstToken"] <= document["Duration"]
    assert document["OutputTokensPerSecond"] == pytest.approx(20_000 / document["Duration"], rel=0.1)


def test_an_answer_of_the_cache_has_no_rate() -> None:
    hit, miss = metrics(cache="hit", completion_tokens=5), metrics(cache="miss", completion_tokens=5)

    assert (hit["CacheHits"], "OutputTokensPerSecond" in hit) == (1, False)
    assert (miss["CacheHits"], "OutputTokensPerSecond" in miss) == (0, True)


def test_a_request_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.emit(telemetry.line(log(), status=200, environment="dev"))
    telemetry.emit(telemetry.line(log(), status=200, environment=""))

    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["Environment"] == "dev"
