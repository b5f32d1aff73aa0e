"""Who may call the API, from where, and how much: keys, signatures, user pools, tenants, firewall, private API."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from infrastructure.support import CONTEXT, Resource, Zone, text

from authorizer.meters import meter_key

Synthesise = Callable[[str], Zone]
TYPES = {"keys": "CUSTOM", "iam": "AWS_IAM", "cognito": "COGNITO_USER_POOLS"}


@dataclass(frozen=True)
class Written:
    """A parameter as the proxy reads it."""

    name: str
    value: str
    written: int = 1


def _parameters(zone: Zone) -> dict[str, str]:
    """Names and texts of the parameters that the gateway is told about itself in."""
    path = f"/modelzone/{zone.name}/gateway/"
    return {
        r.properties["Name"].removeprefix(path): r.properties["Value"]
        for r in zone.resources("AWS::SSM::Parameter", stack="GatewayStack")
    }


def _policy(zone: Zone) -> list[dict[str, Any]] | None:
    policy = zone.one("AWS::ApiGateway::RestApi").properties.get("Policy")
    return policy and policy["Statement"]


def test_nobody_calls_anonymously(zone: Zone) -> None:
    access = zone.plan.environment.access
    methods = list(zone.resources("AWS::ApiGateway::Method"))
    assert methods
    authorizers = {r.logical_id for r in zone.resources("AWS::ApiGateway::Authorizer")}
    for method in methods:
        assert method.properties["AuthorizationType"] == TYPES[access.method], method.logical_id
        assert method.properties["ApiKeyRequired"] is (access.method == "keys")
        if access.method == "iam":
            assert "AuthorizerId" not in method.properties
        else:
            assert {method.properties["AuthorizerId"]["Ref"]} == authorizers
    assert len(authorizers) == (access.method != "iam")


def test_keys_are_looked_up_for_every_request_by_a_function_outside_the_vpc(dev: Zone) -> None:
    authorizer = dev.one("AWS::ApiGateway::Authorizer").properties
    assert authorizer["Type"] == "REQUEST"
    # A token comes in one of two headers: with a source named, API Gateway refuses requests that use the other.
    assert "IdentitySource" not in authorizer
    assert authorizer["AuthorizerResultTtlInSeconds"] == 0
    (function,) = [
        f
        for f in dev.resources("AWS::Lambda::Function", stack="GatewayStack")
        if f.properties["Handler"] == "authorizer.handler.handler"
    ]
    assert f"<{function.logical_id}.Arn>/invocations" in text(authorizer["AuthorizerUri"])
    table = dev.one("AWS::DynamoDB::Table")
    assert function.properties["Environment"]["Variables"] == {
        "KEYS_TABLE_NAME": {"Ref": table.logical_id},
        "KEY_CACHE_SECONDS": "30",
        "MODELZONE_ENVIRONMENT": "dev",
    }
    assert "VpcConfig" not in function.properties
    assert "Layers" not in function.properties


def test_the_authorizers_package_has_its_entry_point(dev: Zone) -> None:
    assets = json.loads((dev.folder / "GatewayStack.assets.json").read_text(encoding="utf-8"))["files"]
    folders = [dev.folder / a["source"]["path"] for a in assets.values() if a["source"]["packaging"] == "zip"]
    (folder,) = [f for f in folders if (f / "authorizer").is_dir()]
    assert (folder / "authorizer" / "handler.py").is_file()


def test_a_meter_never_comes_from_a_header(zone: Zone) -> None:
    """Its value is no secret: with the source HEADER it would open the API to whoever guesses it."""
    source = zone.one("AWS::ApiGateway::RestApi").properties.get("ApiKeySourceType")
    meters = list(zone.resources("AWS::ApiGateway::ApiKey"))
    if zone.plan.environment.access.method == "keys":
        assert source == "AUTHORIZER"
        assert len(meters) == len(zone.plan.environment.access.tenants)
    else:
        assert source is None
        assert meters == []


def test_each_tenant_has_limits_of_its_own(synthesise: Synthesise) -> None:
    zone = synthesise("everything")
    keys = {r.logical_id: r.properties["Value"] for r in zone.resources("AWS::ApiGateway::ApiKey")}
    plans = {r.logical_id: r.properties for r in zone.resources("AWS::ApiGateway::UsagePlan")}
    found = {}
    for link in zone.resources("AWS::ApiGateway::UsagePlanKey"):
        plan = plans[link.properties["UsagePlanId"]["Ref"]]
        (stage,) = plan["ApiStages"]
        assert stage["Stage"] == {"Ref": zone.one("AWS::ApiGateway::Stage").logical_id}
        limits = plan["Throttle"]["RateLimit"], plan["Throttle"]["BurstLimit"], plan["Quota"]["Limit"]
        assert plan["Quota"]["Period"] == "MONTH"
        found[keys[link.properties["KeyId"]["Ref"]]] = limits
    assert found == {
        meter_key("everything", "search"): (5, 10, 20_000),
        # The gateway's.
        meter_key("everything", "support"): (50, 100, 500_000),
    }


def test_the_authorizer_names_the_meters_that_there_are(zone: Zone) -> None:
    """With the authorizer's own code."""
    if zone.plan.environment.access.method != "keys":
        return
    import hashlib  # noqa: PLC0415

    from authorizer.handler import Authorizer  # noqa: PLC0415
    from authorizer.records import Records  # noqa: PLC0415

    token = f"mz_{'a' * 10}_{'b' * 43}"
    (variables,) = [
        f.properties["Environment"]["Variables"]
        for f in zone.resources("AWS::Lambda::Function", stack="GatewayStack")
        if "KEYS_TABLE_NAME" in f.properties["Environment"]["Variables"]
    ]
    named = set()
    for tenant in zone.plan.environment.access.tenants:
        item = {"token_sha256": {"S": hashlib.sha256(token.encode()).hexdigest()}, "tenant": {"S": tenant}}
        records = Records(lambda _, item=item: item, keep_seconds=float(variables["KEY_CACHE_SECONDS"]))
        answer = Authorizer(records=records, environment=variables["MODELZONE_ENVIRONMENT"]).decide(
            {"headers": {"x-api-key": token}, "methodArn": "arn:aws:execute-api:us-east-1:1:api/api/GET/health"}
        )
        named.add(answer["usageIdentifierKey"])
    assert named == {r.properties["Value"] for r in zone.resources("AWS::ApiGateway::ApiKey")}


def test_the_proxy_reads_what_it_is_told(zone: Zone) -> None:
    """With the proxy's own reader."""
    from invoke_proxy.registry import GatewaySettings, Tenant  # noqa: PLC0415

    environment, found = zone.plan.environment, _parameters(zone)
    assert set(found) == {"settings", *(f"tenants/{name}" for name in environment.access.tenants)}
    settings = GatewaySettings.from_entry(Written(f"{zone.plan.gateway_path}/settings", found["settings"]))
    gateway, access = environment.gateway, environment.access
    assert dict(settings.aliases) == gateway.aliases
    assert settings.default_model == gateway.default_model
    assert settings.wait_seconds == gateway.wait_seconds
    assert settings.hedge_after_seconds == gateway.hedge_after_seconds
    assert settings.max_messages == gateway.max_messages
    assert (settings.access, settings.tenant_claim) == (access.method, access.tenant_claim)
    for name, tenant in access.tenants.items():
        read = Tenant.from_entry(Written(f"{zone.plan.gateway_path}/tenants/{name}", found[f"tenants/{name}"]))
        assert read.name == name
        assert read.models == set(tenant.models)
        assert read.principals == set(tenant.principals)
        assert (read.log_content, read.max_output_tokens) == (tenant.log_content, tenant.max_output_tokens)


def test_a_public_api_for_everybody_says_so(dev: Zone) -> None:
    """A policy that is taken out of the template stays on the API, and whom it refused stays outside."""
    assert _policy(dev) == [
        {
            "Sid": "Callers",
            "Effect": "Allow",
            "Principal": {"AWS": "*"},
            "Action": "execute-api:Invoke",
            "Resource": "execute-api:/*",
        }
    ]


def test_every_api_has_a_policy(zone: Zone) -> None:
    assert _policy(zone)
    # Only with signatures would an Allow for everybody let anybody in.
    if zone.plan.environment.access.method == "iam":
        assert all("*" not in text(s["Principal"]) for s in _policy(zone) or [] if s["Effect"] == "Allow")


def _denied(zone: Zone) -> list[Mapping[str, Any]]:
    """Conditions under which everybody is refused; the one other statement lets callers in."""
    allowed, *denied = _policy(zone) or []
    assert (allowed["Effect"], allowed["Action"]) == ("Allow", "execute-api:Invoke")
    for statement in denied:
        assert (statement["Effect"], statement["Action"]) == ("Deny", "execute-api:Invoke")
        assert statement["Principal"] == {"AWS": "*"}
        assert statement["Resource"] == allowed["Resource"] == "execute-api:/*"
    return [statement["Condition"] for statement in denied]


def test_a_private_api_is_called_through_the_environments_endpoint_from_allowed_networks(
    synthesise: Synthesise,
) -> None:
    zone = synthesise("everything")
    (endpoint,) = [
        r for r in zone.resources("AWS::EC2::VPCEndpoint") if text(r.properties["ServiceName"]).endswith(".execute-api")
    ]
    configuration = zone.one("AWS::ApiGateway::RestApi").properties["EndpointConfiguration"]
    (reference,) = configuration["VpcEndpointIds"]
    # By a parameter, see the next test.
    told = zone.templates["GatewayStack"]["Parameters"][reference["Ref"]]
    (parameter,) = zone.resources("AWS::SSM::Parameter", stack="NetworkStack")
    assert told == {"Type": "AWS::SSM::Parameter::Value<String>", "Default": parameter.properties["Name"]}
    assert parameter.properties["Name"] == "/modelzone/everything/network/api-endpoint"
    assert parameter.properties["Value"] == {"Ref": endpoint.logical_id}
    # Through an endpoint API Gateway sees the address in the VPC under a name of its own.
    assert _denied(zone) == [
        {"StringNotEquals": {"aws:SourceVpce": reference}},
        {"NotIpAddress": {"aws:VpcSourceIp": ["10.60.0.0/16", "10.9.0.0/24"]}},
    ]
    (group,) = [r for r in zone.resources("AWS::EC2::SecurityGroup") if "ApiEndpointSecurityGroup" in r.logical_id]
    assert endpoint.properties["SecurityGroupIds"] == [{"Fn::GetAtt": [group.logical_id, "GroupId"]}]
    admitted = [(rule["CidrIp"], rule["FromPort"]) for rule in group.properties["SecurityGroupIngress"]]
    assert admitted == [("10.60.0.0/16", 443), ("10.9.0.0/24", 443)]
    (statement,) = endpoint.properties["PolicyDocument"]["Statement"]
    assert statement["Action"] == "execute-api:Invoke"
    assert text(statement["Resource"]) == "arn:aws:execute-api:us-east-1:<AWS::AccountId>:*"


def test_what_the_gateway_can_be_told_is_no_export(root: Path, synthesise: Synthesise, tmp_path: Path) -> None:
    """An export cannot go while it is imported, and the importing stack is updated after the exporting one.

    So no export may depend on a setting that is to be taken back.
    """
    from aws_cdk import App  # noqa: PLC0415

    from modelzone.planning import plan_environment  # noqa: PLC0415
    from stacks.environment import build_environment  # noqa: PLC0415

    everything = synthesise("everything")
    folder = tmp_path / "plain"
    shutil.copytree(root, folder)
    path = folder / "environments" / "everything.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    del settings["gateway"], settings["access"], settings["deployments"]["mixtral"]["cache"]
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    plan = plan_environment(folder, "everything")
    assert not plan.environment.gateway.private
    assert not plan.caches_answers
    build_environment(app := App(context=CONTEXT, outdir=str(tmp_path / "cdk")), plan=plan)
    app.synth()
    plain = Zone("everything", plan, tmp_path / "cdk")
    assert _exports(everything) == _exports(plain)
    assert _exports(plain)


def _exports(zone: Zone) -> set[tuple[str, str]]:
    return {
        (stack, name)
        for stack, template in zone.templates.items()
        for name, output in template.get("Outputs", {}).items()
        if "Export" in output
    }


def test_public_addresses_are_allowed_by_the_addresses_of_clients(synthesise: Synthesise) -> None:
    assert _denied(synthesise("pool")) == [{"NotIpAddress": {"aws:SourceIp": ["8.8.8.0/24", "9.9.9.9/32"]}}]


def test_with_signatures_only_tenants_principals_are_let_in(synthesise: Synthesise) -> None:
    """An Allow for everybody would let every role of the account in."""
    zone = synthesise("signed")
    allowed, *_ = _policy(zone) or []
    assert allowed["Principal"] == {
        "AWS": [
            "arn:aws:iam::123456789012:role/search",
            "arn:aws:iam::123456789012:role/team/search-batch",
            "arn:aws:iam::210987654321:user/partner",
        ]
    }
    assert _denied(zone) == [{"StringNotEquals": {"aws:SourceVpce": "vpce-0123456789abcdef0"}}]


def test_tokens_of_the_named_pool_are_asked_for(synthesise: Synthesise) -> None:
    zone = synthesise("pool")
    authorizer = zone.one("AWS::ApiGateway::Authorizer").properties
    assert authorizer["Type"] == "COGNITO_USER_POOLS"
    assert authorizer["ProviderARNs"] == [zone.plan.environment.access.user_pool_arn]


def _rules(zone: Zone) -> dict[str, dict[str, Any]]:
    return {rule["Name"]: rule for rule in zone.one("AWS::WAFv2::WebACL").properties["Rules"]}


def test_there_is_a_firewall_where_it_is_asked_for(zone: Zone) -> None:
    wanted = zone.plan.environment.gateway.firewall is not None
    acls, associations = (list(zone.resources(f"AWS::WAFv2::{kind}")) for kind in ("WebACL", "WebACLAssociation"))
    assert len(acls) == len(associations) == wanted
    if wanted:
        stage, api = zone.one("AWS::ApiGateway::Stage"), zone.one("AWS::ApiGateway::RestApi")
        arn = text(associations[0].properties["ResourceArn"])
        assert arn.endswith(f"::/restapis/<{api.logical_id}>/stages/<{stage.logical_id}>")
        assert acls[0].properties["Scope"] == "REGIONAL"
        assert acls[0].properties["DefaultAction"] == {"Allow": {}}


def test_requests_are_limited_by_address(synthesise: Synthesise) -> None:
    for name, limit in (("everything", 2000), ("pool", 300)):
        rule = _rules(synthesise(name))["requests-by-address"]
        assert rule["Action"] == {"Block": {}}
        assert rule["Statement"]["RateBasedStatement"] == {
            "AggregateKeyType": "IP",
            "Limit": limit,
            "EvaluationWindowSec": 300,
        }


def test_rules_that_look_into_bodies_only_count(synthesise: Synthesise) -> None:
    """A prompt may be long and may quote an attack."""
    groups = {name: rule for name, rule in _rules(synthesise("everything")).items() if name.startswith("AWS")}
    assert set(groups) == {
        "AWSManagedRulesAmazonIpReputationList",
        "AWSManagedRulesCommonRuleSet",
        "AWSManagedRulesKnownBadInputsRuleSet",
    }
    counted = set()
    for rule in groups.values():
        assert rule["OverrideAction"] == {"None": {}}
        for override in rule["Statement"]["ManagedRuleGroupStatement"].get("RuleActionOverrides", []):
            assert override["ActionToUse"] == {"Count": {}}
            counted.add(override["Name"])
    assert {"SizeRestrictions_BODY", "CrossSiteScripting_BODY", "Log4JRCE_BODY"} <= counted
    assert all(name.endswith("_BODY") for name in counted)
    assert set(_rules(synthesise("pool"))) == {"requests-by-address"}


def test_the_firewall_keeps_no_samples(synthesise: Synthesise) -> None:
    """They show headers, and so the callers' tokens."""
    acl: Resource = synthesise("everything").one("AWS::WAFv2::WebACL")
    for part in (acl.properties, *acl.properties["Rules"]):
        assert part["VisibilityConfig"]["SampledRequestsEnabled"] is False


@pytest.mark.parametrize(("count", "most"), [(1, 4096), (50, 8192)])
def test_aliases_may_become_many_and_few_again(count: int, most: int, dev: Zone) -> None:
    """Parameter Store refuses to make an advanced parameter a standard one: the tier never changes."""
    from aws_cdk import App, Stack  # noqa: PLC0415
    from aws_cdk.assertions import Template  # noqa: PLC0415
    from msgspec.structs import replace  # noqa: PLC0415

    from zone_constructs.gateway_tenants import GatewayParameters  # noqa: PLC0415

    environment = dev.plan.environment
    aliases = {f"{'a' * 80}{number}": "mixtral" for number in range(count)}
    environment = replace(environment, gateway=replace(environment.gateway, aliases=aliases))
    stack = Stack(App(), "Stack")
    GatewayParameters(stack, "Parameters", environment=environment, path="/modelzone/dev/gateway")
    found = [r["Properties"] for r in Template.from_stack(stack).find_resources("AWS::SSM::Parameter").values()]
    assert {properties["Tier"] for properties in found} == {"Intelligent-Tiering"}
    (settings,) = [properties["Value"] for properties in found if properties["Name"].endswith("/settings")]
    assert most // 2 < len(settings) <= most or count == 1


def test_meters_of_two_environments_are_never_the_same() -> None:
    assert meter_key("x", "y-meter-z") != meter_key("x-meter-y", "z")
    names = ["x", "y", "x-meter-y", "y-meter-z", "meter", "x-y"]
    values = {meter_key(environment, tenant) for environment in names for tenant in names}
    assert len(values) == len(names) ** 2
    # What API Gateway takes.
    assert all(value.isalnum() and 20 <= len(value) <= 128 for value in values)
