"""What the gateway is told in an environment's file, and what is refused there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelzone.errors import SettingsError
from modelzone.planning import plan_environment
from modelzone.planning.network import INTERFACE_ENDPOINTS, interface_endpoints
from modelzone.settings import apply_overrides, deployment_overrides, load_environment

ROOT = Path(__file__).resolve().parents[2]
POOL = "arn:aws:cognito-idp:us-east-1:123456789012:userpool/us-east-1_AbCdEfGhI"
ROLE = "arn:aws:iam::123456789012:role/team/search"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("environments", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def edit(project: Path, change: Change) -> Path:
    path = project / "environments" / "dev.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def gateway(**values: object) -> Change:
    return lambda d: d["gateway"].update(values)


def access(**values: object) -> Change:
    return lambda d: d.update(access=values)


def tenant(**values: object) -> Change:
    return lambda d: d.update(access={"tenants": {"search": values}})


def signed(**values: object) -> Change:
    return lambda d: d.update(access={"method": "iam", "tenants": {"search": values}})


def existing_vpc(**values: object) -> dict[str, object]:
    return {
        "existing_vpc": {
            "vpc_id": "vpc-0123456789abcdef0",
            "availability_zones": ["us-east-1a"],
            "private_subnet_ids": ["subnet-0123456789abcdef0"],
            "create_endpoints": False,
            "endpoint_security_group_id": "sg-0123456789abcdef0",
            **values,
        }
    }


def test_an_environment_that_says_nothing_has_one_tenant_with_keys(project: Path) -> None:
    edit(project, lambda d: (d.pop("access", None), d.pop("gateway")))
    environment = load_environment(project, "dev")
    assert environment.access.method == "keys"
    assert list(environment.access.tenants) == ["default"]
    assert environment.access.key_cache_seconds == 30
    assert environment.access.tenant_claim == "custom:tenant"
    settings = environment.gateway
    assert (settings.aliases, settings.default_model, settings.allowed_networks) == ({}, None, ())
    assert (settings.wait_seconds, settings.hedge_after_seconds, settings.max_messages) == (0, None, 1000)
    assert (settings.private, settings.firewall) == (False, None)
    assert environment.deployments["mixtral"].cache.ttl_seconds == 0


def test_all_of_it_is_read(project: Path) -> None:
    edit(
        project,
        gateway(
            default_model="mixtral",
            aliases={"gpt-4o-mini": "mixtral", "mistralai/Mixtral-8x7B": "mixtral"},
            wait_seconds=300,
            hedge_after_seconds=5,
            private=True,
            allowed_networks=["10.0.0.0/8"],
            firewall={"requests_per_five_minutes": 100},
        ),
    )
    edit(project, tenant(models=["gpt-4o-mini"], rate_limit_per_second=5, monthly_quota=10_000_000, log_content=True))
    edit(project, lambda d: d["deployments"]["mixtral"].update(cache={"ttl_seconds": 3600}))
    environment = load_environment(project, "dev")
    assert environment.gateway.firewall is not None
    assert environment.gateway.firewall.managed_rules is True
    assert environment.gateway.hedge_after_seconds == 5.0
    assert environment.access.tenants["search"].models == ("gpt-4o-mini",)
    plan = plan_environment(project, "dev")
    assert plan.caches_answers
    assert [deployment.cache_ttl_seconds for deployment in plan.deployments] == [3600]
    assert plan.gateway_path == "/modelzone/dev/gateway"


def test_answers_are_kept_by_an_override_too() -> None:
    overrides = deployment_overrides({"deployment.mixtral.cache.ttl_seconds": "60"})
    assert apply_overrides(load_environment(ROOT, "dev"), overrides).deployments["mixtral"].cache.ttl_seconds == 60
    (deployment,) = plan_environment(ROOT, "dev", overrides=overrides).deployments
    assert deployment.cache_ttl_seconds == 60
    with pytest.raises(SettingsError, match="at least 0"):
        plan_environment(ROOT, "dev", overrides={"mixtral": {"cache.ttl_seconds": "-1"}})


def test_a_deployment_has_the_features_of_its_engine() -> None:
    from modelzone.engines import ENGINES  # noqa: PLC0415

    (deployment,) = plan_environment(ROOT, "dev").deployments
    version = ENGINES[deployment.facts.engine].versions[deployment.facts.engine_version]
    assert deployment.features == version.features


def test_a_private_api_needs_an_endpoint_more(project: Path) -> None:
    assert interface_endpoints(load_environment(project, "dev")) == INTERFACE_ENDPOINTS
    edit(project, gateway(private=True))
    assert set(interface_endpoints(load_environment(project, "dev"))) - set(INTERFACE_ENDPOINTS) == {"execute-api"}


@pytest.mark.parametrize(
    ("change", "key", "says", "fix"),
    [
        (gateway(default_model="mixtrel"), "gateway.default_model", "no deployment 'mixtrel'", "did you mean mixtral?"),
        (gateway(aliases={"gpt": "llama"}), "gateway.aliases.gpt", "no deployment 'llama'", "known: mixtral"),
        (gateway(aliases={"mixtral": "mixtral"}), "gateway.aliases.mixtral", "a deployment already", "another alias"),
        (gateway(aliases={"a b": "mixtral"}), "gateway.aliases", "the key 'a b' is refused", "must match"),
        (
            gateway(wait_seconds=406),
            "gateway",
            "wait_seconds 406 leaves no time for an answer within request_timeout_seconds 480; use at most 405",
            "",
        ),
        (gateway(wait_seconds=1, request_timeout_seconds=60), "gateway", "use at most 0", ""),
        (gateway(hedge_after_seconds=0), "gateway.hedge_after_seconds", "at least 0.1", "at least 0.1"),
        (gateway(max_messages=0), "gateway.max_messages", "at least 1", ""),
        (gateway(allowed_networks=["10.0.0.1/8"]), "gateway", "10.0.0.1/8", ""),
        (gateway(allowed_networks=["everyone"]), "gateway", "everyone", ""),
        (gateway(allowed_networks=["0.0.0.0/0"]), "gateway", "0.0.0.0/0 is every address", ""),
        *(
            (gateway(allowed_networks=[text]), "gateway", f"{text} has no public addresses", "")
            for text in ("10.1.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "192.0.2.0/24", "224.0.0.0/8")
        ),
        (gateway(monthly_quota=2**31), "gateway.monthly_quota", "at most 2147483647", ""),
        (tenant(monthly_quota=2**31), "access.tenants.search.monthly_quota", "at most 2147483647", ""),
        (
            gateway(hedge_after_seconds=60, request_timeout_seconds=60),
            "gateway",
            "hedge_after_seconds 60 would never come",
            "",
        ),
        (access(method="iam", key_cache_seconds=5, tenants={"a": {"principals": [ROLE]}}), "access", "for nothing", ""),
        (
            access(method="cognito", user_pool_arn=POOL, key_cache_seconds=0),
            "access",
            "key_cache_seconds 0 would hold for nothing: method is cognito",
            "",
        ),
        (access(tenant_claim="custom:team"), "access", "custom:team would not be asked for: method is keys", ""),
        (access(tenants={f"t{n}": {} for n in range(81)}), "access.tenants", "at most 80", ""),
        (
            lambda d: (
                d.update(network=existing_vpc(prefix_list_ids=["pl-63a5400a"])),
                d["deployments"]["mixtral"].update(cache={"ttl_seconds": 60}),
            ),
            "network.existing_vpc.prefix_list_ids",
            "names pl-63a5400a only, and kept answers need DynamoDB",
            "describe-managed-prefix-lists",
        ),
        (gateway(allowed_networks=["8.8.8.0/24", "8.8.8.0/24"]), "gateway", "8.8.8.0/24 twice", ""),
        (gateway(firewall={"requests_per_five_minutes": 5}), "gateway.firewall.requests_per_five_minutes", "10", ""),
        (access(method="password"), "access.method", "'password'", "'keys' or 'iam' or 'cognito'"),
        (access(key_cache_seconds=301), "access.key_cache_seconds", "at most 300", ""),
        (access(tenants={}), "access.tenants", "at least 1", ""),
        (access(tenants={"Search": {}}), "access.tenants", "'Search'", ""),
        (access(method="cognito"), "access", "give user_pool_arn when, and only when, it is cognito", ""),
        (access(user_pool_arn=POOL), "access", "give user_pool_arn when, and only when, it is cognito", ""),
        (
            access(method="cognito", user_pool_arn="us-east-1_AbCdEfGhI"),
            "access.user_pool_arn",
            "'us-east-1_AbCdEfGhI'",
            "must match",
        ),
        (tenant(models=["mistral"]), "access.tenants.search.models", "deployment or alias 'mistral'", "mixtral"),
        (
            tenant(rate_limit_per_second=21),
            "access.tenants.search.rate_limit_per_second",
            "21 is more than gateway.rate_limit_per_second, 20",
            "at most 20",
        ),
        (tenant(burst_limit=41), "access.tenants.search.burst_limit", "41 is more than gateway.burst_limit", ""),
        (tenant(principals=[ROLE]), "access.tenants.search.principals", "access.method is keys", "access.method: iam"),
        (tenant(quota=1), "access.tenants.search.quota", "not a known key", "monthly_quota"),
        (signed(), "access.tenants.search.principals", "nobody could be this tenant", "by their ARNs"),
        (signed(principals=["search"]), "access.tenants.search.principals.0", "'search'", "must match"),
        (
            signed(principals=[ROLE], monthly_quota=5),
            "access.tenants.search.monthly_quota",
            "5 cannot be held",
            "access.method: keys",
        ),
        (
            access(method="iam", tenants={"a": {"principals": [ROLE]}, "b": {"principals": [ROLE]}}),
            "access.tenants.b.principals",
            f"{ROLE} is a principal of a already",
            "name it once",
        ),
        (
            access(
                method="iam",
                tenants={
                    f"t{n}": {"principals": [f"arn:aws:iam::123456789012:role/{'r' * 100}{n}{m}" for m in range(9)]}
                    for n in range(9)
                },
            ),
            "access.tenants",
            "more than the 5000",
            "assume one role",
        ),
        (
            lambda d: d["deployments"]["mixtral"].update(cache={"ttl_seconds": -1}),
            "deployments.mixtral.cache.ttl_seconds",
            "-1",
            "at least 0",
        ),
        (
            lambda d: (d["gateway"].update(private=True), d.update(network=existing_vpc())),
            "gateway.private",
            "vpc-0123456789abcdef0",
            "execute_api_endpoint_id",
        ),
        (
            lambda d: d.update(network=existing_vpc(execute_api_endpoint_id="vpce-0123456789abcdef0")),
            "network.existing_vpc.execute_api_endpoint_id",
            "the API is public",
            "private: true",
        ),
        (
            lambda d: d.update(
                network=existing_vpc(
                    create_endpoints=True,
                    endpoint_security_group_id=None,
                    vpc_cidr="10.0.0.0/16",
                    private_route_table_ids=["rtb-0123456789abcdef0"],
                    execute_api_endpoint_id="vpce-0123456789abcdef0",
                )
            ),
            "network.existing_vpc",
            "execute_api_endpoint_id is vpce-0123456789abcdef0 and create_endpoints is true",
            "",
        ),
    ],
)
def test_what_leads_nowhere_is_refused(project: Path, change: Change, key: str, says: str, fix: str) -> None:
    path = edit(project, change)
    with pytest.raises(SettingsError) as refused:
        load_environment(project, "dev")
    assert refused.value.source == str(path)
    assert refused.value.key == key
    assert says in refused.value.problem
    assert fix in refused.value.fix


def test_a_private_api_in_a_vpc_with_its_own_endpoints_names_one(project: Path) -> None:
    edit(project, lambda d: d.update(network=existing_vpc(execute_api_endpoint_id="vpce-0123456789abcdef0")))
    edit(project, gateway(private=True, allowed_networks=["10.0.0.0/8"]))
    assert load_environment(project, "dev").gateway.private


def test_public_networks_are_taken_and_those_of_a_private_api_may_be_any(project: Path) -> None:
    edit(project, gateway(allowed_networks=["8.8.8.0/24", "9.9.9.9/32"]))
    assert len(load_environment(project, "dev").gateway.allowed_networks) == 2
    edit(project, gateway(private=True, allowed_networks=["100.64.0.0/10"]))
    assert load_environment(project, "dev").gateway.allowed_networks == ("100.64.0.0/10",)


def test_the_most_tenants_fit(project: Path) -> None:
    edit(project, access(tenants={f"t{n}": {} for n in range(80)}))
    assert len(load_environment(project, "dev").access.tenants) == 80


def test_waiting_may_take_nearly_all_the_time(project: Path) -> None:
    edit(project, gateway(wait_seconds=405))
    assert load_environment(project, "dev").gateway.wait_seconds == 405
    edit(project, gateway(wait_seconds=0, request_timeout_seconds=30))
    assert load_environment(project, "dev").gateway.wait_seconds == 0


def test_a_meter_that_api_gateway_would_refuse_is_refused_before(project: Path) -> None:
    """An API key's value has at least 20 characters."""
    path = project / "environments" / "dev.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8")) | {"name": "d", "access": {"tenants": {"t": {}}}}
    (project / "environments" / "d.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(SettingsError, match="too short for an API key"):
        load_environment(project, "d")
    data["access"] = {"tenants": {"te": {}}}
    (project / "environments" / "d.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    assert list(load_environment(project, "d").access.tenants) == ["te"]
