"""The routes: what each takes and every status that it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import examples
from .words import Schema, ref, text

__all__ = ["HEADERS", "PATHS", "RESPONSES"]

_Object = dict[str, Any]

_ID = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
_DEPLOYMENT = {"x-modelzone-deployment": {"$ref": "#/components/headers/Deployment"}}
_CACHE = {"x-modelzone-cache": {"$ref": "#/components/headers/Cache"}}
_RETRY = {"retry-after": {"$ref": "#/components/headers/RetryAfter"}}

HEADERS: dict[str, _Object] = {
    "RequestId": {"description": "Finds the request in the logs.", "schema": {"type": "string"}},
    "Deployment": {"description": "The deployment that answers.", "schema": {"type": "string"}},
    "Cache": {
        "description": "Whether the answer was kept from before; absent where answers are not kept.",
        "schema": {"enum": ["hit", "miss"]},
    },
    "RetryAfter": {
        "description": "Seconds to wait before the next attempt.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 120},
    },
}

# Status, what it means, whether it says when to try again.
_CLIENT_ERRORS: tuple[tuple[str, str, bool], ...] = (
    ("400", "The request is not one, or asks for what the deployment cannot do; `param` names the field.", False),
    ("401", "Nobody vouches for the caller: the key is missing, unknown, expired or revoked.", False),
    ("403", "The caller is no tenant of this gateway, or may not use this route.", False),
    ("404", "No such model, for this caller; or its endpoint is gone.", False),
    ("413", "The body is larger than 6 MiB.", False),
    ("429", "Too many requests: the tenant's rate or quota, or the model's queue.", True),
    ("4XX", "The model server refused the request; the status and the words are its own.", True),
)
_SERVER_ERRORS: tuple[tuple[str, str, bool], ...] = (
    ("500", "The gateway failed.", False),
    ("502", "The model server or SageMaker failed.", False),
    (
        "503",
        "The model has no running instance yet, or is being loaded; or the gateway cannot read its settings.",
        True,
    ),
    ("504", "The model did not answer in time.", False),
)
_KINDS = {"OpenAi": "Error", "Tgi": "GenerateError"}

RESPONSES: dict[str, _Object] = {
    f"{kind}{status}": {
        "description": description,
        "headers": {**_ID, **(_RETRY if retry else {})},
        "content": {
            "application/json": {
                "schema": ref(schema),
                "examples": {"error": {"value": examples.ERRORS[kind].get(status, examples.ERRORS[kind]["400"])}},
            }
        },
    }
    for kind, schema in _KINDS.items()
    for status, description, retry in (*_CLIENT_ERRORS, *_SERVER_ERRORS)
}

# Routes that ask no endpoint cannot fail as one does.
_ASKING = frozenset({"413", "429", "4XX", "502", "504"})


def _errors(kind: str, *, endpoint: bool = True, without: Sequence[str] = ()) -> dict[str, _Object]:
    statuses = [status for status, _, _ in (*_CLIENT_ERRORS, *_SERVER_ERRORS)]
    kept = [status for status in statuses if (endpoint or status not in _ASKING) and status not in without]
    return {status: {"$ref": f"#/components/responses/{kind}{status}"} for status in kept}


def _body(schema: str, values: Mapping[str, Any]) -> _Object:
    named = {name: {"value": value} for name, value in values.items()}
    return {"required": True, "content": {"application/json": {"schema": ref(schema), "examples": named}}}


def _json(schema: Schema, description: str, *, headers: Mapping[str, Any], example: Any = None) -> _Object:
    content: _Object = {"schema": schema}
    if example is not None:
        content["examples"] = {"answer": {"value": example}}
    return {"description": description, "headers": {**_ID, **headers}, "content": {"application/json": content}}


def _events(events: Sequence[Schema], example: str, *, done: bool) -> _Object:
    """Return the content of a stream: the schema is that of each event, as in OpenAPI 3.2's `itemSchema`."""
    data: Schema = text(contentMediaType="application/json", contentSchema={"anyOf": list(events)})
    if done:
        data = {"anyOf": [data, {"const": "[DONE]"}]}
    return {
        "schema": {
            "type": "object",
            "description": "One server-sent event. Comments (`: keep-alive`) come while nothing else does.",
            "properties": {"data": data},
            "required": ["data"],
        },
        "examples": {"stream": {"value": example}},
    }


def _generating(
    *, summary: str, tag: str, request: str, answer: str, chunk: str, kind: str, values: examples.Route
) -> _Object:
    whole = _json(ref(answer), "The answer.", headers={**_DEPLOYMENT, **_CACHE}, example=values.answer)
    whole["content"]["text/event-stream"] = _events([ref(chunk), ref(_KINDS[kind])], values.stream, done=True)
    whole["description"] = "The answer; with `stream` as server-sent events. A failure in the middle is an event too."
    return {
        "summary": summary,
        "tags": [tag],
        "requestBody": _body(request, values.requests),
        "responses": {"200": whole, **_errors(kind)},
    }


_MODEL_PARAMETER = {
    "name": "model",
    "in": "query",
    "description": "A deployment, an alias or a hub id; left out: the gateway's default model.",
    "schema": {"type": "string"},
}
_MODEL_HEADER = {
    "name": "x-modelzone-model",
    "in": "header",
    "description": "The same as `model`, before it.",
    "schema": {"type": "string"},
}
_ANY_BYTES: _Object = {"*/*": {"schema": {}}}

PATHS: dict[str, _Object] = {
    "/v1/chat/completions": {
        "post": {
            "operationId": "createChatCompletion",
            **_generating(
                summary="Answer a conversation",
                tag="OpenAI",
                request="ChatCompletionRequest",
                answer="ChatCompletion",
                chunk="ChatCompletionChunk",
                kind="OpenAi",
                values=examples.CHAT,
            ),
        }
    },
    "/v1/completions": {
        "post": {
            "operationId": "createCompletion",
            **_generating(
                summary="Go on with a text",
                tag="OpenAI",
                request="CompletionRequest",
                answer="Completion",
                chunk="CompletionChunk",
                kind="OpenAi",
                values=examples.COMPLETION,
            ),
        }
    },
    "/v1/embeddings": {
        "post": {
            "operationId": "createEmbedding",
            "summary": "Turn texts into vectors",
            "tags": ["OpenAI"],
            "requestBody": _body("EmbeddingRequest", examples.EMBEDDING.requests),
            "responses": {
                "200": _json(
                    ref("EmbeddingList"), "The vectors.", headers=_DEPLOYMENT, example=examples.EMBEDDING.answer
                ),
                **_errors("OpenAi"),
            },
        }
    },
    "/v1/models": {
        "get": {
            "operationId": "listModels",
            "summary": "List what the caller may use: deployments and aliases",
            "tags": ["OpenAI"],
            "responses": {
                "200": _json(ref("ModelList"), "The models.", headers={}, example=examples.MODELS),
                **_errors("OpenAi", endpoint=False, without=("400", "404")),
            },
        }
    },
    "/v1/models/{model}": {
        "get": {
            "operationId": "retrieveModel",
            "summary": "Describe a model, by any of its names",
            "tags": ["OpenAI"],
            "parameters": [
                {
                    "name": "model",
                    "in": "path",
                    "required": True,
                    "description": "It may have slashes, as hub ids do.",
                    "schema": {"type": "string", "minLength": 1},
                }
            ],
            "responses": {
                "200": _json(ref("Model"), "The model.", headers=_DEPLOYMENT, example=examples.MODELS["data"][0]),
                **_errors("OpenAi", endpoint=False),
            },
        }
    },
    "/": {
        "post": {
            "operationId": "generateCompatible",
            "summary": "Go on with a text, as TGI's clients ask: a list of one answer, or events",
            "tags": ["Text Generation Inference"],
            "parameters": [_MODEL_PARAMETER, _MODEL_HEADER],
            "requestBody": _body("GenerateRequest", examples.GENERATE.requests),
            "responses": {
                "200": {
                    "description": "The answer in a list; events when `stream` is true.",
                    "headers": {**_ID, **_DEPLOYMENT, **_CACHE},
                    "content": {
                        "application/json": {
                            "schema": ref("GenerateAnswers"),
                            "examples": {"answer": {"value": [examples.GENERATE.answer]}},
                        },
                        "text/event-stream": _events(
                            [ref("GenerateEvent"), ref("GenerateError")], examples.GENERATE.stream, done=False
                        ),
                    },
                },
                **_errors("Tgi"),
            },
        }
    },
    "/generate": {
        "post": {
            "operationId": "generate",
            "summary": "Go on with a text, in TGI's format",
            "tags": ["Text Generation Inference"],
            "requestBody": _body("GenerateRequest", examples.GENERATE.requests),
            "responses": {
                "200": _json(
                    ref("GenerateAnswer"),
                    "The answer.",
                    headers={**_DEPLOYMENT, **_CACHE},
                    example=examples.GENERATE.answer,
                ),
                **_errors("Tgi"),
            },
        }
    },
    "/generate_stream": {
        "post": {
            "operationId": "generateStream",
            "summary": "Go on with a text, as events in TGI's format",
            "tags": ["Text Generation Inference"],
            "requestBody": _body("GenerateRequest", examples.GENERATE.requests),
            "responses": {
                "200": {
                    "description": "One event for each token; the last has the whole text.",
                    "headers": {**_ID, **_DEPLOYMENT, **_CACHE},
                    "content": {
                        "text/event-stream": _events(
                            [ref("GenerateEvent"), ref("GenerateError")], examples.GENERATE.stream, done=False
                        )
                    },
                },
                **_errors("Tgi"),
            },
        }
    },
    "/tokenize": {
        "post": {
            "operationId": "tokenize",
            "summary": "Divide a text into the model's tokens",
            "tags": ["Text Generation Inference"],
            "requestBody": _body("TokenizeRequest", examples.TOKENIZE.requests),
            "responses": {
                "200": _json(
                    ref("TokenizeAnswer"), "The tokens.", headers=_DEPLOYMENT, example=examples.TOKENIZE.answer
                ),
                **_errors("Tgi", endpoint=False),
                "413": {"$ref": "#/components/responses/Tgi413"},
            },
        }
    },
    "/info": {
        "get": {
            "operationId": "info",
            "summary": "Describe a deployment with the words of TGI's /info",
            "tags": ["Text Generation Inference"],
            "parameters": [_MODEL_PARAMETER],
            "responses": {
                "200": _json(ref("Info"), "The deployment.", headers=_DEPLOYMENT, example=examples.INFO),
                **_errors("Tgi", endpoint=False),
            },
        }
    },
    "/invocations": {
        "post": {
            "operationId": "invoke",
            "summary": "Pass a body to the endpoint and its answer back",
            "description": "The engine's own format, unchanged. A body with `stream: true` is answered as a stream.",
            "tags": ["SageMaker"],
            "parameters": [
                _MODEL_PARAMETER,
                _MODEL_HEADER,
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": {}}}},
            "responses": {
                "200": {
                    "description": "The endpoint's answer, with its content type.",
                    "headers": {**_ID, **_DEPLOYMENT},
                    "content": _ANY_BYTES,
                },
                **_errors("OpenAi"),
            },
        }
    },
    "/health": {
        "get": {
            "operationId": "health",
            "summary": "Whether the gateway runs; asks no AWS service",
            "tags": ["Gateway"],
            "responses": {
                "200": {
                    "description": "It runs.",
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {"status": {"const": "ok"}},
                                "required": ["status"],
                                "additionalProperties": False,
                            }
                        }
                    },
                }
            },
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "openapi",
            "summary": "This document",
            "tags": ["Gateway"],
            "responses": {
                "200": {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}}
            },
        }
    },
}
