"""Who may call the API: authorizers of its methods, and the policy that says from where."""

# jsii's classes name some parameters differently from the interfaces they implement; mypy checks these arguments.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

from modelzone.settings import Access, Environment
from zone_constructs.acknowledge import acknowledge
from zone_constructs.gateway_keys import GatewayKeys

__all__ = ["GatewayAccess", "resource_policy"]

# API Gateway completes it to all stages and methods of the API that has the policy.
_THIS_API = "execute-api:/*"


@dataclass(frozen=True, kw_only=True)
class GatewayAccess:
    """How the API's methods find out who calls.

    Attributes
    ----------
    keys
        With access by keys.
    """

    authorization_type: apigateway.AuthorizationType
    authorizer: apigateway.IAuthorizer | None = None
    keys: GatewayKeys | None = None

    @classmethod
    def build(cls, scope: Construct, *, access: Access, keys: GatewayKeys | None) -> GatewayAccess:
        """Make what the environment's way of access needs; `keys` for access by keys."""
        if keys is not None:
            return cls(authorization_type=apigateway.AuthorizationType.CUSTOM, authorizer=keys.authorizer, keys=keys)
        if access.user_pool_arn is not None:
            pool = cognito.UserPool.from_user_pool_arn(scope, "UserPool", access.user_pool_arn)
            authorizer = apigateway.CognitoUserPoolsAuthorizer(scope, "UserPoolAuthorizer", cognito_user_pools=[pool])
            return cls(authorization_type=apigateway.AuthorizationType.COGNITO, authorizer=authorizer)
        return cls(authorization_type=apigateway.AuthorizationType.IAM)

    @property
    def api_key_source(self) -> apigateway.ApiKeySourceType | None:
        """Where usage plans learn whose a request is: from the authorizer, never from a header."""
        return apigateway.ApiKeySourceType.AUTHORIZER if self.keys else None

    @property
    def logged_identity(self) -> Mapping[str, str]:
        """Fields of the access log that say who called, without anything that opens the API."""
        field = apigateway.AccessLogField
        if self.keys is not None:
            return {
                "tenant": field.context_authorizer("tenant"),
                "keyId": field.context_authorizer("key_id"),
                "authorizerLatency": field.context_authorizer_latency(),
            }
        if self.authorization_type is apigateway.AuthorizationType.COGNITO:
            return {"subject": field.context_authorizer_claims("sub")}
        return {"userArn": field.context_identity_user_arn()}

    def add_method(
        self,
        resource: apigateway.Resource,
        verb: str,
        integration: apigateway.Integration,
        *,
        request_validator: apigateway.IRequestValidator,
        request_models: Mapping[str, apigateway.IModel] | None = None,
        request_parameters: Mapping[str, bool] | None = None,
    ) -> None:
        """Add a method that nobody calls anonymously."""
        method = resource.add_method(
            verb,
            integration,
            authorization_type=self.authorization_type,
            authorizer=self.authorizer,
            api_key_required=self.keys is not None,
            request_validator=request_validator,
            request_models=request_models,
            request_parameters=request_parameters,
        )
        if self.authorization_type is not apigateway.AuthorizationType.COGNITO:
            acknowledge(
                method,
                "The environment's settings choose how callers prove who they are; here not by a user pool of Cognito.",
                "AwsSolutions-COG4",
            )


def resource_policy(environment: Environment, *, api_endpoint: ec2.IInterfaceVpcEndpoint | None) -> iam.PolicyDocument:
    """Say from where the API may be called, and by which principals of IAM.

    A refusal wins over everything. There is a policy in any case: one that a template no longer has stays on the API
    (aws/aws-cdk, issue 21840), and so would its refusals. It lets nobody in whom the methods' authorizer refuses.
    """
    gateway, access = environment.gateway, environment.access
    refused: list[iam.PolicyStatement] = []
    if api_endpoint is not None:
        this_one = {"aws:SourceVpce": api_endpoint.vpc_endpoint_id}
        refused.append(_refuse("OtherEndpoints", {"StringNotEquals": this_one}))
    if gateway.allowed_networks:
        address = "aws:VpcSourceIp" if gateway.private else "aws:SourceIp"
        refused.append(_refuse("OtherNetworks", {"NotIpAddress": {address: list(gateway.allowed_networks)}}))
    # With signatures an Allow here is enough for the account's own principals (those of other accounts need one there
    # as well): for everybody it would let every role of the account in.
    arns = [arn for tenant in access.tenants.values() for arn in tenant.principals]
    principals = [iam.ArnPrincipal(arn) for arn in arns] if access.method == "iam" else [iam.AnyPrincipal()]
    allowed = iam.PolicyStatement(
        sid="Callers", principals=principals, actions=["execute-api:Invoke"], resources=[_THIS_API]
    )
    return iam.PolicyDocument(statements=[allowed, *refused])


def _refuse(sid: str, conditions: Mapping[str, Mapping[str, object]]) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid=sid,
        effect=iam.Effect.DENY,
        principals=[iam.AnyPrincipal()],
        actions=["execute-api:Invoke"],
        resources=[_THIS_API],
        conditions=conditions,
    )
