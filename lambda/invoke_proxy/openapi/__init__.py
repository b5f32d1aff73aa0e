"""The description of all routes, OpenAPI 3.1: what is served and nothing else. Tests hold the gateway to it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from . import openai_schemas, tgi_schemas
from .paths import HEADERS, PATHS, RESPONSES

__all__ = ["document", "document_bytes"]

_DESCRIPTION = """\
Open models on SageMaker behind the APIs of OpenAI and of Text Generation Inference.

A model goes by the name of its deployment, by an alias or by its hub id. Parameters that a deployment's engine cannot
honour are refused by their name, never ignored in silence.
"""

_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}, {"iam": []}, {"token": []}]
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of the gateway, `mz_…`."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key."},
    "iam": {
        "type": "http",
        "scheme": "aws4-hmac-sha256",
        "description": "AWS Signature Version 4, where the environment's access method is iam.",
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of the user pool, where the environment's access method is cognito.",
    },
}


def document() -> dict[str, Any]:
    """Return the whole document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Modelzone gateway", "version": "1.0.0", "description": _DESCRIPTION},
        # Relative to where this document lies: the stage's address.
        "servers": [{"url": "."}],
        "security": _SECURITY,
        "tags": [
            {"name": "OpenAI"},
            {"name": "Text Generation Inference"},
            {"name": "SageMaker"},
            {"name": "Gateway"},
        ],
        "paths": PATHS,
        "components": {
            "schemas": {**openai_schemas.SCHEMAS, **tgi_schemas.SCHEMAS, "Confidence": openai_schemas.CONFIDENCE},
            "headers": HEADERS,
            "responses": RESPONSES,
            "securitySchemes": _SCHEMES,
        },
    }


@cache
def document_bytes() -> bytes:
    """Return the document as it is served."""
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()
