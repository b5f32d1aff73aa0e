"""What the documents say about the gateway in numbers and names is what its parts have."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from authorizer.records import STALE_SECONDS
from invoke_proxy import telemetry
from invoke_proxy.logs import RequestLog

DOCS = Path(__file__).resolve().parents[2] / "docs"
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}


def document(name: str) -> str:
    return " ".join((DOCS / name).read_text(encoding="utf-8").split())


def test_metrics_are_as_many_as_the_bill_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudWatch bills each name with each set of dimensions."""
    log = RequestLog(request_id="r", route="/x", tenant="t", deployment="d", cache="miss", prompt_tokens=1)
    log.token(5)
    monkeypatch.setattr(log, "_started", time.perf_counter() - 1)
    (metrics,) = telemetry.document(log, status=200, environment="dev")["_aws"]["CloudWatchMetrics"]
    names, sets = len(metrics["Metrics"]), metrics["Dimensions"]
    assert sorted(map(len, sets)) == [1, 2, 3]
    says = document("costs.md")
    assert f"There are {names} names and three sets of dimensions" in says
    assert f"at most {names} × (T × D + D + 1) metrics" in says  # noqa: RUF001 - as the document writes it
    assert f"; {names * 3} with one of each, {names * (100 + 10 + 1):,} with 10 of each" in says


@pytest.mark.parametrize("name", ["deploying.md", "gateway.md", "cli.md"])
def test_how_long_a_revoked_key_may_work_without_dynamodb(name: str) -> None:
    said = re.findall(r"(\w+) minutes while (?:DynamoDB|the gateway) can", document(name))
    if name == "gateway.md":
        said = re.findall(r"While DynamoDB cannot be read it trusts that for (\w+) minutes", document(name))
    assert said
    assert {NUMBERS.get(word) or int(word) for word in said} == {STALE_SECONDS // 60}


@pytest.mark.parametrize("name", ["deploying.md", "gateway.md", "client.md"])
def test_of_a_user_pool_only_id_tokens_are_offered(name: str) -> None:
    """The API's methods ask for no scopes, and API Gateway then takes no access tokens."""
    says = document(name)
    assert "ID token" in says
    assert not re.search(r"(?<!ID )tokens? of (the|a) user pool|user pool's tokens?", says.replace("**", ""))


@pytest.mark.parametrize(
    "said",
    [
        # Whoever writes the claim chooses the tenant.
        "Whoever can write the claim can be any tenant.",
        "pre token generation trigger",
        # The update from the gateway before.
        "The old key ends with the update",
        # What leaving a setting does to data.
        "Leaving the method `keys` deletes the table of keys",
        "the tables of keys and of kept answers (`modelzone-<environment>-gateway-…`) stay",
        # What bounds the way out of an existing VPC.
        "where these have a NAT gateway, model hosts and the proxy can reach the internet",
    ],
)
def test_operators_are_warned(said: str) -> None:
    assert said in document("deploying.md")


def test_what_logs_no_content_is_said() -> None:
    assert "Of `/invocations` and `/v1/embeddings` no content is logged even then." in document("gateway.md")
