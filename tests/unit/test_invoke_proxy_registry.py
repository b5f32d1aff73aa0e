from __future__ import annotations

import asyncio
import json
from typing import Any

import boto3
import pytest
from moto import mock_aws

from invoke_proxy.errors import ApiError
from invoke_proxy.registry import Deployment, Entry, Registry, read_entries

VALUE: dict[str, Any] = {
    "deployment": "mixtral",
    "model_id": "acme/mixtral",
    "endpoint_name": "endpoint",
    "engine": "tgi-neuronx",
    "engine_version": "0.0.25",
    "dialect": "tgi-generate",
    "chat_template": "mistral-instruct",
    "max_input_tokens": "1023",
    "max_total_tokens": 1024,
}


def entry(name: str = "mixtral", **overrides: Any) -> Entry:
    return Entry(name=f"/x/{name}", value=json.dumps({**VALUE, "deployment": name, **overrides}), written=5)


class Source:
    """What SSM would answer, and how often it was asked."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = list(entries)
        self.reads = 0
        self.failing = False
        self.now = 0.0

    async def load(self) -> list[Entry]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.failing:
            message = "throttled"
            raise RuntimeError(message)
        return list(self.entries)

    def registry(self) -> Registry:
        return Registry(load=self.load, ttl=30, retry=5, clock=lambda: self.now)


async def names(registry: Registry) -> list[str]:
    return [item.deployment for item in await registry.deployments()]


def test_entry_with_numbers_as_text() -> None:
    found = Deployment.from_entry(entry())

    assert (found.max_input_tokens, found.max_total_tokens, found.registered) == (1023, 1024, 5)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"endpoint_name": ""}, "endpoint_name"),
        ({"endpoint_name": 5}, "endpoint_name"),
        ({"dialect": None}, "dialect"),
        ({"max_total_tokens": "0"}, "max_total_tokens"),
        ({"max_total_tokens": True}, "max_total_tokens"),
        ({"max_total_tokens": None}, "max_total_tokens"),
    ],
)
def test_broken_entry_names_the_key(overrides: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        Deployment.from_entry(entry(**overrides))


async def test_broken_entries_do_not_hide_the_others(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(
        Entry(name="/x/a", value="{", written=0),
        Entry(name="/x/b", value="[]", written=0),
        entry("c", max_total_tokens="many"),
        entry("d"),
    )

    assert await names(source.registry()) == ["d"]
    assert [record.message for record in caplog.records] == ["registry entry skipped"] * 3


async def test_it_is_read_again_after_its_time() -> None:
    source = Source(entry("a"))
    registry = source.registry()
    assert await names(registry) == ["a"]
    source.entries.append(entry("b"))

    source.now = 29
    assert await names(registry) == ["a"]
    source.now = 30
    assert await names(registry) == ["a", "b"]
    assert source.reads == 2


async def test_many_requests_read_once() -> None:
    source = Source(entry("a"))
    registry = source.registry()

    await asyncio.gather(*(registry.deployments() for _ in range(20)))

    assert source.reads == 1


async def test_failure_keeps_what_is_known_and_tries_again_soon() -> None:
    source = Source(entry("a"))
    registry = source.registry()
    await registry.deployments()
    source.failing = True

    source.now = 31
    assert await names(registry) == ["a"]
    source.now = 35
    assert await names(registry) == ["a"]
    assert source.reads == 2, "tried again too soon"
    source.failing = False
    source.entries = [entry("b")]
    source.now = 37
    assert await names(registry) == ["b"]


async def test_failure_from_the_start_is_unavailable() -> None:
    source = Source()
    source.failing = True

    with pytest.raises(ApiError) as caught:
        await source.registry().deployments()

    assert (caught.value.status, caught.value.retry_after) == (503, 5)


async def test_found_by_name_and_by_model() -> None:
    registry = Source(entry("a", model_id="acme/one"), entry("b", model_id="acme/two")).registry()

    assert (await registry.find("b")).deployment == "b"
    assert (await registry.find("acme/one")).deployment == "a"


async def test_name_wins_over_model_id() -> None:
    registry = Source(entry("a", model_id="b"), entry("b", model_id="c")).registry()

    assert (await registry.find("b")).deployment == "b"


async def test_model_of_two_deployments_has_to_be_named() -> None:
    with pytest.raises(ApiError) as caught:
        await Source(entry("a"), entry("b")).registry().find("acme/mixtral")

    assert caught.value.status == 400
    assert "a, b" in caught.value.message


async def test_unknown_name_looks_again_but_not_each_time() -> None:
    source = Source(entry("a"))
    registry = source.registry()
    await registry.deployments()
    source.entries.append(entry("b"))

    source.now = 4
    with pytest.raises(ApiError) as caught:
        await registry.find("b")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert source.reads == 1
    source.now = 5
    assert (await registry.find("b")).deployment == "b"


async def test_only_one_needs_no_name() -> None:
    assert (await Source(entry("a")).registry().only()).deployment == "a"
    with pytest.raises(ApiError) as several:
        await Source(entry("a"), entry("b")).registry().only()
    assert "a, b" in several.value.message
    with pytest.raises(ApiError) as none:
        await Source().registry().only()
    assert none.value.status == 404


def test_all_pages_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        ssm = boto3.client("ssm", region_name="us-east-1")
        for number in range(13):
            ssm.put_parameter(Name=f"/modelzone/dev/deployments/d{number:02}", Value="{}", Type="String")
        ssm.put_parameter(Name="/modelzone/dev/deployments/d00/other", Value="{}", Type="String")
        ssm.put_parameter(Name="/modelzone/production/deployments/x", Value="{}", Type="String")

        found = read_entries(ssm, "/modelzone/dev/deployments")

    assert sorted(item.name for item in found) == [f"/modelzone/dev/deployments/d{n:02}" for n in range(13)]
    assert all(item.written > 1_600_000_000 for item in found)
