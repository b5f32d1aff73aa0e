"""The messages of a chat request, in all forms that OpenAI has for texts and tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from invoke_proxy.chat_templates import Message
from invoke_proxy.errors import bad_request

from .fields import missing, refused, require_list, require_object, require_text, wrong_type

__all__ = ["parse_messages", "plain_messages", "uses_tools"]

# Templates of open models know the system role only.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}

# An assistant message that a client sends back as it got it carries these; they are dropped when empty.
_ECHOED = frozenset({"annotations", "audio", "function_call", "reasoning", "reasoning_content"})
# Client libraries put these beside an answer for their own use (LiteLLM); they say nothing to a model.
_DROPPED = {"assistant": frozenset({"provider_specific_fields"}), "tool": frozenset({"name"})}

_FIELDS = {
    "system": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "refusal", "tool_calls"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
}
_PART_FIELDS = {"text": "text", "refusal": "refusal"}


def parse_messages(value: Any, *, max_messages: int) -> tuple[Mapping[str, Any], ...]:
    """Check messages and return them as OpenAI's objects with the least that says the same.

    Content parts are joined to one text, ``developer`` becomes ``system``, empty fields go.

    Raises
    ------
    ApiError
        400 naming the field, as in ``messages[1].content[0].type``.
    """
    if value is None:
        raise missing("messages")
    items = require_list(value, param="messages", most=max_messages)
    if not items:
        raise bad_request("messages is empty: send at least one user message.", param="messages")
    return tuple(_message(item, param=f"messages[{index}]") for index, item in enumerate(items))


def uses_tools(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name of the first field that only a model with tools understands, or None."""
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            return f"messages[{index}].role"
        if "tool_calls" in message:
            return f"messages[{index}].tool_calls"
    return None


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return the messages for a template that knows roles and texts only; `uses_tools` has found nothing in them."""
    return [Message(role=message["role"], content=message["content"]) for message in messages]


def _message(value: Any, *, param: str) -> Mapping[str, Any]:
    message = require_object(value, param=param)
    named = require_text(message.get("role"), param=f"{param}.role")
    if named == "function":
        raise bad_request(
            f"{param}.role 'function' is not supported: send a message with the role 'tool' and its tool_call_id.",
            param=f"{param}.role",
            code="unsupported_parameter",
        )
    if named not in _ROLES:
        raise bad_request(
            f"{param}.role is '{named[:40]}', expected one of {', '.join(_ROLES)}.", param=f"{param}.role"
        )
    role = _ROLES[named]
    for name, field in message.items():
        if name in _FIELDS[role] or field is None or (name in _ECHOED and field in ([], "")):
            continue
        if name in _DROPPED.get(role, ()):
            continue
        if role != "assistant" and name in ("tool_calls", "refusal") and field == []:
            continue
        raise refused(f"{param}.{name}", f"in a message of the role '{named}'. Leave it out")
    result: dict[str, Any] = {"role": role}
    calls = _tool_calls(message.get("tool_calls"), param=f"{param}.tool_calls") if role == "assistant" else ()
    result["content"] = _content_of(message, role=role, has_calls=bool(calls), param=param)
    if message.get("name") is not None and role != "tool":
        result["name"] = require_text(message["name"], param=f"{param}.name")
    if calls:
        result["tool_calls"] = list(calls)
    if role == "tool":
        result["tool_call_id"] = require_text(message.get("tool_call_id"), param=f"{param}.tool_call_id")
    return result


def _content_of(message: Mapping[str, Any], *, role: str, has_calls: bool, param: str) -> str | None:
    value = message.get("content")
    if value is None and role == "assistant":
        if message.get("refusal") is not None:
            return require_text(message["refusal"], param=f"{param}.refusal")
        if has_calls:
            return None
    return _content(value, role=role, param=f"{param}.content")


def _content(value: Any, *, role: str, param: str) -> str:
    """Return the text of a message; a list of text parts is joined."""
    if not isinstance(value, list):
        return require_text(value, param=param)
    if not value:
        raise bad_request(f"{param} is an empty list: send a text or at least one part.", param=param)
    texts: list[str] = []
    for index, item in enumerate(value):
        at = f"{param}[{index}]"
        part = require_object(item, param=at)
        kind = part.get("type")
        if not isinstance(kind, str):
            wrong_type(f"{at}.type", "a string", kind)
        if kind not in _PART_FIELDS or (kind == "refusal" and role != "assistant"):
            raise bad_request(
                f"{at}.type is '{kind[:40]}', expected 'text': the models behind this gateway read text only.",
                param=f"{at}.type",
                code="unsupported_parameter",
            )
        texts.append(require_text(part.get(_PART_FIELDS[kind]), param=f"{at}.{_PART_FIELDS[kind]}"))
    return "".join(texts)


def _tool_calls(value: Any, *, param: str) -> tuple[Mapping[str, Any], ...]:
    if value is None:
        return ()
    return tuple(
        _tool_call(item, param=f"{param}[{index}]") for index, item in enumerate(require_list(value, param=param))
    )


def _tool_call(value: Any, *, param: str) -> Mapping[str, Any]:
    call = require_object(value, param=param)
    kind = call.get("type", "function")
    if kind != "function":
        raise bad_request(
            f"{param}.type must be 'function': custom tools are not supported.",
            param=f"{param}.type",
            code="unsupported_parameter",
        )
    function = require_object(call.get("function"), param=f"{param}.function")
    return {
        "id": require_text(call.get("id"), param=f"{param}.id"),
        "type": "function",
        "function": {
            "name": require_text(function.get("name"), param=f"{param}.function.name"),
            "arguments": require_text(function.get("arguments"), param=f"{param}.function.arguments"),
        },
    }
