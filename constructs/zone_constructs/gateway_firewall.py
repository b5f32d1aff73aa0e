"""A web application firewall in front of the API."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_wafv2 as wafv2
from constructs import Construct

from modelzone.settings import Firewall

__all__ = ["GatewayFirewall"]

_WINDOW_SECONDS = 300
# AWS's rule groups, and those of their rules that look into bodies: these only count. A prompt is text for a model, may
# be far longer than the 8 KiB that AWS's rule allows, and may quote whatever the rules look for.
_MANAGED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "AWSManagedRulesAmazonIpReputationList": (),
        "AWSManagedRulesCommonRuleSet": (
            "CrossSiteScripting_BODY",
            "EC2MetaDataSSRF_BODY",
            "GenericLFI_BODY",
            "GenericRFI_BODY",
            "SizeRestrictions_BODY",
        ),
        "AWSManagedRulesKnownBadInputsRuleSet": ("JavaDeserializationRCE_BODY", "Log4JRCE_BODY", "ReactJSRCE_BODY"),
    }
)


class GatewayFirewall(Construct):
    """Limits requests by address, and refuses known attacks.

    That a firewall also stands in front of a private API: NOT VERIFIED.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        environment_name: str,
        settings: Firewall,
        stage: apigateway.Stage,
    ) -> None:
        super().__init__(scope, construct_id)
        self._name = f"modelzone-{environment_name}"
        rules = [self._rate_rule(settings.requests_per_five_minutes)]
        if settings.managed_rules:
            rules += [self._managed_rule(number, group) for number, group in enumerate(_MANAGED, start=1)]
        self.acl = wafv2.CfnWebACL(
            self,
            "Acl",
            scope="REGIONAL",
            description=f"Modelzone {environment_name}: in front of the API",
            default_action=wafv2.CfnWebACL.DefaultActionProperty(allow={}),
            visibility_config=self._visibility("all"),
            rules=rules,
        )
        wafv2.CfnWebACLAssociation(self, "Association", resource_arn=stage.stage_arn, web_acl_arn=self.acl.attr_arn)

    def _visibility(self, what: str) -> wafv2.CfnWebACL.VisibilityConfigProperty:
        return wafv2.CfnWebACL.VisibilityConfigProperty(
            cloud_watch_metrics_enabled=True,
            metric_name=f"{self._name}-{what}",
            # Samples show whole headers, and so the callers' tokens.
            sampled_requests_enabled=False,
        )

    def _rate_rule(self, limit: int) -> wafv2.CfnWebACL.RuleProperty:
        return wafv2.CfnWebACL.RuleProperty(
            name="requests-by-address",
            priority=0,
            action=wafv2.CfnWebACL.RuleActionProperty(block={}),
            statement=wafv2.CfnWebACL.StatementProperty(
                rate_based_statement=wafv2.CfnWebACL.RateBasedStatementProperty(
                    aggregate_key_type="IP", limit=limit, evaluation_window_sec=_WINDOW_SECONDS
                )
            ),
            visibility_config=self._visibility("requests-by-address"),
        )

    def _managed_rule(self, priority: int, group: str) -> wafv2.CfnWebACL.RuleProperty:
        count = wafv2.CfnWebACL.RuleActionProperty(count={})
        return wafv2.CfnWebACL.RuleProperty(
            name=group,
            priority=priority,
            override_action=wafv2.CfnWebACL.OverrideActionProperty(none={}),
            statement=wafv2.CfnWebACL.StatementProperty(
                managed_rule_group_statement=wafv2.CfnWebACL.ManagedRuleGroupStatementProperty(
                    vendor_name="AWS",
                    name=group,
                    rule_action_overrides=[
                        wafv2.CfnWebACL.RuleActionOverrideProperty(name=rule, action_to_use=count)
                        for rule in _MANAGED[group]
                    ]
                    or None,
                )
            ),
            visibility_config=self._visibility(group),
        )
