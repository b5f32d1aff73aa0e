"""Tools and answer formats of a chat request, checked in shape; what is inside a JSON schema is the engine's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from invoke_proxy.errors import bad_request

from .fields import Fields, missing, require_list, require_object, require_text, wrong_type

__all__ = ["parse_response_format", "parse_tool_choice", "parse_tools"]

MAX_TOOLS = 128
_CHOICES = ("none", "auto", "required")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def parse_tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Check OpenAI's list of function tools; absent and empty are the same."""
    if value is None:
        return ()
    items = require_list(value, param="tools", most=MAX_TOOLS)
    return tuple(_tool(item, param=f"tools[{index}]") for index, item in enumerate(items))


def _tool(value: Any, *, param: str) -> Mapping[str, Any]:
    fields = Fields(require_object(value, param=param), path=param)
    _function_only(fields.take("type"), param=f"{param}.type")
    at = f"{param}.function"
    definition = fields.take("function")
    fields.refuse_rest()
    inner = Fields(require_object(definition, param=at), path=at)
    function: dict[str, Any] = {"name": _name(inner.take("name"), param=f"{at}.name")}
    description = inner.text("description")
    if description is not None:
        function["description"] = description
    parameters = inner.take("parameters")
    if parameters is not None:
        function["parameters"] = require_object(parameters, param=f"{at}.parameters")
    if "strict" in inner:
        function["strict"] = inner.boolean("strict", default=False)
    inner.refuse_rest()
    return {"type": "function", "function": function}


def parse_tool_choice(value: Any, *, tools: Collection[Mapping[str, Any]]) -> str | Mapping[str, Any] | None:
    """Check which tool the model has to use; None when there is nothing to choose.

    Raises
    ------
    ApiError
        400 for a choice that the tools do not offer.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if value not in _CHOICES:
            raise bad_request(
                f"tool_choice is '{value[:40]}', expected one of {', '.join(_CHOICES)}, or an object that names a "
                "function.",
                param="tool_choice",
            )
        if not tools:
            if value == "required":
                raise bad_request("tool_choice is 'required', but there are no tools.", param="tool_choice")
            return None
        return value
    choice = require_object(value, param="tool_choice")
    _function_only(choice.get("type"), param="tool_choice.type")
    function = require_object(choice.get("function"), param="tool_choice.function")
    name = _name(function.get("name"), param="tool_choice.function.name")
    if not any(tool["function"]["name"] == name for tool in tools):
        raise bad_request(
            f"tool_choice.function.name is '{name}', which is not among the tools.", param="tool_choice.function.name"
        )
    return {"type": "function", "function": {"name": name}}


def parse_response_format(value: Any) -> Mapping[str, Any] | None:
    """Check the form that the answer has to have; None for plain text."""
    if value is None:
        return None
    fields = Fields(require_object(value, param="response_format"), path="response_format")
    kind = fields.take("type")
    if kind in ("text", "json_object"):
        fields.refuse_rest()
        return None if kind == "text" else {"type": "json_object"}
    if kind != "json_schema":
        raise bad_request(
            "response_format.type must be one of text, json_object, json_schema.", param="response_format.type"
        )
    at = "response_format.json_schema"
    definition = fields.take("json_schema")
    fields.refuse_rest()
    inner = Fields(require_object(definition, param=at), path=at)
    schema: dict[str, Any] = {"name": _name(inner.take("name"), param=f"{at}.name")}
    description = inner.text("description")
    if description is not None:
        schema["description"] = description
    # OpenAI's document does not require it, but an answer cannot follow a schema that is not there.
    schema["schema"] = require_object(inner.take("schema"), param=f"{at}.schema")
    if "strict" in inner:
        schema["strict"] = inner.boolean("strict", default=False)
    inner.refuse_rest()
    return {"type": "json_schema", "json_schema": schema}


def _function_only(kind: Any, *, param: str) -> None:
    if kind is None:
        raise missing(param)
    if not isinstance(kind, str):
        wrong_type(param, "a string", kind)
    if kind != "function":
        raise bad_request(
            f"{param} is '{kind[:40]}', expected 'function': nothing else is supported.",
            param=param,
            code="unsupported_parameter",
        )


def _name(value: Any, *, param: str) -> str:
    name = require_text(value, param=param)
    if not _NAME.fullmatch(name):
        raise bad_request(f"{param} must have 1 to 64 letters, digits, underscores and dashes.", param=param)
    return name
