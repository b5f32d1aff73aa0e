"""What the gateway is told about itself and its tenants, and how much each of them may ask."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from modelzone.settings import Environment, Tenant
from zone_constructs.gateway_keys import meter_key

__all__ = ["GatewayParameters", "UsagePlans"]


class GatewayParameters(Construct):
    """SSM parameters that the invoke proxy reads while it runs, so that a change needs no new function. No secrets."""

    def __init__(self, scope: Construct, construct_id: str, *, environment: Environment, path: str) -> None:
        super().__init__(scope, construct_id)
        gateway, access = environment.gateway, environment.access
        self._parameter(
            "Settings",
            f"{path}/settings",
            f"Modelzone {environment.name}: settings of the gateway",
            {
                "aliases": gateway.aliases,
                "default_model": gateway.default_model,
                "wait_seconds": gateway.wait_seconds,
                "hedge_after_seconds": gateway.hedge_after_seconds,
                "max_messages": gateway.max_messages,
                "access": access.method,
                "tenant_claim": access.tenant_claim,
            },
        )
        for name, tenant in access.tenants.items():
            self._parameter(
                f"Tenant-{name}",
                f"{path}/tenants/{name}",
                f"Modelzone {environment.name}: tenant {name} of the gateway",
                {
                    "tenant": name,
                    "models": list(tenant.models),
                    "log_content": tenant.log_content,
                    "principals": list(tenant.principals),
                    "max_output_tokens": tenant.max_output_tokens,
                },
            )

    def _parameter(self, construct_id: str, name: str, description: str, value: Mapping[str, object]) -> None:
        ssm.StringParameter(
            self,
            construct_id,
            parameter_name=name,
            description=description,
            string_value=json.dumps(value),
            # Parameter Store makes a parameter of more than 4 KiB an advanced one, and refuses to make it a standard
            # one again: with a tier of ours a shorter list of aliases could not be deployed.
            tier=ssm.ParameterTier.INTELLIGENT_TIERING,
        )


class UsagePlans(Construct):
    """Rate, burst and monthly quota of each tenant: its requests are counted by an API key that only it has."""

    def __init__(
        self, scope: Construct, construct_id: str, *, environment: Environment, stage: apigateway.Stage
    ) -> None:
        super().__init__(scope, construct_id)
        for name, tenant in environment.access.tenants.items():
            self._build(name, tenant, environment, stage)

    def _build(self, name: str, tenant: Tenant, environment: Environment, stage: apigateway.Stage) -> None:
        gateway = environment.gateway
        key = apigateway.ApiKey(
            self,
            f"Key-{name}",
            description=f"Modelzone {environment.name}: counts the requests of {name}; opens nothing",
            value=meter_key(environment.name, name),
        )
        plan = apigateway.UsagePlan(
            self,
            f"Plan-{name}",
            name=f"modelzone-{environment.name}-{name}",
            throttle=apigateway.ThrottleSettings(
                rate_limit=tenant.rate_limit_per_second or gateway.rate_limit_per_second,
                burst_limit=tenant.burst_limit or gateway.burst_limit,
            ),
            quota=apigateway.QuotaSettings(
                limit=tenant.monthly_quota or gateway.monthly_quota, period=apigateway.Period.MONTH
            ),
        )
        plan.add_api_key(key)
        plan.add_api_stage(stage=stage)
