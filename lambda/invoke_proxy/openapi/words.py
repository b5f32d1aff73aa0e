"""Small words for JSON Schema 2020-12, which OpenAPI 3.1 uses as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "Schema",
    "array",
    "boolean",
    "integer",
    "number",
    "one_of",
    "optional",
    "record",
    "ref",
    "request",
    "text",
]

Schema = dict[str, Any]


def text(description: str = "", **keywords: Any) -> Schema:
    """Return a string's schema."""
    return _described({"type": "string", **keywords}, description)


def integer(description: str = "", *, low: int | None = None, high: int | None = None) -> Schema:
    """Return an integer's schema."""
    return _described(_limited({"type": "integer"}, low, high), description)


def number(
    description: str = "", *, low: float | None = None, high: float | None = None, above: float | None = None
) -> Schema:
    """Return a number's schema; `above` excludes the limit."""
    schema = _limited({"type": "number"}, low, high)
    if above is not None:
        schema["exclusiveMinimum"] = above
    return _described(schema, description)


def boolean(description: str = "") -> Schema:
    """Return a boolean's schema."""
    return _described({"type": "boolean"}, description)


def array(items: Schema, description: str = "", *, least: int | None = None, most: int | None = None) -> Schema:
    """Return a list's schema."""
    schema: Schema = {"type": "array", "items": items}
    if least is not None:
        schema["minItems"] = least
    if most is not None:
        schema["maxItems"] = most
    return _described(schema, description)


def record(properties: Mapping[str, Schema], *, required: Sequence[str] | None = None, description: str = "") -> Schema:
    """Return the schema of an object that has these fields and no others; without `required`, all of them."""
    schema: Schema = {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }
    if not schema["required"]:
        del schema["required"]
    return _described(schema, description)


def request(properties: Mapping[str, Schema], *, required: Sequence[str], description: str = "") -> Schema:
    """Return the schema of a request's object: a field that is not required may be null, which counts as absent."""
    nullable = {name: schema if name in required else optional(schema) for name, schema in properties.items()}
    return record(nullable, required=required, description=description)


def optional(schema: Schema) -> Schema:
    """Return the schema for the same or null."""
    if "enum" in schema:
        return schema if None in schema["enum"] else {**_without_type(schema), "enum": [*schema["enum"], None]}
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    described = {name: schema[name] for name in ("description",) if name in schema}
    inner = {name: value for name, value in schema.items() if name not in described}
    alternatives = inner["anyOf"] if set(inner) == {"anyOf"} else [inner]
    return {"anyOf": [*alternatives, {"type": "null"}], **described}


def one_of(*schemas: Schema, description: str = "") -> Schema:
    """Return the schema for any of these."""
    return _described({"anyOf": list(schemas)}, description)


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def _limited(schema: Schema, low: float | None, high: float | None) -> Schema:
    if low is not None:
        schema["minimum"] = low
    if high is not None:
        schema["maximum"] = high
    return schema


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description} if description else schema


def _without_type(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name != "type"}
