"""Routes of the API."""

from __future__ import annotations

from aws_cdk import aws_apigateway as apigateway

from zone_constructs.gateway_access import GatewayAccess

__all__ = ["BINARY_MEDIA_TYPES", "add_routes"]

# Verb, path, and whether the body has to be a JSON object. What is in it the function checks, which can name the
# parameter that is wrong.
_ROUTES: tuple[tuple[str, str, bool], ...] = (
    ("POST", "/v1/chat/completions", True),
    ("POST", "/v1/completions", True),
    ("POST", "/v1/embeddings", True),
    ("GET", "/v1/models", False),
    # Greedy: model ids of the hub hold a slash.
    ("GET", "/v1/models/{model+}", False),
    # To which TGI's clients post.
    ("POST", "/", True),
    ("POST", "/generate", True),
    ("POST", "/generate_stream", True),
    ("POST", "/tokenize", True),
    ("GET", "/info", False),
    # Whatever the engine takes.
    ("POST", "/invocations", False),
    ("GET", "/health", False),
    ("GET", "/openapi.json", False),
    # Everything else: the function says 404 as OpenAI does. API Gateway itself takes an Authorization header on an
    # unknown route for a signature and answers 403.
    ("ANY", "/{proxy+}", False),
)

# Bodies that reach the function byte by byte; others have to be text in UTF-8.
BINARY_MEDIA_TYPES = ("application/octet-stream", "application/x-npy", "image/jpeg", "image/png")


def add_routes(api: apigateway.RestApi, *, access: GatewayAccess, integration: apigateway.LambdaIntegration) -> None:
    """Add every route, with its checks."""
    validator = api.add_request_validator("Validator", validate_request_body=True, validate_request_parameters=True)
    json_object = api.add_model(
        "JsonObject",
        model_name="JsonObject",
        content_type="application/json",
        schema=apigateway.JsonSchema(schema=apigateway.JsonSchemaVersion.DRAFT4, type=apigateway.JsonSchemaType.OBJECT),
    )
    for verb, path, has_object in _ROUTES:
        access.add_method(
            api.root.resource_for_path(path),
            verb,
            integration,
            request_validator=validator,
            request_models={"application/json": json_object} if has_object else None,
            request_parameters={"method.request.path.model": True} if "{model+}" in path else None,
        )
