from __future__ import annotations

import asyncio
import inspect
import json
import time
from typing import Any

import pytest

from invoke_proxy.aws.ssm import Parameter
from invoke_proxy.errors import ApiError
from invoke_proxy.registry import Deployment, GatewaySettings, Registry, Tenant

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


def entry(name: str = "mixtral", **overrides: Any) -> Parameter:
    return Parameter(name=f"/x/{name}", value=json.dumps({**VALUE, "deployment": name, **overrides}), written=5)


def settings_entry(**values: Any) -> Parameter:
    return Parameter(name="/g/settings", value=json.dumps(values), written=5)


def tenant_entry(name: str, **values: Any) -> Parameter:
    return Parameter(name=f"/g/tenants/{name}", value=json.dumps({"tenant": name, **values}), written=5)


class Source:
    """What SSM would answer, and how often it was asked."""

    def __init__(self, *entries: Parameter, gateway: tuple[Parameter, ...] = ()) -> None:
        self.entries = list(entries)
        self.gateway = list(gateway)
        self.reads = 0
        self.failing = False
        self.now = 0.0

    async def load(self) -> list[Parameter]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.failing:
            message = "throttled"
            raise RuntimeError(message)
        return list(self.entries)

    async def load_gateway(self) -> list[Parameter]:
        return list(self.gateway)

    def registry(self) -> Registry:
        return Registry(
            load_deployments=self.load, load_gateway=self.load_gateway, ttl=30, retry=5, clock=lambda: self.now
        )


async def names(registry: Registry) -> list[str]:
    return list((await registry.snapshot()).deployments)


def test_entry_of_an_older_stack_has_defaults() -> None:
    found = Deployment.from_entry(entry())

    assert (found.max_input_tokens, found.max_total_tokens, found.registered) == (1023, 1024, 5)
    assert (found.cache_ttl_seconds, found.tokenizer, found.artifact) == (0, "", "")


def test_older_stacks_served_with_one_engine() -> None:
    """What its clients could ask for before entries had features, they can ask for until the stack is updated."""
    assert Deployment.from_entry(entry()).dialect == "tgi-generate"
    assert Deployment.from_entry(entry()).features == {"seed", "stop", "top_k", "repetition_penalty"}
    assert Deployment.from_entry(entry(dialect="vllm-openai")).features == frozenset()


def test_entry_with_all_keys() -> None:
    found = Deployment.from_entry(
        entry(features="json,logprobs", cache_ttl_seconds="60", tokenizer="s3://b/t.json", artifact="s3://b/a/")
    )

    assert found.features == {"json", "logprobs"}
    assert (found.cache_ttl_seconds, found.tokenizer, found.artifact) == (60, "s3://b/t.json", "s3://b/a/")


def test_no_features_at_all() -> None:
    assert Deployment.from_entry(entry(features="")).features == frozenset()


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"endpoint_name": ""}, "endpoint_name"),
        ({"endpoint_name": 5}, "endpoint_name"),
        ({"dialect": None}, "dialect"),
        ({"max_total_tokens": "0"}, "max_total_tokens"),
        ({"max_total_tokens": "many"}, "max_total_tokens"),
        ({"max_total_tokens": True}, "max_total_tokens"),
        ({"max_total_tokens": None}, "max_total_tokens"),
        ({"cache_ttl_seconds": "-1"}, "cache_ttl_seconds"),
    ],
)
def test_broken_entry_names_the_key(overrides: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        Deployment.from_entry(entry(**overrides))


async def test_broken_entries_do_not_hide_the_others(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(
        Parameter(name="/x/a", value="{", written=0),
        Parameter(name="/x/b", value="[]", written=0),
        entry("c", max_total_tokens="many"),
        entry("d"),
    )

    assert await names(source.registry()) == ["d"]
    assert [record.message for record in caplog.records] == ["registry entry skipped"] * 3


def test_settings_with_all_keys() -> None:
    found = GatewaySettings.from_entry(
        settings_entry(
            aliases={"gpt-4o-mini": "mixtral"},
            default_model="mixtral",
            wait_seconds=60,
            hedge_after_seconds=1.5,
            max_messages=7,
            access="iam",
            tenant_claim="org",
        )
    )

    assert found == GatewaySettings(
        aliases={"gpt-4o-mini": "mixtral"},
        default_model="mixtral",
        wait_seconds=60,
        hedge_after_seconds=1.5,
        max_messages=7,
        access="iam",
        tenant_claim="org",
    )


def test_settings_without_keys_have_defaults() -> None:
    assert GatewaySettings.from_entry(settings_entry(default_model=None, hedge_after_seconds=None)) == GatewaySettings()


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"access": "everybody"}, "access"),
        ({"aliases": ["a"]}, "aliases"),
        ({"aliases": {"a": 1}}, "aliases"),
        ({"wait_seconds": -1}, "wait_seconds"),
        ({"hedge_after_seconds": 0}, "hedge_after_seconds"),
        ({"max_messages": 0}, "max_messages"),
    ],
)
def test_broken_settings_name_the_key(values: dict[str, Any], key: str) -> None:
    with pytest.raises((ValueError, TypeError), match=key):
        GatewaySettings.from_entry(settings_entry(**values))


def test_tenant_with_all_keys() -> None:
    found = Tenant.from_entry(
        tenant_entry("search", models=["a", "b"], log_content=True, principals=["arn"], max_output_tokens=9)
    )

    assert found == Tenant(
        name="search",
        models=frozenset({"a", "b"}),
        log_content=True,
        principals=frozenset({"arn"}),
        max_output_tokens=9,
    )


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"models": [""]}, "models"),
        ({"models": {"a": 1}}, "models"),
        ({"models": [1]}, "models"),
        ({"log_content": "yes"}, "log_content"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
async def test_broken_tenant_is_nobody(values: dict[str, Any], key: str, caplog: pytest.LogCaptureFixture) -> None:
    """It must not become a tenant with fewer restrictions."""
    source = Source(gateway=(tenant_entry("broken", **values), tenant_entry("whole")))

    snapshot = await source.registry().snapshot()

    assert set(snapshot.tenants) == {"whole"}
    assert key in str(caplog.records[0].__dict__)


async def test_broken_settings_keep_what_is_known() -> None:
    """Guessed settings could let in whom the environment keeps out."""
    source = Source(entry("a"), gateway=(settings_entry(access="iam"),))
    registry = source.registry()
    assert (await registry.snapshot()).settings.access == "iam"

    source.gateway = [settings_entry(access="nonsense")]
    source.now = 31

    assert (await registry.snapshot()).settings.access == "iam"


async def test_broken_settings_from_the_start_are_unavailable() -> None:
    with pytest.raises(ApiError) as caught:
        await Source(gateway=(settings_entry(access="nonsense"),)).registry().snapshot()

    assert caught.value.status == 503


async def test_tenant_named_settings_is_not_the_settings() -> None:
    source = Source(gateway=(tenant_entry("settings", models=["x"]), settings_entry(wait_seconds=5)))

    snapshot = await source.registry().snapshot()

    assert snapshot.settings.wait_seconds == 5
    assert set(snapshot.tenants) == {"settings"}


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


def test_it_goes_by_the_time_of_day() -> None:
    """A monotonic clock may stand still while Lambda has the function frozen."""
    assert inspect.signature(Registry).parameters["clock"].default is time.time


async def test_a_clock_that_is_set_back_makes_it_old() -> None:
    source = Source(entry("a"))
    registry = source.registry()
    source.now = 5000
    await registry.snapshot()
    source.entries.append(entry("b"))
    source.now = 100
    assert await names(registry) == ["a", "b"]
    source.now = 129
    await names(registry)
    assert source.reads == 2


@pytest.mark.parametrize("failing", [False, True])
async def test_many_requests_read_once(*, failing: bool) -> None:
    """Also those that come while it is being read."""
    source = Source(entry("a"))
    source.failing = failing
    registry = source.registry()

    async def request(number: int) -> object:
        source.now += number
        return await registry.snapshot()

    found = await asyncio.gather(*(request(number) for number in range(20)), return_exceptions=True)

    assert source.reads == 1
    assert {type(item).__name__ for item in found} == {"ApiError" if failing else "Snapshot"}


async def test_failure_keeps_what_is_known_and_tries_again_soon() -> None:
    source = Source(entry("a"))
    registry = source.registry()
    await registry.snapshot()
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
        await source.registry().snapshot()

    assert (caught.value.status, caught.value.retry_after) == (503, 5)


async def test_found_by_name_alias_and_model() -> None:
    registry = Source(
        entry("a", model_id="acme/one"),
        entry("b", model_id="acme/two"),
        gateway=(settings_entry(aliases={"gpt-4o-mini": "b", "lost": "c"}),),
    ).registry()

    assert (await registry.find("b")).deployment == "b"
    assert (await registry.find("acme/one")).deployment == "a"
    assert (await registry.find("gpt-4o-mini")).deployment == "b"
    with pytest.raises(ApiError) as caught:
        await registry.find("lost")
    assert caught.value.status == 404


async def test_name_wins_over_alias_and_model_id() -> None:
    registry = Source(
        entry("a", model_id="b"), entry("b", model_id="c"), gateway=(settings_entry(aliases={"b": "a", "c": "a"}),)
    ).registry()

    assert (await registry.find("b")).deployment == "b"
    assert (await registry.find("c")).deployment == "a"


async def test_model_of_two_deployments_has_to_be_named() -> None:
    with pytest.raises(ApiError) as caught:
        await Source(entry("a"), entry("b")).registry().find("acme/mixtral")

    assert caught.value.status == 400
    assert "a, b" in caught.value.message


async def test_unknown_name_looks_again_but_not_each_time() -> None:
    source = Source(entry("a"))
    registry = source.registry()
    await registry.snapshot()
    source.entries.append(entry("b"))

    source.now = 4
    with pytest.raises(ApiError) as caught:
        await registry.find("b")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert source.reads == 1
    source.now = 5
    assert (await registry.find("b")).deployment == "b"


async def test_model_of_another_tenant_is_as_unknown_as_any() -> None:
    source = Source(entry("a", model_id="m"), entry("b", model_id="m"), gateway=(settings_entry(aliases={"x": "b"}),))
    registry = source.registry()
    tenant = Tenant(name="t", models=frozenset({"a"}))

    seen = []
    for name in ("b", "x", "z"):
        with pytest.raises(ApiError) as caught:
            await registry.find(name, tenant=tenant)
        seen.append((caught.value.status, caught.value.code, caught.value.message.replace(f"'{name}'", "")))
    assert len(set(seen)) == 1
    # The other deployment of the same hub id is not counted, and not named.
    assert (await registry.find("m", tenant=tenant)).deployment == "a"


async def test_tenant_may_be_given_an_alias() -> None:
    registry = Source(entry("a"), entry("b"), gateway=(settings_entry(aliases={"x": "b"}),)).registry()
    tenant = Tenant(name="t", models=frozenset({"x"}))

    assert (await registry.find("x", tenant=tenant)).deployment == "b"
    assert (await registry.default(tenant=tenant)).deployment == "b"


async def test_only_one_needs_no_name() -> None:
    assert (await Source(entry("a")).registry().default()).deployment == "a"
    with pytest.raises(ApiError) as several:
        await Source(entry("a"), entry("b")).registry().default()
    assert "a, b" in several.value.message
    with pytest.raises(ApiError) as none:
        await Source().registry().default()
    assert none.value.status == 404


async def test_default_model_is_for_those_who_may_use_it() -> None:
    registry = Source(
        entry("a"), entry("b"), gateway=(settings_entry(aliases={"x": "b"}, default_model="x"),)
    ).registry()

    assert (await registry.default()).deployment == "b"
    assert (await registry.default(tenant=Tenant(name="t", models=frozenset({"a"})))).deployment == "a"
